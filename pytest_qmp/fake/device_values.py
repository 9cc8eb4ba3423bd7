"""The properties that ``device_add`` was given, checked one by one as QEMU does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .facts import TypeFacts
from .network import parse_mac
from .property_values import take, take_text
from .replies import CommandFailed

__all__ = ["given_values"]

#: Of every device, and not to be given.
_READ_ONLY = ("type", "parent_bus", "hotplugged", "hotpluggable")


def given_values(
    types: TypeFacts,
    driver: str,
    given: Mapping[str, Any],
    *,
    strict: bool,
    owners: Mapping[str, str],
) -> dict[str, Any]:
    """What the properties hold once they were set, in the given order.

    Args:
        types: the QOM types.
        driver: the type of the device.
        given: name to value.
        strict: JSON's types count; else all values are texts.
        owners: the type that errors name, for properties that are a part's.

    Raises:
        CommandFailed: there is no such property, or it does not take that.
    """
    known = types.properties(driver)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in _READ_ONLY:
            raise CommandFailed(f"Property '{driver}.{name}' is not writable")
        entry = known.get(name)
        if entry is None:
            raise CommandFailed(f"Property '{driver}.{name}' not found")
        full = f"{owners.get(name, driver)}.{name}"
        values[name] = _value(name, full, entry, value, strict)
    return values


def _value(name: str, full: str, entry: Mapping[str, Any], value: Any, strict: bool) -> Any:
    description = entry.get("description", "")
    if name == "addr" and description.startswith("Slot"):
        return _pci_address(full, value, strict)
    kind = entry["type"]
    if strict:
        taken = take(name, kind, value, description)
    else:
        taken = take_text(name, kind, value, description)
    if description.startswith("Ethernet"):
        mac = parse_mac(taken)
        if mac is None:
            raise CommandFailed(f"Property '{full}' doesn't take value '{taken}'")
        return mac
    return taken


def _pci_address(full: str, value: Any, strict: bool) -> int:
    if strict:
        if isinstance(value, int) and not isinstance(value, bool):
            if not -1 <= value <= 255:
                raise CommandFailed("Parameter 'addr' expects a value between -1 and 255")
            return value
        if not isinstance(value, str):
            raise CommandFailed("Invalid parameter type for 'addr', expected int or str")
    found = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]+)(?:\.([0-7]))?", value)
    slot = int(found[1], 16) if found else 32
    if found is None or slot > 31:
        raise CommandFailed(f"Property '{full}' doesn't take value '{value}'")
    return slot * 8 + int(found[2] or 0)
