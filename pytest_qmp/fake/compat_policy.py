"""``-compat``: what becomes of commands and members that are deprecated or unstable."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pytest_qmp.qmp.schema import ArrayType, EnumType, ObjectType

from .command_line import parse_keys
from .options import Options
from .replies import CommandFailed
from .versions import load_schema

__all__ = ["CompatPolicy", "PolicyCrash"]

_FEATURES = ("deprecated", "unstable")


class PolicyCrash(Exception):  # noqa: N818 - QEMU's end, not a fault of the fake
    """QEMU is to end at once."""


class CompatPolicy:
    """What a command line says about it.

    Args:
        options: the command line.
        version: the name of the emulated version.
    """

    def __init__(self, options: Options, version: str) -> None:
        keys: dict[str, str] = {}
        for option, value in options.pairs:
            if option == "compat":
                keys.update(parse_keys(value))
        self._inputs = {
            feature: keys[f"{feature}-input"]
            for feature in _FEATURES
            if keys.get(f"{feature}-input", "accept") != "accept"
        }
        self._hidden = {feature for feature in _FEATURES if keys.get(f"{feature}-output") == "hide"}
        self._version = version

    def check_command(self, command: str) -> None:
        """Refuses a command.

        Raises:
            CommandFailed: the policy rejects it.
            PolicyCrash: the policy is to end QEMU.
        """
        if self._inputs:
            features = load_schema(self._version).command(command).features
            self._refuse(features, "command", command, "CommandNotFound")

    def check_arguments(self, command: str, arguments: Mapping[str, Any]) -> None:
        """The same for the arguments of a command, which are of the schema's types."""
        if self._inputs:
            self._check(load_schema(self._version).command(command).arg_type, arguments)

    def shown(self, type_name: str, value: Any) -> Any:
        """A value of a type of the schema without what is hidden."""
        if not self._hidden:
            return value
        schema = load_schema(self._version)
        found = schema.type(type_name)
        if isinstance(found, ArrayType) and isinstance(value, list):
            return [self.shown(found.element_type, item) for item in value]
        if not isinstance(found, ObjectType) or not isinstance(value, dict):
            return value
        kept = dict(value)
        for member in self._members(found, value):
            if member.name in kept:
                if self._hidden & set(member.features):
                    del kept[member.name]
                else:
                    kept[member.name] = self.shown(member.type, kept[member.name])
        return kept

    def shown_schema(self) -> list[Any] | None:
        """What query-qmp-schema lists instead of all; None for all."""
        if "deprecated" not in self._hidden:
            return None
        return [
            _without_deprecated(entity)
            for entity in load_schema(self._version).entities
            if "deprecated" not in entity.get("features", ())
        ]

    def hides_event(self, name: str) -> bool:
        """Whether nobody gets to see an event."""
        schema = load_schema(self._version)
        if not self._hidden or not schema.has_event(name):
            return False
        return bool(self._hidden & set(schema.event(name).features))

    def _check(self, type_name: str, value: Any) -> None:
        found = load_schema(self._version).type(type_name)
        if isinstance(found, ArrayType) and isinstance(value, list):
            for item in value:
                self._check(found.element_type, item)
        elif isinstance(found, EnumType) and isinstance(value, str):
            features = _value_features(self._version).get((type_name, value), ())
            self._refuse(features, "value", value)
        elif isinstance(found, ObjectType) and isinstance(value, dict):
            for member in self._members(found, value):
                if member.name in value:
                    self._refuse(member.features, "parameter", member.name)
                    self._check(member.type, value[member.name])

    def _members(self, found: ObjectType, value: Mapping[str, Any]) -> list[Any]:
        members = list(found.members)
        variant = found.variants.get(value.get(found.tag, "")) if found.tag else None
        if variant is not None:
            members += self._members(load_schema(self._version).object(variant), value)
        return members

    def _refuse(
        self, features: tuple[str, ...], kind: str, name: str, error_class: str = "GenericError"
    ) -> None:
        for feature, policy in self._inputs.items():
            if feature in features:
                if policy == "crash":
                    raise PolicyCrash
                raise CommandFailed(
                    f"{feature.capitalize()} {kind} {name} disabled by policy", error_class
                )


def _without_deprecated(entity: Mapping[str, Any]) -> Mapping[str, Any]:
    if entity["meta-type"] != "object":
        return entity
    members = [one for one in entity["members"] if "deprecated" not in one.get("features", ())]
    return {**entity, "members": members}


@functools.cache
def _value_features(version: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The features of the values of enumerations, which few have."""
    return {
        (entity["name"], member["name"]): tuple(member["features"])
        for entity in load_schema(version).entities
        if entity["meta-type"] == "enum"
        for member in entity.get("members", ())
        if member.get("features")
    }
