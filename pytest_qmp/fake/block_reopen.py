"""Changes the options of a node that is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .block_graph import ALL, NOTHING, Node
from .block_names import name_node
from .emitter import hash_ordered
from .replies import CommandFailed

if TYPE_CHECKING:
    from .block import BlockLayer

__all__ = ["reopen"]

_COMMON = ("read-only", "auto-read-only", "cache", "detect-zeroes", "discard", "force-share")
#: What drivers can change while a node is open.
_CHANGEABLE = {
    "file": {"aio", "locking", "x-check-cache-dropped", "drop-cache"},
    "raw": {"offset", "size"},
    "throttle": {"throttle-group"},
    "qcow2": {
        "lazy-refcounts",
        "overlap-check",
        "cache-size",
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
        "cache-clean-interval",
        "pass-discard-request",
        "pass-discard-snapshot",
        "pass-discard-other",
        "discard-no-unref",
    },
}


def reopen(block: BlockLayer, node: Node, options: Mapping[str, Any]) -> None:
    """Gives a node the options of ``blockdev-reopen``; those left out go back to their defaults.

    Raises:
        CommandFailed: one of them can't be changed; nothing is then.
    """
    children = {edge.name for edge in node.children}
    changeable = _CHANGEABLE.get(node.driver, set())
    for name in hash_ordered(node.options):
        if name not in options and name not in changeable and name not in children:
            raise CommandFailed(f"Option '{name}' cannot be reset to its default value")
    own = {key: value for key, value in options.items() if key not in (*_COMMON, "node-name")}
    if node.backing is not None and "backing" not in options:
        raise CommandFailed(f"backing is missing for '{node.name}'")
    moved: dict[str, Node | None] = {}
    for name in hash_ordered(own):
        value = own[name]
        if name == "driver":
            if value != node.driver:
                raise CommandFailed("Cannot change the option 'driver'")
        elif name in children or name in ("file", "backing"):
            moved.update(_moved(block, node, name, value))
        elif node.options.get(name) != value and name not in changeable:
            raise CommandFailed(f"Cannot change the option '{name}'")
    read_only = bool(options.get("read-only", False))
    if read_only and any(edge.perm & 2 for edge in node.parents):
        raise CommandFailed("Block node is read-only")
    _move(block, node, moved)
    _apply(node, options, own)
    block.graph.refresh(node)
    name_node(node)


def _moved(block: BlockLayer, node: Node, name: str, value: Any) -> dict[str, Node | None]:
    current = node.node(name)
    if isinstance(value, dict):
        # Options in place stand for the child that is there.
        return {}
    found = None if value is None else block.graph.need(value)
    if found is current:
        return {}
    if name not in ("file", "backing"):
        raise CommandFailed(f"Cannot change the option '{name}'")
    if name == "backing" and "header" not in node.facts:
        raise CommandFailed(
            f"Driver '{node.driver}' of node '{node.name}' does not support backing"
        )
    return {name: found}


def _move(block: BlockLayer, node: Node, moved: Mapping[str, Node | None]) -> None:
    for name, found in moved.items():
        if name == "backing":
            block.set_backing(node, found, node.facts["header"].backing)
            continue
        edge = node.child(name)
        if edge is None or found is None:
            continue
        place = node.children.index(edge)
        if found.read_only and not node.read_only and node.facts.get("format"):
            raise CommandFailed("Block node is read-only")
        block.graph.unlink(edge)
        fresh = block.graph.link(node, found, name, NOTHING, ALL)
        node.children.remove(fresh)
        node.children.insert(place, fresh)


def _apply(node: Node, options: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    cache = options.get("cache", {})
    node.read_only = bool(options.get("read-only", False))
    node.auto_read_only = bool(options.get("auto-read-only", False))
    node.direct = bool(cache.get("direct", False))
    node.no_flush = bool(cache.get("no-flush", False))
    node.detect_zeroes = str(options.get("detect-zeroes", "off"))
    node.options = {key: value for key, value in own.items() if key != "driver"}
