"""Migration in the human monitor, by way of QMP's commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .replies import CommandFailed

if TYPE_CHECKING:
    from .human_commands import Monitor

__all__ = ["migrate", "set_capability", "set_parameter", "show_capabilities"]

_SIZE = re.compile(r"(\d+)([bBkKmMgGtTpPeE]?)")
_SHIFTS = {"b": 0, "k": 10, "m": 20, "": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_NO_NUMBER = (
    "Parameter '{}' expects a non-negative number below 2^64\n"
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
    "and exabytes, respectively."
)


def migrate(monitor: Monitor, given: Mapping[str, Any]) -> str:
    """``migrate``: what it prints."""
    resume = {"resume": True} if given["-r"] else {}
    monitor.run("migrate", uri=given["uri"], **resume)
    if given["-d"] or monitor.version >= (11, 0, 0):
        return ""
    return "terminal does not allow synchronous migration, continuing detached\n"


def set_capability(monitor: Monitor, given: Mapping[str, Any]) -> str:
    """``migrate_set_capability``: what it prints."""
    known = [one["capability"] for one in monitor.run("query-migrate-capabilities")]
    if given["capability"] not in known:
        raise CommandFailed(f"invalid parameter value: {given['capability']}")
    monitor.run("migrate-set-capabilities", capabilities=[dict(given)])
    return ""


def set_parameter(monitor: Monitor, given: Mapping[str, Any]) -> str:
    """``migrate_set_parameter``: what it prints."""
    name, text = given["parameter"], given["value"]
    known = monitor.run("query-migrate-parameters")
    if name not in known:
        raise CommandFailed(f"invalid parameter value: {name}")
    is_number = type(known[name]) is int
    if is_number and not _SIZE.fullmatch(text):
        raise CommandFailed(_NO_NUMBER.format(name))
    if name.endswith("-bandwidth"):
        found = _SIZE.fullmatch(text)
        value: Any = int(found[1]) << _SHIFTS[found[2].lower()] if found else text
    elif name.startswith("tls-"):
        value = text
    else:
        value = monitor.typed("migrate-set-parameters", {name: text})[name]
    monitor.run("migrate-set-parameters", **{name: value})
    return ""


def show_capabilities(monitor: Monitor, given: Mapping[str, Any]) -> str:
    """``info migrate_capabilities``."""
    found = monitor.run("query-migrate-capabilities")
    return "".join(f"{one['capability']}: {'on' if one['state'] else 'off'}\n" for one in found)
