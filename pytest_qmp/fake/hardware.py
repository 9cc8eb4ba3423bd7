"""What an emulated machine is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .command_line import parse_keys, parse_value
from .options import Options

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Part", "is_pc", "memory_size", "open_files", "parts", "vcpus"]

_SIZE = re.compile(r"(?:size=)?(\d+)([bkmgtpe]?)", re.IGNORECASE)
_SHIFTS = {"b": 0, "k": 10, "": 20, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_DEFAULT_MEMORY = 128 << 20
_VGA = {"std": "VGA", "cirrus": "cirrus-vga", "qxl": "qxl-vga", "virtio": "virtio-vga"}


@dataclass(frozen=True)
class Part:
    """A device.

    Attributes:
        driver: its type.
        id: its name, "" for none.
        heads: how many screens it has, where it has any.
    """

    driver: str
    id: str = ""
    heads: int = 1


def is_pc(options: Options) -> bool:
    """Whether the machine type is one with a PC's chipset."""
    return options.machine not in ("none", "microvm", "x-remote")


def parts(machine: Machine) -> Iterator[Part]:
    """The devices that were plugged in, in order, the display adapter of ``-vga`` first."""
    adapter = _VGA.get(_vga_option(machine.options))
    if adapter:
        yield Part(adapter)
    machine.devices.start()
    root = machine.objects.tree.root.children.get("machine")
    for name in ("peripheral", "peripheral-anon"):
        container = root.children.get(name) if root else None
        for node in container.children.values() if container else ():
            heads = node.rows["max_outputs"].value if "max_outputs" in node.rows else 1
            yield Part(node.kind, node.name if name == "peripheral" else "", int(heads))


def _vga_option(options: Options) -> str:
    named = {option for option, _ in options.pairs}
    for option, value in options.pairs:
        if option == "vga":
            return value
    bare = not is_pc(options) or options.machine == "isapc" or named & {"nodefaults", "nographic"}
    return "none" if bare else "std"


def memory_size(options: Options) -> int:
    """The bytes of main memory."""
    size = _DEFAULT_MEMORY
    for option, value in options.pairs:
        found = _SIZE.match(value) if option == "m" else None
        if found:
            size = int(found[1]) << _SHIFTS[found[2].lower()]
    return size


def open_files(options: Options, version: tuple[int, ...]) -> int:
    """How many descriptors the objects, disks and adapters of a command line take."""
    thread = 3 if version >= (11, 0, 0) else 2
    by_object = {
        "iothread": thread, "rng-random": 1, "memory-backend-memfd": 1, "memory-backend-file": 1
    }  # fmt: skip
    count = 0
    for option, value in options.pairs:
        if option == "object":
            count += by_object.get(_first(value, "qom-type"), 0)
        elif option == "blockdev":
            count += _first(value, "driver") == "file"
        elif option in ("drive", "hda", "hdb", "cdrom"):
            count += option != "drive" or "file=" in value
        elif option == "device":
            count += _first(value, "driver") == "VGA" and version >= (10, 0, 0)
    return count


def _first(value: str, key: str) -> str:
    try:
        return str(parse_value(value, key).get(key, ""))
    except ValueError:
        return ""


def vcpus(options: Options) -> int:
    """How many CPUs the machine starts with."""
    count = 0 if options.machine == "none" else 1
    for option, value in options.pairs:
        if option == "smp":
            text = parse_keys(value).get("cpus") or value.partition(",")[0]
            count = int(text) if text.isdecimal() else count
    return count
