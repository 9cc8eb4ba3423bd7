"""What refused arguments may have meant, read from the schema of the QEMU that refused them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_qmp.errors import QMPCommandError
from pytest_qmp.qmp.messages import QMPVersion
from pytest_qmp.qmp.schema import EnumType, Member, ObjectType, Schema

__all__ = ["SCHEMAS", "SchemaCache", "hint", "wants_schema"]

_UNEXPECTED = re.compile(r"Parameter '([^']+)' is unexpected")
_MISSING = re.compile(r"Parameter '([^']+)' is missing")
_BAD_VALUE = re.compile(r"Parameter '([^']+)' does not accept value '(.*)'", re.DOTALL)
_SHOWN = 12


class SchemaCache:
    """Schemas by the QEMU that they are of: its version, its package and its target."""

    def __init__(self) -> None:
        self._schemas: dict[tuple[QMPVersion, str], Schema] = {}

    def get(self, version: QMPVersion, target: str) -> Schema | None:
        """The schema of that QEMU, if it was asked for before in this process."""
        return self._schemas.get((version, target))

    def add(
        self, version: QMPVersion, target: str, entities: Sequence[Mapping[str, Any]]
    ) -> Schema:
        """Keeps what ``query-qmp-schema`` returned."""
        return self._schemas.setdefault((version, target), Schema(entities))


SCHEMAS = SchemaCache()  #: of every client of this process


def wants_schema(refusal: QMPCommandError) -> bool:
    """True if the schema may tell what was meant; only then is it worth being asked for."""
    return any(one.search(refusal.desc) for one in (_UNEXPECTED, _MISSING, _BAD_VALUE))


def hint(refusal: QMPCommandError, schema: Schema) -> str:
    """What may have been meant: the nearest names, and those that there are; empty if unknown."""
    command = refusal.command
    unexpected = _UNEXPECTED.search(refusal.desc)
    if unexpected is not None:
        return _about_unexpected(unexpected[1], command, schema)
    missing = _MISSING.search(refusal.desc)
    if missing is not None:
        return _about_missing(missing[1], refusal, schema)
    value = _BAD_VALUE.search(refusal.desc)
    return _about_value(value[1], value[2], command, schema) if value is not None else ""


def _about_unexpected(name: str, command: str, schema: Schema) -> str:
    members = _siblings(name, command, schema)
    known = [member.name for member in members]
    near = difflib.get_close_matches(_leaf(name), known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}{_place(name, command)} takes {_listed(known)}"


def _about_missing(name: str, refusal: QMPCommandError, schema: Schema) -> str:
    given = _given_around(name, refusal.arguments)
    slip = difflib.get_close_matches(_leaf(name), given, n=1)
    if slip:
        return f"did you mean {_leaf(name)!r} by {slip[0]!r}?"
    command = refusal.command
    needed = [
        member.name
        for kind in map(schema.type, _types_around(name, command, schema))
        for member in (kind.members if isinstance(kind, ObjectType) else ())
        if not member.optional
    ]
    # One that only a kind of a union needs is not among these: then QEMU's words are all.
    return f"{_place(name, command)} needs {_listed(needed)}" if _leaf(name) in needed else ""


def _about_value(name: str, value: str, command: str, schema: Schema) -> str:
    # QEMU names only the leaf here, so every enum under such a name is looked at.
    for member in _all_members(schema, schema.command(command).arg_type, set()):
        found = schema.type(member.type)
        if member.name == _leaf(name) and isinstance(found, EnumType):
            near = difflib.get_close_matches(value, found.values, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            return f"{meant}{name!r} takes {_listed(found.values)}"
    return ""


def _all_members(schema: Schema, type_name: str, seen: set[str]) -> list[Member]:
    if type_name in seen:
        return []
    seen.add(type_name)
    members = list(schema.members(type_name))
    return members + [
        inner for member in members for inner in _all_members(schema, member.type, seen)
    ]


def _types_around(path: str, command: str, schema: Schema) -> list[str]:
    """The types that hold the member to which ``file.filename`` or ``a[0].b`` leads."""
    types = [schema.command(command).arg_type]
    for step in re.sub(r"\[\d+\]", "", path).split(".")[:-1]:
        types = [m.type for one in types for m in schema.members(one) if m.name == step]
    return types


def _given_around(path: str, arguments: Any) -> list[str]:
    """The names that were given where the one of that path is missing."""
    for step in re.findall(r"[^.\[\]]+", path)[:-1]:
        try:
            arguments = arguments[int(step) if isinstance(arguments, list) else step]
        except (LookupError, TypeError, ValueError):
            return []
    return list(arguments) if isinstance(arguments, Mapping) else []


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _siblings(path: str, command: str, schema: Schema) -> list[Member]:
    found: dict[str, Member] = {}
    for one in _types_around(path, command, schema):
        for member in schema.members(one):
            found.setdefault(member.name, member)
    return list(found.values())


def _place(path: str, command: str) -> str:
    outer = path.rpartition(".")[0]
    return f"{outer!r} of {command!r}" if outer else repr(command)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no arguments"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
