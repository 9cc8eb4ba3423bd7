"""Commands about devices that come and go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..machine_size import memory_size
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()


@commands.handles("device_add")
def device_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.add(arguments)
    return {}


@commands.handles("device_del")
def device_del(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.remove(arguments["id"])
    return {}


@commands.handles("query-iothreads")
def query_iothreads(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.objects.iothreads()


@commands.handles("query-memdev")
def query_memdev(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.objects.memory_backends()


@commands.handles("balloon")
def balloon(context: Context, arguments: Mapping[str, Any]) -> Any:
    _check_balloon(context)
    if arguments["value"] <= 0:
        name = "value" if context.dialect.version >= (8, 0, 0) else "target"
        raise CommandFailed(f"Parameter '{name}' expects a size")
    # What comes of it is up to the guest.
    return {}


@commands.handles("query-balloon")
def query_balloon(context: Context, arguments: Mapping[str, Any]) -> Any:
    _check_balloon(context)
    return {"actual": memory_size(context.machine.options)}


def _check_balloon(context: Context) -> None:
    context.machine.devices.start()
    tree = context.machine.objects.tree
    for name in ("peripheral", "peripheral-anon"):
        for device in tree.at(f"/machine/{name}").children.values():
            if tree.types.is_a(device.kind, "virtio-balloon-pci-base"):
                return
    raise CommandFailed("No balloon device has been activated", "DeviceNotActive")
