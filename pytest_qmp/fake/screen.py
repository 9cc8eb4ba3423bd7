"""The screens, keyboards and pointers of the emulated machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .hardware import is_pc, parts
from .picture import draw_text

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Pointer", "Screen"]

_DISPLAYS = frozenset(
    (
        *("VGA", "cirrus-vga", "vmware-svga", "qxl-vga", "qxl", "bochs-display", "ati-vga"),
        *("virtio-vga", "virtio-vga-gl", "virtio-gpu-pci", "virtio-gpu-gl-pci"),
        *("virtio-gpu-device", "secondary-vga", "ramfb", "isa-vga", "isa-cirrus-vga"),
    )
)
_POINTERS = {
    "usb-tablet": ("QEMU HID Tablet", True),
    "usb-mouse": ("QEMU HID Mouse", False),
    "virtio-tablet-pci": ("QEMU Virtio Tablet", True),
    "virtio-mouse-pci": ("QEMU Virtio Mouse", False),
    "virtio-tablet-device": ("QEMU Virtio Tablet", True),
    "virtio-mouse-device": ("QEMU Virtio Mouse", False),
}
_KEYBOARDS = frozenset(("usb-kbd", "virtio-keyboard-pci", "virtio-keyboard-device"))
_NOT_STARTED = "Guest has not initialized the display (yet)."
_ROWS, _COLUMNS = 25, 80


@dataclass
class Pointer:
    """A mouse or tablet.

    Attributes:
        index: its number.
        name: as ``query-mice`` says.
        absolute: it gives positions, not movements.
    """

    index: int
    name: str
    absolute: bool


class Screen:
    """What a machine shows, and what one can type and point with.

    Args:
        machine: whose.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._output = bytearray()
        # What takes input is numbered in the order of its coming; no number comes twice.
        self._inputs: dict[str, tuple[int, str]] = {}
        self._last_number = 2 if is_pc(machine.options) else 0

    def plug(self, path: str, kind: str) -> None:
        """A device is there; nothing happens if it takes no input."""
        if kind in _POINTERS or kind in _KEYBOARDS:
            self._last_number += 1
            self._inputs[path] = (self._last_number, kind)

    def unplug(self, path: str) -> None:
        """A device has gone."""
        self._inputs.pop(path, None)

    @property
    def has_keyboard(self) -> bool:
        """Whether keys go anywhere."""
        options = self._machine.options
        return is_pc(options) or any(part.driver in _KEYBOARDS for part in parts(self._machine))

    @property
    def pointers(self) -> list[Pointer]:
        """The mice and tablets, the one in use first."""
        self._machine.devices.start()
        found = [Pointer(2, "QEMU PS/2 Mouse", False)] if is_pc(self._machine.options) else []
        for number, kind in self._inputs.values():
            if kind in _POINTERS:
                found.append(Pointer(number, *_POINTERS[kind]))
        return found

    def heads(self, device: str) -> int | None:
        """How many screens a device has; None if there is no such device."""
        for part in parts(self._machine):
            if part.id == device:
                return part.heads if part.driver in _DISPLAYS else 0
        return None

    @property
    def is_there(self) -> bool:
        """Whether there is anything to take a picture of."""
        return any(part.driver in _DISPLAYS for part in parts(self._machine))

    def write(self, data: bytes) -> None:
        """The guest writes; what does not fit scrolls off."""
        self._output += data
        del self._output[: -_ROWS * _COLUMNS * 2]

    def picture(self, *, started: bool) -> list[bytes]:
        """The rows of dots that are seen: the latest of what the guest has written.

        Args:
            started: the guest has run.
        """
        if not started:
            return draw_text([""] * 14 + [" " * 14 + _NOT_STARTED], 640, 480)
        text = self._output.decode("ascii", "replace").replace("\r", "").expandtabs()
        lines = [
            line[start : start + _COLUMNS]
            for line in text.split("\n")
            for start in range(0, max(1, len(line)), _COLUMNS)
        ]
        return draw_text(lines[-_ROWS:], _COLUMNS * 9, _ROWS * 16)
