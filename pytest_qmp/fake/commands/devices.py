"""Commands about devices that come and go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()


@commands.handles("device_add")
def device_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.add(arguments)
    return {}


@commands.handles("device_del")
def device_del(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.unplug_request(arguments["id"])
    return {}


@commands.handles("device-sync-config")
def device_sync_config(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    try:
        found = context.machine.devices.find(arguments["id"])
    except CommandFailed as unknown:
        raise CommandFailed(unknown.desc) from None
    inner = found.children.get("virtio-backend", found)
    raise CommandFailed(f"device-sync-config is not supported for '{inner.kind}'")


@commands.handles("query-iothreads")
def query_iothreads(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.objects.iothreads()


@commands.handles("query-memdev")
def query_memdev(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.objects.memory_backends()
