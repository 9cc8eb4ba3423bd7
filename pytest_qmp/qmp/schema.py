"""The model of a ``query-qmp-schema`` reply: what commands, events and types a QEMU has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = [
    "AlternateType",
    "ArrayType",
    "BuiltinType",
    "Command",
    "EnumType",
    "Event",
    "Member",
    "ObjectType",
    "Schema",
    "SchemaType",
]


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object; ``type`` is the name of a type of the same schema."""

    name: str
    type: str
    optional: bool = False
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltinType:
    """``str``, ``int``, ``number``, ``bool``, ``null`` or ``any``."""

    name: str
    json_type: str


@dataclass(frozen=True, slots=True)
class EnumType:
    """A string out of a fixed set."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArrayType:
    """A list whose elements are all of one type."""

    name: str
    element_type: str


@dataclass(frozen=True, slots=True)
class AlternateType:
    """A value of one of several types that differ in their JSON type."""

    name: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ObjectType:
    """An object; where ``tag`` names a member, its value adds the members of a variant."""

    name: str
    members: tuple[Member, ...]
    tag: str | None = None
    variants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A command; ``arg_type`` and ``ret_type`` are names of types of the same schema."""

    name: str
    arg_type: str
    ret_type: str
    allow_oob: bool = False
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """An event; ``arg_type`` is the name of the type of its data."""

    name: str
    arg_type: str
    features: tuple[str, ...] = ()


SchemaType: TypeAlias = BuiltinType | EnumType | ArrayType | AlternateType | ObjectType


def _features(entity: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entity.get("features", ()))


def _build_type(entity: Mapping[str, Any]) -> SchemaType:
    name, meta = entity["name"], entity["meta-type"]
    if meta == "builtin":
        return BuiltinType(name, entity["json-type"])
    if meta == "enum":
        # QEMU before 6.2 has only "values"; later ones say the same in "members".
        values = entity.get("values")
        if values is None:
            values = [member["name"] for member in entity["members"]]
        return EnumType(name, tuple(values))
    if meta == "array":
        return ArrayType(name, entity["element-type"])
    if meta == "alternate":
        return AlternateType(name, tuple(member["type"] for member in entity["members"]))
    if meta == "object":
        members = tuple(
            Member(m["name"], m["type"], "default" in m, _features(m)) for m in entity["members"]
        )
        variants = {v["case"]: v["type"] for v in entity.get("variants", ())}
        return ObjectType(name, members, entity.get("tag"), variants)
    raise LookupError(f"{name!r} is a {meta}, not a type")


