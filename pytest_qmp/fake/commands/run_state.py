"""Commands that start, stop, reset and end the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .registry import Context, Registry

commands = Registry()


@commands.handles("query-status")
def query_status(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine = context.machine
    status: dict[str, Any] = {"running": machine.running}
    if context.dialect.has_singlestep:
        status["singlestep"] = False
    status["status"] = machine.status
    return status


@commands.handles("stop")
def stop(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.stop()
    return {}


@commands.handles("cont")
def cont(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.cont()
    return {}


@commands.handles("system_reset")
def system_reset(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.reset(guest=False, reason="host-qmp-system-reset")
    return {}


@commands.handles("system_powerdown")
def system_powerdown(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.power_button()
    return {}


@commands.handles("system_wakeup")
def system_wakeup(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.wake_up()
    return {}


@commands.handles("quit")
def quit_(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.end("host-qmp-quit")
    return {}


@commands.handles("set-action")
def set_action(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.options.actions.update(arguments)
    return {}


@commands.handles("watchdog-set-action")
def watchdog_set_action(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.options.actions["watchdog"] = arguments["action"]
    return {}


@commands.handles("x-exit-preconfig")
def x_exit_preconfig(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.leave_preconfig()
    return {}
