"""Commands about character devices, and yank."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from ..chardev_backends import PtyBackend
from ..chardevs import Chardev, Chardevs
from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()

_BACKENDS = {
    "7.2": """testdev pty wctablet serial file memory udp parallel vc socket msmouse null
    qemu-vdagent pipe mux ringbuf stdio""",
    "10.0": """testdev serial wctablet file udp memory parallel vc socket msmouse null hub pty
    qemu-vdagent pipe mux ringbuf stdio""",
    "11.1": """testdev stdio wctablet file udp memory parallel vc socket msmouse null hub pty
    qemu-vdagent pipe mux serial ringbuf""",
}
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/=\n]")


def _chardevs(context: Context) -> Chardevs:
    # The devices of the command line use some of them.
    context.machine.devices.start()
    return context.machine.chardevs


@commands.handles("query-chardev")
def query_chardev(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [
        {
            "label": chardev.label,
            "filename": chardev.backend.filename,
            "frontend-open": chardev.is_open,
        }
        for chardev in _chardevs(context).listed()
    ]


@commands.handles("query-chardev-backends")
def query_chardev_backends(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [{"name": name} for name in _BACKENDS[context.dialect.name].split()]


@commands.handles("chardev-add")
def chardev_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = arguments["backend"]
    return _added(
        _chardevs(context).add(
            arguments["id"], backend["type"], backend["data"], context.monitor.descriptors.take
        )
    )


@commands.handles("chardev-change")
def chardev_change(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = arguments["backend"]
    return _added(
        _chardevs(context).change(
            arguments["id"], backend["type"], backend["data"], context.monitor.descriptors.take
        )
    )


def _added(chardev: Chardev) -> dict[str, Any]:
    backend = chardev.backend
    return {"pty": backend.path} if isinstance(backend, PtyBackend) else {}


@commands.handles("chardev-remove")
def chardev_remove(context: Context, arguments: Mapping[str, Any]) -> Any:
    _chardevs(context).remove(arguments["id"])
    return {}


@commands.handles("chardev-send-break")
def chardev_send_break(context: Context, arguments: Mapping[str, Any]) -> Any:
    _chardevs(context).find(arguments["id"])
    return {}


@commands.handles("ringbuf-write")
def ringbuf_write(context: Context, arguments: Mapping[str, Any]) -> Any:
    ring = _chardevs(context).ring(arguments["device"])
    text = arguments["data"]
    if arguments.get("format") == "base64":
        ring.write(_decoded(text))
    else:
        ring.write(text.encode("utf-8", "surrogatepass").partition(b"\0")[0])
    return {}


@commands.handles("ringbuf-read")
def ringbuf_read(context: Context, arguments: Mapping[str, Any]) -> Any:
    ring = _chardevs(context).ring(arguments["device"])
    if arguments["size"] <= 0:
        raise CommandFailed("size must be greater than zero")
    data = ring.read(arguments["size"])
    if arguments.get("format") == "base64":
        return base64.b64encode(data).decode()
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _decoded(text: str) -> bytes:
    """Base64 as GLib takes it: what is left over at the end counts for nothing."""
    if _NO_BASE64.search(text):
        raise CommandFailed("Base64 data contains invalid characters")
    digits = text.replace("\n", "").partition("=")[0]
    whole = len(digits) // 4 * 4
    rest = digits[whole:]
    if "=" in text and len(rest) > 1:
        rest += "=" * (4 - len(rest))
    else:
        rest = ""
    return base64.b64decode(digits[:whole] + rest)


@commands.handles("query-yank")
def query_yank(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [{"type": "chardev", "id": chardev.label} for chardev in _chardevs(context).sockets()]


@commands.handles("yank")
def yank(context: Context, arguments: Mapping[str, Any]) -> Any:
    chardevs = _chardevs(context)
    known = {chardev.label for chardev in chardevs.sockets()}
    for instance in arguments["instances"]:
        if instance["type"] != "chardev" or instance["id"] not in known:
            raise CommandFailed("Instance not found", "DeviceNotFound")
    for instance in arguments["instances"]:
        if chardevs[instance["id"]].users:
            raise NotModelled("yanking a chardev that is in use")
        chardevs.yank(instance["id"])
    return {}
