"""What the human monitor does with QOM, drives and migration, by way of QMP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .emitter import emit
from .human_commands import Handler, HumanCommand, Monitor
from .replies import CommandFailed, NotModelled

__all__ = ["OBJECT_COMMANDS"]


def _qom_list(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if "path" not in given:
        return "/\n"
    rows = monitor.run("qom-list", path=given["path"])
    return "".join(f"{row['name']} ({row['type']})\n" for row in rows)


def _qom_get(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return emit(monitor.run("qom-get", **given), pretty=True) + "\n"


def _qom_set(monitor: Monitor, given: Mapping[str, Any]) -> str:
    try:
        value = json.loads(given["value"])
    except ValueError as error:
        raise NotModelled(f"qom-set of {given['value']!r} in the human monitor") from error
    monitor.run("qom-set", path=given["path"], property=given["property"], value=value)
    return ""


def _unknown_drive(text: str, *, always_error: bool = False) -> Handler:
    """A command of which only its refusal of a drive that is not there is modelled."""

    def handle(monitor: Monitor, given: Mapping[str, Any]) -> str:
        device = given["device"]
        drives = monitor.run("query-block")
        if any(device == one["device"] for one in drives) or (device == "all" and drives):
            raise NotModelled("changes of drives in the human monitor")
        nodes = monitor.run("query-named-block-nodes")
        if any(device == one["node-name"] for one in nodes):
            raise NotModelled("changes of block nodes in the human monitor")
        if device == "all":
            return ""
        desc = text.format(device)
        if always_error or monitor.version >= (11, 0, 0):
            raise CommandFailed(desc)
        return f"{desc}\n"

    return handle


def _change(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if given["device"] == "vnc":
        if given["target"] not in ("password", "passwd") or "arg" not in given:
            raise NotModelled("changes of VNC in the human monitor")
        monitor.run("change-vnc-password", password=given["arg"])
        return ""
    return _unknown_drive("Device '{}' not found", always_error=True)(monitor, given)


def _plainly(command: str, *names: str) -> Handler:
    """A command whose errors are printed without the word for it."""

    def handle(monitor: Monitor, given: Mapping[str, Any]) -> str:
        try:
            monitor.run(command, **{name: given[name] for name in names})
        except CommandFailed as failed:
            return f"{failed.desc}\n"
        return ""

    return handle


def _set_capability(monitor: Monitor, given: Mapping[str, Any]) -> str:
    name = given["capability"]
    wanted = {"capability": name, "state": given["state"]}
    try:
        monitor.run("migrate-set-capabilities", capabilities=[wanted])
    except CommandFailed as failed:
        if "does not accept value" not in failed.desc:
            raise
        raise CommandFailed(f"invalid parameter value: {name}") from failed
    return ""


def _log(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if given["items"] != "none":
        raise NotModelled("logs in the human monitor")
    return ""


#: By name.
OBJECT_COMMANDS: dict[str, HumanCommand] = {
    "qom-list": HumanCommand("path:s?", _qom_list),
    "qom-get": HumanCommand("path:s property:s", _qom_get),
    "qom-set": HumanCommand("path:s property:s value:S", _qom_set),
    "commit": HumanCommand("device:B", _unknown_drive("Device '{}' not found")),
    "drive_del": HumanCommand("device:B", _unknown_drive("Device '{}' not found")),
    "change": HumanCommand("device:B -f target:F arg:s? read-only-mode:s?", _change),
    "replay_break": HumanCommand("icount:i", _plainly("replay-break", "icount")),
    "replay_delete_break": HumanCommand("", _plainly("replay-delete-break")),
    "migrate_set_capability": HumanCommand("capability:s state:b", _set_capability),
    "log": HumanCommand("items:s", _log),
}
