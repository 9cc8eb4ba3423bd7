"""Commands about types and objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..facts import failed, load_types
from ..qom import ObjectTree
from ..qom_tree import Node, not_found
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()


@commands.handles("qom-list-types")
def qom_list_types(context: Context, arguments: Mapping[str, Any]) -> Any:
    types = load_types(context.dialect.name)
    ancestor = arguments.get("implements")
    return [
        entry
        for name, entry in types.all.items()
        if (arguments.get("abstract") or not entry.get("abstract"))
        and (ancestor is None or types.is_a(name, ancestor))
    ]


@commands.handles("qom-list-properties")
def qom_list_properties(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = arguments["typename"]
    types = load_types(context.dialect.name)
    if name not in types.all:
        raise CommandFailed(f"Class '{name}' not found", "DeviceNotFound")
    return _recorded(types.listed("qom-list-properties", name), name)


@commands.handles("device-list-properties")
def device_list_properties(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = arguments["typename"]
    types = load_types(context.dialect.name)
    if name not in types.all:
        if name in ("object", "interface"):
            raise CommandFailed("Parameter 'typename' expects a non-abstract device type")
        raise not_found(name)
    return _recorded(types.listed("device-list-properties", name), name)


@commands.handles("qom-list")
def qom_list(context: Context, arguments: Mapping[str, Any]) -> Any:
    tree = _tree(context)
    path = arguments["path"]
    found = tree.lookup(path)
    if isinstance(found, Node):
        return tree.properties(found)
    if found:
        raise CommandFailed(f"Path '{path}' is ambiguous")
    raise not_found(path)


@commands.handles("qom-list-get")
def qom_list_get(context: Context, arguments: Mapping[str, Any]) -> Any:
    tree = _tree(context)
    answer = []
    for path in arguments["paths"]:
        found = tree.lookup(path)
        if not isinstance(found, Node):
            if found:
                raise CommandFailed(f"Path '{path}' is ambiguous")
            raise not_found(path)
        properties = []
        for entry in tree.properties(found):
            try:
                properties.append({**entry, "value": tree.get(found, entry["name"])})
            except CommandFailed:
                properties.append(entry)
        answer.append({"properties": properties})
    return answer


@commands.handles("qom-get")
def qom_get(context: Context, arguments: Mapping[str, Any]) -> Any:
    tree = _tree(context)
    return tree.get(tree.find(arguments["path"]), arguments["property"])


@commands.handles("qom-set")
def qom_set(context: Context, arguments: Mapping[str, Any]) -> Any:
    tree = _tree(context)
    tree.set(tree.find(arguments["path"]), arguments["property"], arguments["value"])
    return {}


@commands.handles("object-add")
def object_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    objects, chardevs = context.machine.objects, context.machine.chardevs
    made = objects.add(arguments)
    netdev = arguments.get("netdev")
    filters = objects.tree.types.is_a(made.kind, "netfilter")
    if filters and netdev not in context.machine.network.netdevs:
        objects.delete(arguments["id"])
        raise CommandFailed("Parameter 'netdev' expects a network backend id")
    if "chardev" in arguments:
        try:
            chardevs.take(arguments["chardev"], f"object {arguments['id']}")
        except CommandFailed:
            objects.delete(arguments["id"])
            raise
    return {}


@commands.handles("object-del")
def object_del(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.objects.delete(arguments["id"])
    context.machine.chardevs.detach(f"object {arguments['id']}")
    return {}


def _recorded(answer: Any, name: str) -> Any:
    refused = failed(answer)
    if refused is None:
        return answer
    # What a QEMU without the module of that type says: nothing, it ends.
    if not refused[1]:
        raise not_found(name)
    raise CommandFailed(refused[1], refused[0])


def _tree(context: Context) -> ObjectTree:
    context.machine.devices.start()
    return context.machine.objects.tree