class Schema:
    """What ``query-qmp-schema`` returned, with lookups by name.

    Types are built when first asked for, so that making a Schema costs next to nothing.

    Args:
        entities: the ``return`` value of ``query-qmp-schema``.
    """

    def __init__(self, entities: Sequence[Mapping[str, Any]]) -> None:
        self.entities = entities
        self._by_name: dict[str, Mapping[str, Any]] = {}
        self._types: dict[str, SchemaType] = {}
        self._commands: dict[str, Command] = {}
        self._events: dict[str, Event] = {}
        commands, events = [], []
        for entity in entities:
            name, meta = entity["name"], entity["meta-type"]
            self._by_name[name] = entity
            if meta == "command":
                commands.append(name)
            elif meta == "event":
                events.append(name)
        #: Names of all commands, in the schema's order.
        self.commands: tuple[str, ...] = tuple(commands)
        #: Names of all events, in the schema's order.
        self.events: tuple[str, ...] = tuple(events)

    def _entity(self, name: str, meta: str) -> Mapping[str, Any]:
        entity = self._by_name.get(name)
        if entity is None or entity["meta-type"] != meta:
            raise LookupError(f"the schema has no {meta} {name!r}")
        return entity

    def has_command(self, name: str) -> bool:
        """Whether there is a command of that name."""
        entity = self._by_name.get(name)
        return entity is not None and entity["meta-type"] == "command"

    def has_event(self, name: str) -> bool:
        """Whether there is an event of that name."""
        entity = self._by_name.get(name)
        return entity is not None and entity["meta-type"] == "event"

    def command(self, name: str) -> Command:
        """The command of that name; LookupError if there is none."""
        command = self._commands.get(name)
        if command is None:
            entity = self._entity(name, "command")
            command = Command(
                name,
                entity["arg-type"],
                entity["ret-type"],
                bool(entity.get("allow-oob", False)),
                _features(entity),
            )
            self._commands[name] = command
        return command

    def event(self, name: str) -> Event:
        """The event of that name; LookupError if there is none."""
        event = self._events.get(name)
        if event is None:
            entity = self._entity(name, "event")
            event = Event(name, entity["arg-type"], _features(entity))
            self._events[name] = event
        return event

    def type(self, name: str) -> SchemaType:
        """The type of that name; LookupError if there is none."""
        found = self._types.get(name)
        if found is None:
            entity = self._by_name.get(name)
            if entity is None:
                raise LookupError(f"the schema has no type {name!r}")
            found = self._types[name] = _build_type(entity)
        return found

    def object(self, name: str) -> ObjectType:
        """The object type of that name; LookupError if there is none."""
        found = self.type(name)
        if not isinstance(found, ObjectType):
            raise LookupError(f"{name!r} is not an object")
        return found

    def members(self, type_name: str) -> Iterator[Member]:
        """Every member that a value of this type can have, of all its variants.

        Arrays stand for their elements and alternates for all of their types. A name may come
        more than once.
        """
        found = self.type(type_name)
        if isinstance(found, ArrayType):
            yield from self.members(found.element_type)
        elif isinstance(found, AlternateType):
            for name in found.types:
                yield from self.members(name)
        elif isinstance(found, ObjectType):
            yield from found.members
            for name in dict.fromkeys(found.variants.values()):
                yield from self.members(name)

    def argument_names(self, command: str) -> tuple[str, ...]:
        """The names of all arguments that a command can take; LookupError for no such command."""
        members = self.members(self.command(command).arg_type)
        return tuple(dict.fromkeys(member.name for member in members))

    def supports(self, name: str, path: str = "") -> bool:
        """Whether this QEMU has a command or event, and a member of its arguments or data.

        Args:
            name: a command (``"blockdev-add"``) or an event (``"STOP"``).
            path: members from the outside in, with dots (``"file.filename"``). The last one may
                also be a value of an enum (``"driver.qcow2"``).
        """
        if self.has_command(name):
            types = {self.command(name).arg_type}
        elif self.has_event(name):
            types = {self.event(name).arg_type}
        else:
            return False
        steps = path.split(".") if path else []
        for index, step in enumerate(steps):
            found = {m.type for t in types for m in self.members(t) if m.name == step}
            if not found:
                is_last = index == len(steps) - 1
                return is_last and any(step in self._values(t) for t in types)
            types = found
        return True

    def _values(self, type_name: str) -> tuple[str, ...]:
        found = self.type(type_name)
        if isinstance(found, EnumType):
            return found.values
        if isinstance(found, ArrayType):
            return self._values(found.element_type)
        if isinstance(found, AlternateType):
            return tuple(value for name in found.types for value in self._values(name))
        return ()

    def suggest_command(self, name: str) -> list[str]:
        """Up to three commands whose names are near to ``name``, the nearest first."""
        return _near(name, self.commands)

    def suggest_event(self, name: str) -> list[str]:
        """Up to three events whose names are near to ``name``, the nearest first."""
        return _near(name.upper(), self.events)

    def suggest_argument(self, command: str, name: str) -> list[str]:
        """Up to three arguments of ``command`` with names near to ``name``, the nearest first."""
        return _near(name, self.argument_names(command))


def _near(name: str, names: Sequence[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, names, n=3)
