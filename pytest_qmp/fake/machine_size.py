"""How large a command line makes its machine: memory and CPUs."""

from __future__ import annotations

import re

from .options import Options, parse_value

__all__ = ["maximal_memory", "memory_size", "memory_slots", "topology"]

_DEFAULT_MEMORY = 128 << 20
_SHIFTS = {"": 20, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_PARTS = ("sockets", "dies", "clusters", "modules", "cores", "threads")


def memory_size(options: Options) -> int:
    """The bytes of ``-m``, or as many as QEMU has without one."""
    return _memory_key(options, "size") or _DEFAULT_MEMORY


def maximal_memory(options: Options) -> int:
    """The bytes of ``-m maxmem=``, or no more than the machine has without it."""
    return _memory_key(options, "maxmem") or memory_size(options)


def memory_slots(options: Options) -> int:
    """The number of ``-m slots=``."""
    given = [parse_value(text, "size") for option, text in options.pairs if option == "m"]
    slots = [str(keys.get("slots", "")) for keys in given]
    return max((int(text) for text in slots if text.isdecimal()), default=0)


def _memory_key(options: Options, name: str) -> int:
    size = 0
    for option, text in options.pairs:
        if option == "m":
            shown = str(parse_value(text, "size").get(name, ""))
            found = re.fullmatch(r"(\d+)([bkmgt]?)", shown, re.IGNORECASE)
            if found:
                size = int(found[1]) << _SHIFTS[found[2].lower()]
    return size


def topology(options: Options) -> dict[str, int]:
    """The numbers of ``-smp``: ``cpus``, ``maxcpus``, ``sockets``, ``cores``, ``threads`` …"""
    given: dict[str, int] = {}
    for option, text in options.pairs:
        if option == "smp":
            keys = parse_value(text, "cpus").items()
            given.update({key: int(value) for key, value in keys if str(value).isdigit()})
    parts = {name: given.get(name, 0) for name in _PARTS}
    cpus = given.get("cpus", 0)
    for name in ("dies", "clusters", "modules"):
        parts[name] = parts[name] or 1
    fixed = parts["dies"] * parts["clusters"] * parts["modules"]
    most = given.get("maxcpus", 0)
    if not cpus and not most:
        for name in ("sockets", "cores", "threads"):
            parts[name] = parts[name] or 1
        most = fixed * parts["sockets"] * parts["cores"] * parts["threads"]
    else:
        most = most or cpus
        if not parts["cores"]:
            # Cores come before sockets since QEMU 6.2.
            parts["sockets"] = parts["sockets"] or 1
            parts["threads"] = parts["threads"] or 1
            parts["cores"] = max(1, most // (fixed * parts["sockets"] * parts["threads"]))
        elif not parts["sockets"]:
            parts["threads"] = parts["threads"] or 1
            parts["sockets"] = max(1, most // (fixed * parts["cores"] * parts["threads"]))
        parts["threads"] = parts["threads"] or max(
            1, most // (fixed * parts["sockets"] * parts["cores"])
        )
    return {"cpus": cpus or most, "maxcpus": most, **parts}
