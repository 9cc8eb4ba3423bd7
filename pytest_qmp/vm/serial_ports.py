"""Which of a machine's serial ports are on its board, and which are cards."""

from __future__ import annotations

from pytest_qmp.errors import VMConfigError

__all__ = ["serial_port"]

_PC_PORTS = 4


def serial_port(arch: str, machine: str | None, number: int, chardev: str) -> list[str]:
    """The arguments of one serial port.

    A PC has four of its own, the machine ``virt`` one; more are PCI cards (16550).

    Args:
        arch: QEMU's name for the architecture.
        machine: the machine type.
        number: of the port, from 0.
        chardev: what it is connected to.

    Raises:
        VMConfigError: the machine has no place for it.

    >>> serial_port("x86_64", "q35", 3, "log"), serial_port("aarch64", "virt", 1, "log")
    (['-serial', 'chardev:log'], ['-device', 'pci-serial,chardev=log'])
    """
    kind = (machine or "").split(",")[0]
    if kind.startswith("microvm") and number:
        raise VMConfigError(
            "VMConfig.consoles: the machine microvm has one serial port; give pc or q35 for more, "
            f"or leave out {chardev!r}"
        )
    pc = arch in ("x86_64", "i386") and kind.startswith(("pc", "q35"))
    if number >= _PC_PORTS if pc else kind.startswith("virt") and number:
        return ["-device", f"pci-serial,chardev={chardev}"]
    return ["-serial", f"chardev:{chardev}"]
