"""The file names that QEMU makes up for block nodes: a path, or options behind ``json:``."""

from __future__ import annotations

from typing import Any

from .block_graph import Node
from .block_images import full_backing_name
from .emitter import emit

__all__ = ["filename", "full_options", "name_node"]

#: The options that change what is read, for each driver: those appear in names.
_STRONG = {
    "null-co": ("size", "read-zeroes"),
    "null-aio": ("size", "read-zeroes"),
    "raw": ("offset", "size"),
    "throttle": ("throttle-group",),
    "quorum": ("vote-threshold", "blkverify", "rewrite-corrupted"),
    "blkdebug": ("config", "align", "inject-error", "set-state"),
    "file": ("filename",),
    "host_device": ("filename",),
    "nbd": ("server", "export", "tls-creds"),
}
_SCHEMES = {"null-co": "null-co://", "null-aio": "null-aio://"}
#: Drivers that go by the name of what is below, if there is nothing else to say.
#: Drivers that always go by it.
_BORROW = frozenset({"snapshot-access", "copy-before-write", "mirror_top", "commit_top"})
_GO_BY_CHILD = frozenset({"raw", "qcow2"})


def name_node(node: Node) -> None:
    """Finds the name of a node that has just been opened."""
    node.facts["filename"] = filename(node)


def exact_name(node: Node) -> str:
    """A name that says it all, "" if there is none."""
    strong = _strong_options(node)
    if node.driver in _SCHEMES:
        return "" if strong else _SCHEMES[node.driver]
    if "path" in node.facts:
        return str(node.facts["path"])
    if node.driver in _GO_BY_CHILD and not strong and node.children:
        below = node.node("file")
        if below is not None and not _backing_is_overridden(node):
            return exact_name(below)
    if node.driver == "nbd":
        return ""
    return ""


def filename(node: Node) -> str:
    """The name of a node, as queries show it."""
    if node.driver in _BORROW and node.children:
        return filename(node.children[0].child)
    return exact_name(node) or "json:" + emit(full_options(node))


def full_options(node: Node) -> dict[str, Any]:
    """The options that would open the same again."""
    options: dict[str, Any] = {"driver": node.driver, **_strong_options(node)}
    numbered = [edge.child for edge in node.children if edge.name.startswith("children.")]
    if numbered:
        options["children"] = [full_options(child) for child in numbered]
    for edge in node.children:
        if edge.name == "backing" and not _backing_is_overridden(node):
            continue
        if not edge.name.startswith("children."):
            options[edge.name] = full_options(edge.child)
    if node.backing is None and _backing_is_overridden(node):
        options["backing"] = None
    return options


def _strong_options(node: Node) -> dict[str, Any]:
    names = _STRONG.get(node.driver, ())
    return {name: node.options[name] for name in names if name in node.options}


def _backing_is_overridden(node: Node) -> bool:
    """Whether its backing file is another than its header names."""
    header = node.facts.get("header")
    if header is None:
        return False
    if node.backing is None:
        return bool(header.backing)
    path = node.children[0].child.unfiltered.facts["path"]
    below = filename(node.backing)
    return not header.backing or full_backing_name(header, path) != below
