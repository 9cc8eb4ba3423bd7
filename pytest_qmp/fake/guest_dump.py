"""Dumps of the guest's memory: which memory there is, and the files that tools can open."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .hardware import is_pc, memory_size, parts

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["DumpState", "Region", "memory_map", "overlap", "write_elf"]

_BELOW_4G = 0xE0000000
_FIRMWARE = 256 << 10
_VGA_START, _VGA_END = 0xA0000, 0xC0000
_VGA = frozenset(
    ("VGA", "cirrus-vga", "qxl-vga", "virtio-vga", "isa-vga", "isa-cirrus-vga", "vmware-svga")
)
_CORE, _X86_64 = 4, 62


@dataclass
class DumpState:
    """What ``query-dump`` tells."""

    status: str = "none"
    total: int = 0
    completed: int = 0

    def shown(self) -> dict[str, int | str]:
        """As QEMU says it."""
        return {"status": self.status, "total": self.total, "completed": self.completed}


@dataclass(frozen=True)
class Region:
    """A stretch of the guest's physical memory, in bytes."""

    start: int
    size: int


def memory_map(machine: Machine) -> list[Region]:
    """What a dump takes in: main memory and the firmware's."""
    options = machine.options
    if options.machine == "none":
        return []
    memory, firmware = memory_size(options), _FIRMWARE
    if options.machine == "microvm":
        firmware = 64 << 10 if machine.dialect.version < (10, 0, 0) else 128 << 10
    low = [Region(0, min(memory, _BELOW_4G))]
    if is_pc(options) and any(part.driver in _VGA for part in parts(machine)):
        # There the adapter's own memory is seen instead.
        low = [Region(0, _VGA_START), Region(_VGA_END, min(memory, _BELOW_4G) - _VGA_END)]
    high = [Region(1 << 32, memory - _BELOW_4G)] if memory > _BELOW_4G else []
    return [*low, Region((1 << 32) - firmware, firmware), *high]


def overlap(regions: list[Region], start: int, length: int) -> list[Region]:
    """What of some regions lies in a stretch of so many bytes."""
    found = []
    for region in regions:
        first = max(start, region.start)
        last = min(start + length, region.start + region.size)
        if last > first:
            found.append(Region(first, last - first))
    return found


def write_elf(descriptor: int, regions: list[Region]) -> None:
    """Writes the core file of a guest whose memory is all zero; OSError if it can't."""
    header_size, entry_size = 64, 56
    offset = header_size + entry_size * len(regions)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH",
        *(_CORE, _X86_64, 1, 0, header_size, 0, 0, header_size, entry_size, len(regions), 0, 0, 0),
    )
    entries = b""
    for region in regions:
        place = (offset, 0, region.start, region.size, region.size, 0)
        entries += struct.pack("<IIQQQQQQ", 1, 0, *place)
        offset += region.size
    os.write(descriptor, header + entries)
    # What is not written reads as zero and takes no room.
    os.ftruncate(descriptor, offset)
