"""Commands about exports of block nodes, and the NBD server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..block_exports import Export
from ..block_graph import Node
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()

_LONGEST_NAME = 4096
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@commands.handles("nbd-server-start")
def nbd_server_start(context: Context, arguments: Mapping[str, Any]) -> Any:
    address = arguments["addr"]
    context.machine.block.exports.start(
        {"type": address["type"], **address["data"]}, arguments.get("tls-creds")
    )
    return {}


@commands.handles("nbd-server-stop")
def nbd_server_stop(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.block.exports.stop()
    return {}


@commands.handles("nbd-server-add")
def nbd_server_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    name = arguments.get("name", arguments["device"])
    node = block.lookup(arguments["device"])
    if not block.exports.running:
        raise CommandFailed("NBD server not running")
    given = {**arguments, "type": "nbd", "id": name, "name": name}
    if "bitmap" in arguments:
        given["bitmaps"] = [arguments["bitmap"]]
    _add(context, given, node, checked=False)
    return {}


@commands.handles("nbd-server-remove")
def nbd_server_remove(context: Context, arguments: Mapping[str, Any]) -> Any:
    exports = context.machine.block.exports
    exports.remove(exports.find(arguments["name"]))
    return {}


@commands.handles("block-export-add")
def block_export_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    node_name = arguments["node-name"]
    if not _IDENTIFIER.fullmatch(arguments["id"]):
        raise CommandFailed("Invalid block export id")
    _check_id(context, arguments["id"])
    node = context.machine.block.find(None, node_name)
    _add(context, arguments, node, checked=True)
    return {}


def _check_id(context: Context, ident: str) -> None:
    if any(export.ident == ident for export in context.machine.block.exports.all):
        raise CommandFailed(f"Block export id '{ident}' is already in use")


def _add(context: Context, given: Mapping[str, Any], node: Node, *, checked: bool) -> None:
    exports = context.machine.block.exports
    if not checked:
        _check_id(context, given["id"])
    name = given.get("name", node.name)
    writable = given.get("writable", False)
    if given["type"] == "nbd":
        if not exports.running:
            raise CommandFailed("NBD server not running")
        if len(name) > _LONGEST_NAME:
            raise CommandFailed(f"export name '{name}' too long")
        if len(given.get("description", "")) > _LONGEST_NAME:
            raise CommandFailed(f"description '{given['description']}' too long")
        if any(export.kind == "nbd" and export.name == name for export in exports.all):
            raise CommandFailed(f"NBD server already has export named '{name}'")
    if writable and node.read_only:
        raise CommandFailed("Cannot export read-only node as writable")
    for bitmap in given.get("bitmaps", []):
        wanted = bitmap if isinstance(bitmap, str) else bitmap["name"]
        if not any(found.name == wanted for found in node.bitmaps):
            raise CommandFailed(f"Bitmap '{wanted}' is not found")
    exports.add(Export(given["id"], given["type"], name, writable), node)


@commands.handles("block-export-del")
def block_export_del(context: Context, arguments: Mapping[str, Any]) -> Any:
    exports = context.machine.block.exports
    exports.remove(exports.find(arguments["id"]))
    return {}


@commands.handles("query-block-exports")
def query_block_exports(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [export.info() for export in context.machine.block.exports.all]
