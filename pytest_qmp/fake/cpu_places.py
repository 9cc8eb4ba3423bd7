"""Whether a CPU can be plugged in where it is to go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .machine_size import topology
from .options import Options
from .replies import CommandFailed

__all__ = ["check_cpu_place"]

#: The levels of the topology, the widest first: the number of such parts, and the property.
_LEVELS = (
    ("sockets", "socket-id", True),
    ("dies", "die-id", False),
    ("modules", "module-id", False),
    ("cores", "core-id", True),
    ("threads", "thread-id", True),
)


def check_cpu_place(
    driver: str, values: Mapping[str, Any], options: Options, expected: str
) -> None:
    """CommandFailed if there is no such place, or it is taken.

    Args:
        driver: the type of the CPU.
        values: the properties that it was given.
        options: QEMU's command line.
        expected: the type that all CPUs of the machine have.
    """
    if driver != expected:
        raise CommandFailed(f"Invalid CPU type, expected cpu type: '{expected}'")
    size = topology(options)
    index = apic = 0
    for parts, name, needed in _LEVELS:
        number = values.get(name, -1)
        if number < 0 and needed:
            raise CommandFailed(f"CPU {name} is not set")
        number, count = max(number, 0), size[parts]
        if number >= count:
            raise CommandFailed(f"Invalid CPU {name}: {number} must be in range 0:{count - 1}")
        index = index * count + number
        # Each level has as many bits as its numbers need.
        apic = apic << (count - 1).bit_length() | number
    if index < size["cpus"]:
        raise CommandFailed(f"CPU[{index}] with APIC ID {apic} exists")
