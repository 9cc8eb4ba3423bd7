"""What queries say about block nodes and block devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from pytest_qmp.qmp.schema import ArrayType, BuiltinType, Schema

from .block_backends import Backend
from .block_graph import Node, perm_words
from .block_images import full_backing_name
from .block_names import filename
from .versions import Dialect

__all__ = ["backend_info", "backend_stats", "graph_info", "node_info", "node_stats"]

_NO_LIMITS = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}


def image_info(dialect: Dialect, node: Node, *, flat: bool) -> dict[str, Any]:
    """``ImageInfo`` of a node; without ``flat`` with that of its backing files in it."""
    info: dict[str, Any] = {
        "filename": filename(node),
        "format": node.driver,
        "virtual-size": node.size,
    }
    used = _used_on_disk(node)
    if used is not None:
        info["actual-size"] = used
    cluster = _cluster_info(node)
    if cluster is not None:
        info.update(cluster)
        header = node.facts.get("header")
        info["dirty-flag"] = bool(header and header.dirty)
    header = node.facts.get("header")
    if header is not None:
        info["format-specific"] = {"type": node.driver, "data": _specific(node)}
        if header.backing:
            info["backing-filename"] = header.backing
            path = node.children[0].child.unfiltered.facts["path"]
            info["full-backing-filename"] = full_backing_name(header, path)
            if header.backing_format:
                info["backing-filename-format"] = header.backing_format
        if node.facts.get("snapshots"):
            info["snapshots"] = [dict(item) for item in node.facts["snapshots"]]
    elif node.driver == "file" and dialect.version >= (8, 0, 0):
        info["format-specific"] = {"type": "file", "data": {}}
    if dialect.version >= (11, 0, 0):
        info["limits"] = _limits(node)
    below = _next_in_chain(node)
    if below is not None and not flat:
        info["backing-image"] = image_info(dialect, below, flat=False)
    return info


def node_info(dialect: Dialect, node: Node, *, flat: bool = False) -> dict[str, Any]:
    """``BlockDeviceInfo`` of a node."""
    depth = 0 if flat else sum(1 for _ in _chain(node)) - 1
    info: dict[str, Any] = {
        "file": filename(node),
        "node-name": node.name,
        "ro": node.read_only,
        "drv": node.driver,
        "encrypted": False,
        "backing_file_depth": depth,
        "detect_zeroes": node.detect_zeroes,
        "write_threshold": node.write_threshold,
        "image": image_info(dialect, node, flat=flat),
        "cache": {"writeback": True, "direct": node.direct, "no-flush": node.no_flush},
        **_NO_LIMITS,
    }
    if node.backing is not None:
        info["backing_file"] = filename(node.backing)
    if dialect.version >= (10, 0, 0):
        info["active"] = not node.facts.get("inactive", False)
    if dialect.version >= (11, 0, 0):
        info["children"] = [
            {"child": edge.name, "node-name": edge.child.name} for edge in reversed(node.children)
        ]
    if node.bitmaps:
        info["dirty-bitmaps"] = [bitmap.info() for bitmap in node.bitmaps]
    return info


def backend_info(dialect: Dialect, backend: Backend) -> dict[str, Any]:
    """``BlockInfo`` of a backend."""
    info: dict[str, Any] = {
        "device": backend.drive,
        "type": "unknown",
        "removable": backend.removable or backend.qom_path is None,
        "locked": backend.locked,
    }
    if backend.qdev is not None:
        info["qdev"] = backend.qdev
        if backend.has_io_status:
            info["io-status"] = backend.io_status
    if backend.tray:
        info["tray_open"] = backend.tray_open
    if backend.node is not None:
        shown = backend.node
        while shown.implicit and shown.below is not None:
            shown = shown.below
        info["inserted"] = node_info(dialect, shown)
        if backend.throttling is not None:
            info["inserted"].update(backend.throttling)
    return info


def node_stats(schema: Schema, node: Node, *, with_backing: bool = False) -> dict[str, Any]:
    """``BlockStats`` of a node."""
    stats: dict[str, Any] = {"node-name": node.name, "stats": _no_stats(schema, accounts=False)}
    if node.driver in ("file", "host_device"):
        stats["driver-specific"] = {
            "driver": node.driver,
            "discard-nb-ok": 0,
            "discard-nb-failed": 0,
            "discard-bytes-ok": 0,
        }
    storage = [edge.child for edge in node.children if edge.name != "backing"]
    if len(storage) == 1 or node.below is not None:
        stats["parent"] = node_stats(schema, storage[0], with_backing=with_backing)
    if with_backing and _next_in_chain(node) is not None:
        below = _next_in_chain(node)
        if below is not None:
            stats["backing"] = node_stats(schema, below, with_backing=True)
    return stats


def backend_stats(schema: Schema, backend: Backend) -> dict[str, Any]:
    """``BlockStats`` of a backend."""
    stats: dict[str, Any] = {}
    node = backend.node
    if node is not None:
        while node.implicit and node.below is not None:
            node = node.below
        stats = node_stats(schema, node, with_backing=True)
    stats["device"] = backend.drive
    stats["stats"] = _no_stats(schema, accounts=True) | backend.histograms
    if backend.qdev is not None:
        stats["qdev"] = backend.qdev
    return stats


def graph_info(nodes: list[Node], backends: list[Backend]) -> dict[str, Any]:
    """``XDbgBlockGraph``: every node and backend by a number, and who uses whom."""
    numbers: dict[int, int] = {}

    def number(item: object) -> int:
        return numbers.setdefault(id(item), len(numbers) + 1)

    entries: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []

    def use(parent: int, name: str, child: Node, perm: Any, shared: Any) -> None:
        edges.insert(
            0,
            {
                "parent": parent,
                "child": number(child),
                "name": name,
                "perm": _perm_names(perm),
                "shared-perm": _perm_names(shared),
            },
        )

    for backend in backends:
        entries.insert(0, {"id": number(backend), "type": "block-backend", "name": backend.name})
        if backend.root is not None:
            root = backend.root
            use(number(backend), "root", root.child, root.perm, root.shared)
    for node in nodes:
        entries.insert(0, {"id": number(node), "type": "block-driver", "name": node.name})
        for edge in reversed(node.children):
            use(number(node), edge.name, edge.child, edge.perm, edge.shared)
    return {"nodes": entries, "edges": edges}


def _perm_names(perm: Any) -> list[str]:
    order = ("resize", "write-unchanged", "write", "consistent-read")
    have = {word.replace(" ", "-") for word in perm_words(perm)}
    return [name for name in order if name in have]


def _chain(node: Node) -> Iterator[Node]:
    following: Node | None = node
    while following is not None:
        yield following
        following = _next_in_chain(following)


def _next_in_chain(node: Node) -> Node | None:
    """The node that a filter filters or the backing file, as depths are counted."""
    return node.below or node.backing


def _used_on_disk(node: Node) -> int | None:
    path = node.data_path
    if path is not None:
        try:
            return os.stat(path).st_blocks * 512
        except OSError:
            return None
    if node.driver in ("blkdebug", "blkverify"):
        return None
    if node.children:
        used = [_used_on_disk(e.child) for e in node.children if e.name != "backing"]
        return None if None in used else sum(item or 0 for item in used)
    return 0


def _cluster_info(node: Node) -> dict[str, Any] | None:
    if node.below is not None:
        return _cluster_info(node.below)
    found: dict[str, Any] | None = node.facts.get("cluster-info")
    return found


def _specific(node: Node) -> dict[str, Any]:
    data: dict[str, Any] = dict(node.facts["header"].specific)
    stored = [bitmap.stored() for bitmap in node.bitmaps if bitmap.persistent]
    if stored:
        data["bitmaps"] = stored
    return data


def _limits(node: Node) -> dict[str, Any]:
    if node.children:
        limits = _limits(node.children[0].child)
        for key in ("discard-alignment", "write-zeroes-alignment"):
            limits.pop(key, None)
        if node.below is None:
            limits["request-alignment"] = 1
    elif "path" in node.facts:
        alignment = 512 if node.direct else 1
        limits = {"request-alignment": alignment, "min-mem-alignment": alignment}
    else:
        limits = {"request-alignment": 1, "min-mem-alignment": 512}
    if node.facts.get("probed"):
        limits["request-alignment"] = 512
    if "header" in node.facts:
        size = node.facts["header"].cluster_size
        limits |= {"discard-alignment": size, "write-zeroes-alignment": size}
    return limits | {"opt-mem-alignment": 4096, "max-iov": 1024}


def _no_stats(schema: Schema, *, accounts: bool) -> dict[str, Any]:
    """Statistics of a device that has done nothing: all that is not optional, as nothing."""
    stats: dict[str, Any] = {}
    stats_type = schema.object(_stats_type(schema))
    for member in stats_type.members:
        found = schema.type(member.type)
        if member.optional:
            continue
        if isinstance(found, ArrayType):
            stats[member.name] = []
        elif isinstance(found, BuiltinType) and found.json_type == "boolean":
            stats[member.name] = accounts
        else:
            stats[member.name] = 0
    return stats


def _stats_type(schema: Schema) -> str:
    replies = schema.type(schema.command("query-blockstats").ret_type)
    if not isinstance(replies, ArrayType):
        raise TypeError("query-blockstats returns no array in this schema")
    stats = schema.object(replies.element_type)
    return next(member.type for member in stats.members if member.name == "stats")
