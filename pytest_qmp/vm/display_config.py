"""Which display device suits a machine."""

from __future__ import annotations

from pytest_qmp.errors import VMConfigError

__all__ = ["check_display", "display_device"]


def check_display(display: object) -> None:
    """Refuses what is no choice of a display.

    Raises:
        VMConfigError: it is neither True, False, None nor a device.
    """
    if not (display is None or isinstance(display, bool) or (isinstance(display, str) and display)):
        raise VMConfigError(
            "VMConfig.display is True for what suits the machine, or a display device such as "
            f"'VGA' or 'virtio-gpu-pci': not {display!r}"
        )


def display_device(display: bool | str | None, arch: str, machine: str | None) -> str | None:
    """The display device of a machine; None for none.

    Args:
        display: True for the one that suits the machine, or its driver.
        arch: of the machine.
        machine: its type; None: QEMU's default.

    >>> display_device(True, "x86_64", "q35"), display_device(True, "aarch64", "virt")
    ('VGA', 'virtio-gpu-pci')
    """
    if not display:
        return None
    if isinstance(display, str):
        return display
    name = (machine or "").partition(",")[0]
    if name == "microvm":
        return "virtio-gpu-device"
    if name == "isapc":
        return "isa-vga"
    if arch == "s390x":
        return "virtio-gpu-ccw"
    return "virtio-gpu-pci" if name.startswith("virt") else "VGA"
