"""Checks arguments against a schema, in QEMU's order and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from pytest_qmp.qmp.schema import (
    AlternateType,
    ArrayType,
    BuiltinType,
    EnumType,
    ObjectType,
    Schema,
)

from .emitter import hash_ordered
from .integers import LATER_COMMAND, integer_fault
from .member_order import first_in_set
from .replies import CommandFailed

__all__ = ["check_arguments", "check_value"]

#: Their arguments are properties of whatever they create: only the handler knows them.
_TAKES_ANY_ARGUMENT = frozenset({"device_add"})


def check_arguments(schema: Schema, command: str, arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of a command that the schema has.

    Raises:
        CommandFailed: QEMU would refuse them; the text is its own.
    """
    if command in _TAKES_ANY_ARGUMENT:
        return
    arg_type = schema.command(command).arg_type
    _Visitor(schema, command).visit(arg_type, arguments, "", None)


def check_value(schema: Schema, type_name: str, value: Any) -> str:
    """What keeps a value from being of a type of the schema; "" for nothing.

    It is for what QEMU sends: an integer may then have any width.
    """
    try:
        _OutputVisitor(schema, "").visit(type_name, value, "", None)
    except CommandFailed as failed:
        return failed.desc.replace("Parameter", "member").replace(
            "Invalid parameter type", "wrong type"
        )
    return ""


class _Visitor:
    """Goes through a type and a value side by side, as QEMU's input visitor does."""

    def __init__(self, schema: Schema, command: str) -> None:
        self._schema = schema
        self._command = command
        # The members of the object that is gone through now.
        self._siblings: list[str] = []

    def visit(self, type_name: str, value: Any, path: str, leaf: str | None) -> None:
        """Checks one value; ``path`` and ``leaf`` are how errors call it."""
        found = self._schema.type(type_name)
        if isinstance(found, ObjectType):
            self._object(found, value, path)
        elif isinstance(found, ArrayType):
            if not isinstance(value, list):
                _wrong_type(path, "array")
            for index, item in enumerate(value):
                self.visit(found.element_type, item, f"{path}[{index}]", None)
        elif isinstance(found, EnumType):
            if not isinstance(value, str):
                _wrong_type(path, "string")
            if value not in found.values:
                shown = "null" if leaf is None else leaf
                raise CommandFailed(f"Parameter '{shown}' does not accept value '{value}'")
        elif isinstance(found, AlternateType):
            self._alternate(found, value, path, leaf)
        else:
            self._builtin(found, value, path, leaf)

    def _object(self, found: ObjectType, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            _wrong_type(path, "object")
        known: dict[str, None] = {}
        self._members(found, value, path, known)
        unexpected = [key for key in hash_ordered(value) if key not in known]
        if unexpected:
            # The whole object went into QEMU's set, what it knows was then taken out.
            name = unexpected[0]
            if len(unexpected) > 1:
                taken_out = [key for key in known if key in value]
                name = first_in_set(hash_ordered(value), taken_out)
            raise CommandFailed(f"Parameter '{_join(path, name)}' is unexpected")

    def _members(
        self, found: ObjectType, value: dict[str, Any], path: str, known: dict[str, None]
    ) -> None:
        siblings = [member.name for member in found.members]
        for member in found.members:
            known[member.name] = None
            if member.name in value:
                self._siblings = siblings
                inner = _join(path, member.name)
                self.visit(member.type, value[member.name], inner, member.name)
            elif not member.optional:
                raise CommandFailed(f"Parameter '{_join(path, member.name)}' is missing")
        if found.tag is None or found.tag not in value:
            return
        variant = found.variants.get(value[found.tag])
        if variant is not None:
            self._members(self._schema.object(variant), value, path, known)

    def _alternate(self, found: AlternateType, value: Any, path: str, leaf: str | None) -> None:
        for name in found.types:
            if self._takes(name, value):
                self.visit(name, value, path, leaf)
                return
        _wrong_type(leaf or "", self._alternate_name(found))

    def _takes(self, type_name: str, value: Any) -> bool:
        found = self._schema.type(type_name)
        if isinstance(found, ObjectType):
            return isinstance(value, dict)
        if isinstance(found, ArrayType):
            return isinstance(value, list)
        if isinstance(found, EnumType):
            return isinstance(value, str)
        return isinstance(found, BuiltinType) and _is_builtin(found.json_type, value)

    def _alternate_name(self, found: AlternateType) -> str:
        """QEMU's name of an alternate: the schema hides it, but each has members of its own."""
        types = [self._schema.type(name) for name in found.types]
        builtins = {t.json_type for t in types if isinstance(t, BuiltinType)}
        objects = [t for t in types if isinstance(t, ObjectType)]
        if not objects:
            by_types = {
                frozenset({"string", "null"}): "StrOrNull",
                frozenset({"int", "boolean"}): "StatsValue",
            }
            return by_types.get(frozenset(builtins), "BlockExportIothreads")
        if any(isinstance(t, EnumType) for t in types):
            return "Qcow2OverlapChecks"
        if objects[0].tag is None:
            return "BlockDirtyBitmapOrStr"
        return "BlockdevRefOrNull" if "null" in builtins else "BlockdevRef"

    def _builtin(self, found: BuiltinType, value: Any, path: str, leaf: str | None) -> None:
        if found.json_type == "int":
            self._integer(value, path, leaf)
        elif not _is_builtin(found.json_type, value):
            _wrong_type(path, found.json_type)

    def _integer(self, value: Any, path: str, leaf: str | None) -> None:
        fault = integer_fault(
            self._command,
            self._siblings,
            path,
            leaf,
            value,
            is_later=self._schema.has_command(LATER_COMMAND),
        )
        if fault:
            raise CommandFailed(fault)


class _OutputVisitor(_Visitor):
    """The same for what QEMU sends."""

    def _integer(self, value: Any, path: str, leaf: str | None) -> None:
        if not _is_builtin("int", value) or not -(2**63) <= value < 2**64:
            _wrong_type(path, "integer")


def _is_builtin(json_type: str, value: Any) -> bool:
    if json_type == "string":
        return isinstance(value, str)
    if json_type == "boolean":
        return isinstance(value, bool)
    if json_type == "null":
        return value is None
    if json_type == "value":
        return True
    if isinstance(value, bool):
        return False
    return isinstance(value, int if json_type == "int" else (int, float))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong_type(path: str, expected: str) -> NoReturn:
    raise CommandFailed(f"Invalid parameter type for '{path or 'null'}', expected: {expected}")
