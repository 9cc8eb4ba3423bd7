"""Commands about file descriptors that came over the monitor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..descriptors import SetMember
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()


@commands.handles("getfd")
def getfd(context: Context, arguments: Mapping[str, Any]) -> Any:
    passed = context.monitor.descriptors.claim()
    name = arguments["fdname"]
    if name[:1].isdigit():
        passed.close()
        raise CommandFailed("Parameter 'fdname' expects a name not starting with a digit")
    context.monitor.descriptors.name(name, passed)
    return {}


@commands.handles("closefd")
def closefd(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = arguments["fdname"]
    descriptor = context.monitor.descriptors.take(name)
    if descriptor is None:
        raise CommandFailed(f"File descriptor named '{name}' not found")
    os.close(descriptor)
    return {}


@commands.handles("add-fd")
def add_fd(context: Context, arguments: Mapping[str, Any]) -> Any:
    passed = context.monitor.descriptors.claim()
    set_id, number = context.machine.descriptors.add(
        passed, arguments.get("fdset-id"), arguments.get("opaque")
    )
    return {"fdset-id": set_id, "fd": number}


@commands.handles("remove-fd")
def remove_fd(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.descriptors.remove(
        arguments["fdset-id"], arguments.get("fd"), running=context.machine.running
    )
    return {}


@commands.handles("query-fdsets")
def query_fdsets(context: Context, arguments: Mapping[str, Any]) -> Any:
    def shown(member: SetMember) -> dict[str, Any]:
        opaque = {} if member.opaque is None else {"opaque": member.opaque}
        return {"fd": member.passed.number, **opaque}

    sets = context.machine.descriptors.sets
    return [
        {"fdset-id": set_id, "fds": [shown(member) for member in sets[set_id].members]}
        for set_id in sorted(sets, reverse=True)
    ]
