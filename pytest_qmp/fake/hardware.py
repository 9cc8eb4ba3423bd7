"""What an emulated machine is made of, as far as its command line tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .command_line import parse_keys, parse_value
from .options import Options

__all__ = ["Part", "is_pc", "memory_size", "parts", "vcpus"]

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


def parts(options: Options) -> Iterator[Part]:
    """The devices of a command line, in order, the display adapter of ``-vga`` first."""
    named = {option for option, _ in options.pairs}
    vga = next((value for option, value in options.pairs if option == "vga"), None)
    if vga is None and is_pc(options) and options.machine != "isapc":
        vga = None if named & {"nodefaults", "nographic"} else "std"
    if vga in _VGA:
        yield Part(_VGA[vga])
    for option, value in options.pairs:
        if option == "device":
            try:
                given = parse_value(value, "driver")
            except ValueError:
                continue
            heads = str(given.get("max_outputs", 1))
            yield Part(
                str(given.get("driver", "")),
                str(given.get("id", "")),
                int(heads) if heads.isdecimal() else 1,
            )


def memory_size(options: Options) -> int:
    """The bytes of main memory."""
    size = _DEFAULT_MEMORY
    for option, value in options.pairs:
        found = _SIZE.match(value) if option == "m" else None
        if found:
            size = int(found[1]) << _SHIFTS[found[2].lower()]
    return size


def vcpus(options: Options) -> int:
    """How many CPUs the machine starts with."""
    count = 0 if options.machine == "none" else 1
    for option, value in options.pairs:
        if option == "smp":
            text = parse_keys(value).get("cpus") or value.partition(",")[0]
            count = int(text) if text.isdecimal() else count
    return count
