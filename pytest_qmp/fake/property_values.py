"""What the properties of devices and objects take, and in what words they refuse the rest."""

from __future__ import annotations

import re
from typing import Any

from .replies import CommandFailed

__all__ = ["as_text", "take", "take_text"]

_UNSIGNED = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "size": 64}
_SIGNED = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "int": 64}
_TEXTS = frozenset({"str", "string"})
_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})
_SUFFIXES = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}

#: What enumerations take whose descriptions don't list it.
_ENUMS = {
    "OnOffAuto": ("auto", "on", "off"),
    "OnOffSplit": ("on", "off", "split"),
    "BlockdevOnError": ("report", "ignore", "enospc", "stop", "auto"),
    "HostMemPolicy": ("default", "preferred", "bind", "interleave"),
    "LostTickPolicy": ("discard", "delay", "slew"),
    "BiosAtaTranslation": ("auto", "none", "lba", "large", "rechs"),
    "FloppyDriveType": ("144", "288", "120", "none", "auto"),
    "PCIELinkSpeed": ("2_5", "5", "8", "16", "32", "64"),
    "PCIELinkWidth": ("1", "2", "4", "8", "12", "16", "32"),
    "OffAutoPCIBAR": ("off", "auto", "bar0", "bar1", "bar2", "bar3", "bar4", "bar5"),
}


def take(name: str, kind: str, value: Any, description: str = "") -> Any:
    """The value that a property has once a JSON value was given to it.

    Args:
        name: as errors call it.
        kind: its type, in QOM's or QAPI's words.
        value: what was given.
        description: of the property; that of an enumeration may list its values.

    Raises:
        CommandFailed: it does not take that.
    """
    kind = kind.removesuffix("_t")
    if kind in _UNSIGNED:
        return _integer(name, kind, value)
    if kind in _SIGNED:
        if isinstance(value, bool) or not isinstance(value, int) or not _fits(value, True, 64):
            raise _wrong(name, "integer")
        bits = _SIGNED[kind]
        if not _fits(value, True, bits):
            raise CommandFailed(f"Parameter '{name}' expects {kind}_t")
        return value
    if kind == "bool":
        if not isinstance(value, bool):
            raise _wrong(name, "boolean")
        return value
    if kind in _TEXTS or kind.startswith("link<"):
        if not isinstance(value, str):
            raise _wrong(name, "string")
        return value
    if kind in _ENUMS or _listed(description):
        if not isinstance(value, str):
            raise _wrong(name, "string")
        if value not in (_ENUMS.get(kind) or _listed(description)):
            raise CommandFailed(f"Parameter '{name}' does not accept value '{value}'")
    return value


def take_text(name: str, kind: str, value: str, description: str = "") -> Any:
    """The same for a text, as it stands on a command line and as QEMU 7.2 takes all values."""
    kind = kind.removesuffix("_t")
    if kind == "size":
        return _size(name, value)
    if kind in _UNSIGNED or kind in _SIGNED:
        number = _number(value)
        if number is None:
            raise CommandFailed(f"Parameter '{name}' expects integer")
        if kind in _UNSIGNED:
            return _integer(name, kind, number)
        return take(name, kind, number)
    if kind == "bool":
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise CommandFailed(f"Parameter '{name}' expects 'on' or 'off'")
    return take(name, kind, value, description)


def as_text(value: Any) -> str | None:
    """The text that QEMU 7.2 makes of a value for ``device_add``; None where it drops it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value) if -(2**63) <= value < 2**64 else f"{float(value):.17g}"
    if isinstance(value, float):
        return f"{value:.17g}"
    return None


def _integer(name: str, kind: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**64:
        raise CommandFailed(f"Parameter '{name}' expects uint64")
    # QEMU takes a negative number for the large one that it stands for.
    number: int = value % 2**64
    if not _fits(number, False, _UNSIGNED[kind]):
        raise CommandFailed(f"Parameter '{name}' expects {kind}_t")
    return number


def _fits(value: int, signed: bool, bits: int) -> bool:
    least = -(1 << bits - 1) if signed else 0
    return least <= value < least + (1 << bits)


def _number(text: str) -> int | None:
    found = re.fullmatch(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)", text)
    if not found:
        return None
    digits = found[2].lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    value = int(digits, base)
    return -value if found[1] == "-" else value


def _size(name: str, text: str) -> int:
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?([bkmgtpeBKMGTPE]?)", text)
    whole = _number(text) if text[:2].lower() == "0x" else None
    if whole is not None:
        return whole
    if not found:
        raise CommandFailed(f"Parameter '{name}' expects a non-negative number below 2^64")
    number = float(f"{found[1]}.{found[2] or 0}") if found[2] else int(found[1])
    value = int(number * 2 ** _SUFFIXES[found[3].lower() or "b"])
    if value >= 2**64:
        raise CommandFailed(f"Parameter '{name}' expects a non-negative number below 2^64")
    return value


def _listed(description: str) -> tuple[str, ...]:
    """The values of an enumeration, where its description is nothing but them."""
    first = description.split(" (")[0]
    if re.fullmatch(r"[\w-]+(/[\w-]+)+", first):
        return tuple(first.split("/"))
    return ()


def _wrong(name: str, expected: str) -> CommandFailed:
    return CommandFailed(f"Invalid parameter type for '{name}', expected: {expected}")
