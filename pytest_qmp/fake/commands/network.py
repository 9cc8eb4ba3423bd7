"""Commands about network backends and cards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .registry import Context, Registry

commands = Registry()


@commands.handles("netdev_add")
def netdev_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    labels = {chardev.label for chardev in context.machine.chardevs.listed()}

    def take_descriptor(name: str) -> bool:
        descriptor = context.monitor.descriptors.take(name)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    context.machine.network.add(arguments, labels, take_descriptor)
    return {}


@commands.handles("netdev_del")
def netdev_del(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    context.machine.network.remove(arguments["id"])
    return {}


@commands.handles("set_link")
def set_link(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    context.machine.network.set_link(arguments["name"], arguments["up"])
    return {}


@commands.handles("query-rx-filter")
def query_rx_filter(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    return context.machine.network.rx_filters(arguments.get("name"))
