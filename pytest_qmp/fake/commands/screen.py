"""Commands about what a machine shows, and about its keyboard and mouse."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ..command_line import first_value
from ..picture import as_png, as_ppm
from ..remote_display import read_vnc_servers
from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()

_TIMES = ("now", "never")
#: Since 1970, or from now on with a plus in front.
_SECONDS = re.compile(r"\+?\s*[+-]?\d+")


@commands.handles("screendump")
def screendump(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine = context.machine
    if "head" in arguments and "device" not in arguments:
        raise CommandFailed("'head' must be specified together with 'device'")
    if "device" in arguments:
        _check_console(context, arguments)
    elif not machine.screen.is_there and not machine.chardevs.has_text_console:
        raise CommandFailed("There is no console to take a screendump from")
    encode = as_png if arguments.get("format") == "png" else as_ppm
    path = arguments["filename"]
    started = machine.status not in ("prelaunch", "inmigrate", "preconfig")
    sets, flags = machine.descriptors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    recent = context.dialect.version >= (11, 0, 0)
    try:
        of_set = sets.copy(path, flags) if recent else sets.open(path, flags)
        with open(path if of_set is None else of_set, "wb") as picture:
            picture.write(encode(machine.screen.picture(started=started)))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "No such file or directory"
        if recent:
            raise CommandFailed(f"Could not create '{path}': {reason}") from error
        raise CommandFailed(f"failed to open file '{path}': {reason}") from error
    return {}


def _check_console(context: Context, arguments: Mapping[str, Any]) -> None:
    device, head = arguments["device"], arguments.get("head", 0)
    heads = context.machine.screen.heads(device)
    if heads is None:
        raise CommandFailed(f"Device '{device}' not found", "DeviceNotFound")
    if not 0 <= head < heads:
        raise CommandFailed(f"Device {device} (head {head}) is not bound to a QemuConsole")


@commands.handles("send-key")
def send_key(context: Context, arguments: Mapping[str, Any]) -> Any:
    return {}


@commands.handles("input-send-event")
def input_send_event(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine = context.machine
    if "device" in arguments:
        _check_console(context, arguments)
    if machine.status not in ("running", "suspended"):
        raise CommandFailed("VM not running")
    pointers = machine.screen.pointers
    taken = {
        "key": machine.screen.has_keyboard,
        "btn": bool(pointers),
        "rel": any(not pointer.absolute for pointer in pointers),
        "abs": any(pointer.absolute for pointer in pointers),
        "mtt": False,
    }
    for event in arguments["events"]:
        if not taken[event["type"]]:
            raise CommandFailed(f"Input handler not found for event type {event['type']}")
    return {}


@commands.handles("query-mice")
def query_mice(context: Context, arguments: Mapping[str, Any]) -> Any:
    pointers = context.machine.screen.pointers
    return [
        {
            "name": pointer.name,
            "index": pointer.index,
            "current": pointer is pointers[0],
            "absolute": pointer.absolute,
        }
        for pointer in reversed(pointers)
    ]


@commands.handles("query-display-options")
def query_display_options(context: Context, arguments: Mapping[str, Any]) -> Any:
    kind = None
    for option, value in context.machine.options.pairs:
        if option == "nographic":
            kind = "none"
        elif option == "display":
            kind = first_value(value, "type")
    if kind != "none":
        raise NotModelled(f"the display {kind or 'that QEMU chooses by itself'}")
    return {"type": "none"}


@commands.handles("query-spice")
def query_spice(context: Context, arguments: Mapping[str, Any]) -> Any:
    if any(option == "spice" for option, _ in context.machine.options.pairs):
        raise NotModelled("spice")
    return {"enabled": False, "migrated": False, "mouse-mode": "client"}


@commands.handles("query-vnc")
def query_vnc(context: Context, arguments: Mapping[str, Any]) -> Any:
    servers = read_vnc_servers(context.machine.options)
    if not servers or servers[0].address is None:
        return {"enabled": False}
    return {"enabled": True, **servers[0].address, "auth": servers[0].auth, "clients": []}


@commands.handles("query-vnc-servers")
def query_vnc_servers(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [
        {
            "id": server.id,
            "server": [{**server.address, "websocket": False, "auth": server.auth}]
            if server.address
            else [],
            "clients": [],
            "auth": server.auth,
        }
        for server in reversed(read_vnc_servers(context.machine.options))
    ]


@commands.handles("set_password")
def set_password(context: Context, arguments: Mapping[str, Any]) -> Any:
    _refuse_spice(arguments)
    if arguments.get("connected", "keep") != "keep":
        if context.dialect.version < (10, 0, 0):
            raise CommandFailed("Invalid parameter 'connected'")
        raise CommandFailed("parameter 'connected' must be 'keep' when 'protocol' is 'vnc'")
    return _change_password(context, arguments.get("display"))


@commands.handles("change-vnc-password")
def change_vnc_password(context: Context, arguments: Mapping[str, Any]) -> Any:
    return _change_password(context, None)


def _change_password(context: Context, display: str | None) -> dict[str, Any]:
    servers = read_vnc_servers(context.machine.options)
    found = [server for server in servers if display in (None, server.id)][:1]
    if found and found[0].auth == "vnc":
        return {}
    if context.dialect.version < (11, 0, 0):
        raise CommandFailed("Could not set password")
    if not found:
        raise CommandFailed("No VNC display is present")
    raise CommandFailed("VNC password authentication is disabled")


@commands.handles("expire_password")
def expire_password(context: Context, arguments: Mapping[str, Any]) -> Any:
    when = arguments["time"]
    known = when in _TIMES or _SECONDS.fullmatch(when)
    if context.dialect.version >= (10, 0, 0) and not known:
        raise CommandFailed(f"Parameter 'time' doesn't take value '{when}'")
    _refuse_spice(arguments)
    servers = read_vnc_servers(context.machine.options)
    display = arguments.get("display")
    if not any(display in (None, server.id) for server in servers):
        raise CommandFailed("Could not set password expire time")
    return {}


def _refuse_spice(arguments: Mapping[str, Any]) -> None:
    if arguments["protocol"] == "spice":
        raise CommandFailed("SPICE is not in use", "DeviceNotActive")


@commands.handles("display-reload")
def display_reload(context: Context, arguments: Mapping[str, Any]) -> Any:
    if arguments.get("tls-certs"):
        if read_vnc_servers(context.machine.options):
            raise CommandFailed("vnc tls is not enabled")
        raise CommandFailed("Can not find vnc display")
    return {}


@commands.handles("display-update")
def display_update(context: Context, arguments: Mapping[str, Any]) -> Any:
    if not read_vnc_servers(context.machine.options):
        raise CommandFailed("Can not find vnc display")
    return {}
