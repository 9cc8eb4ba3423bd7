"""Commands about the monitor itself and about what QEMU is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..emitter import Encoded
from ..monitor import version_info
from ..versions import load_schema
from .registry import Context, Registry

commands = Registry()


@commands.handles("qmp_capabilities")
def qmp_capabilities(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.monitor.negotiate(arguments.get("enable", []))
    return {}


@commands.handles("query-version")
def query_version(context: Context, arguments: Mapping[str, Any]) -> Any:
    return version_info(context.dialect)


@commands.handles("query-name")
def query_name(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = context.machine.options.name
    return {} if name is None else {"name": name}


@commands.handles("query-uuid")
def query_uuid(context: Context, arguments: Mapping[str, Any]) -> Any:
    return {"UUID": context.machine.options.uuid}


@commands.handles("query-target")
def query_target(context: Context, arguments: Mapping[str, Any]) -> Any:
    # The bundled schemas are those of this target.
    return {"arch": "x86_64"}


@commands.handles("query-commands")
def query_commands(context: Context, arguments: Mapping[str, Any]) -> Any:
    # QEMU lists the latest registered first, and registers device_add by hand after all others.
    latest_first = context.schema.commands[::-1]
    names = sorted(latest_first, key=lambda name: name != "device_add")
    return [{"name": name} for name in names]


@commands.handles("query-qmp-schema")
def query_qmp_schema(context: Context, arguments: Mapping[str, Any]) -> Any:
    shown = context.machine.policy.shown_schema()
    return _encoded_schema(context.dialect.name) if shown is None else shown


@functools.cache
def _encoded_schema(version: str) -> Encoded:
    return Encoded(load_schema(version).entities)
