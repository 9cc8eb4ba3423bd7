"""What QEMU's schema says of ``-object`` and ``-netdev``, and its list of names of ``-device``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp.qmp.schema import EnumType, ObjectType, Schema

from .command_line import Argument, check_identifier, parse_value
from .facts import load_types
from .help import device_models
from .versions import Dialect, load_schema

__all__ = ["check_backends"]

#: The command whose arguments an option has, the key that may go without a name, and what the
#: option makes.
_OPTIONS = {
    "object": ("object-add", "qom-type", "object"),
    "netdev": ("netdev_add", "type", "netdev"),
}


def check_backends(arguments: Iterable[Argument], dialect: Dialect) -> None:
    """Raises StartFailed for the first option that can't be made, by its name and its keys.

    Args:
        arguments: the command line.
        dialect: the version.
    """
    taken: set[tuple[str, str]] = set()
    devices = []
    for argument in arguments:
        if argument.option == "device":
            devices.append(argument)
        if argument.option not in _OPTIONS or argument.value in ("help", "?"):
            continue
        command, implied, what = _OPTIONS[argument.option]
        try:
            given = parse_value(argument.value, implied)
        except ValueError:
            raise argument.failed("JSON parse error") from None
        schema = load_schema(dialect.name)
        _check_keys(argument, given, schema, schema.command(command).arg_type)
        check_identifier(argument, str(given["id"]))
        name = (what, str(given["id"]))
        if name in taken:
            raise argument.failed(f"Duplicate ID '{name[1]}' for {what}")
        taken.add(name)
    for argument in devices:
        _check_device(argument, dialect)


def _check_keys(argument: Argument, given: Mapping[str, Any], schema: Schema, name: str) -> None:
    found = schema.type(name)
    if not isinstance(found, ObjectType):
        return
    known = _check_members(argument, given, schema, found)
    variant = found.variants.get(str(given.get(found.tag or "")))
    inner = schema.type(variant) if variant else None
    if isinstance(inner, ObjectType):
        known |= _check_members(argument, given, schema, inner)
    for key in given:
        if key.partition(".")[0] not in known:
            if argument.value.startswith("{"):
                raise argument.failed(f"Parameter '{key}' is unexpected")
            raise argument.failed(f"Invalid parameter '{key}'")


def _check_members(
    argument: Argument, given: Mapping[str, Any], schema: Schema, found: ObjectType
) -> set[str]:
    heads = {key.partition(".")[0] for key in given}
    for member in found.members:
        if member.name not in heads:
            if not member.optional:
                raise argument.failed(f"Parameter '{member.name}' is missing")
            continue
        kind = schema.type(member.type)
        value = given.get(member.name)
        if isinstance(kind, EnumType) and value is not None and value not in kind.values:
            raise argument.failed(f"Parameter '{member.name}' does not accept value '{value}'")
    return {member.name for member in found.members}


def _check_device(argument: Argument, dialect: Dialect) -> None:
    try:
        driver = parse_value(argument.value, "driver").get("driver")
    except ValueError:
        raise argument.failed("JSON parse error") from None
    if driver is None:
        raise argument.failed("Parameter 'driver' is missing")
    if driver in device_models(dialect.name):
        return
    if driver not in load_types(dialect.name).all:
        raise argument.failed(f"'{driver}' is not a valid device model name")
