"""Commands about dirty bitmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..block_graph import Node
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()

_LONGEST = 1023
_DEFAULT_GRANULARITY = 1 << 16
#: The SHA-256 of a bitmap's data where nothing is dirty depends on its size: its 64-bit words.
_WORD = 64


@dataclass
class Bitmap:
    """A dirty bitmap; nothing is ever dirty in it, as no guest writes.

    Attributes:
        name: its name on its node.
        granularity: how many bytes a bit stands for.
        recording: it is enabled.
        persistent: it is kept in the image.
        busy: a job or a transaction has it.
    """

    name: str
    granularity: int
    recording: bool
    persistent: bool
    busy: bool = False

    def info(self) -> dict[str, Any]:
        """``BlockDirtyInfo``."""
        return {
            "name": self.name,
            "granularity": self.granularity,
            "count": 0,
            "recording": self.recording,
            "busy": self.busy,
            "persistent": self.persistent,
        }

    def stored(self) -> dict[str, Any]:
        """``Qcow2BitmapInfo``."""
        return {
            "name": self.name,
            "granularity": self.granularity,
            "flags": ["auto"] if self.recording else [],
        }


def _node(context: Context, name: str) -> Node:
    try:
        return context.machine.block.lookup(name)
    except CommandFailed:
        raise CommandFailed(f"Node '{name}' not found") from None


def find_bitmap(context: Context, node_name: str, name: str) -> tuple[Node, Bitmap]:
    """A bitmap and its node; CommandFailed if there is none."""
    node = _node(context, node_name)
    for bitmap in node.bitmaps:
        if bitmap.name == name:
            return node, bitmap
    raise CommandFailed(f"Dirty bitmap '{name}' not found")


def find_free_bitmap(context: Context, node_name: str, name: str) -> tuple[Node, Bitmap]:
    """A bitmap that nothing has, and its node; CommandFailed if there is none."""
    node, bitmap = find_bitmap(context, node_name, name)
    check_free(bitmap)
    return node, bitmap


def check_free(bitmap: Bitmap) -> None:
    """CommandFailed if something has the bitmap."""
    if bitmap.busy:
        raise CommandFailed(
            f"Bitmap '{bitmap.name}' is currently in use by another operation and cannot be used"
        )


def _default_granularity(node: Node) -> int:
    header = node.facts.get("header")
    if header is None:
        return _DEFAULT_GRANULARITY
    return min(max(4096, int(header.cluster_size)), _DEFAULT_GRANULARITY)


@commands.handles("block-dirty-bitmap-add")
def add(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = arguments["name"]
    if not name:
        raise CommandFailed("Bitmap name cannot be empty")
    node = context.machine.block.lookup(arguments["node"])
    granularity = arguments.get("granularity")
    if granularity is not None and (granularity < 512 or granularity & (granularity - 1)):
        raise CommandFailed("Granularity must be power of 2 and at least 512")
    persistent = arguments.get("persistent", False)
    if len(name) > _LONGEST:
        raise CommandFailed(f"Bitmap name too long: {name}")
    if persistent and "header" not in node.unfiltered.facts:
        raise CommandFailed(
            f"Can't store persistent bitmaps to {arguments['node']}: Operation not supported"
        )
    if any(bitmap.name == name for bitmap in node.bitmaps):
        raise CommandFailed(f"Bitmap already exists: {name}")
    node.bitmaps.insert(
        0,
        Bitmap(
            name,
            granularity or _default_granularity(node),
            not arguments.get("disabled", False),
            persistent,
        ),
    )
    return {}


@commands.handles("block-dirty-bitmap-remove")
def remove(context: Context, arguments: Mapping[str, Any]) -> Any:
    node, bitmap = find_free_bitmap(context, arguments["node"], arguments["name"])
    node.bitmaps.remove(bitmap)
    return {}


@commands.handles("block-dirty-bitmap-clear")
def clear(context: Context, arguments: Mapping[str, Any]) -> Any:
    find_free_bitmap(context, arguments["node"], arguments["name"])
    return {}


@commands.handles("block-dirty-bitmap-enable")
def enable(context: Context, arguments: Mapping[str, Any]) -> Any:
    find_free_bitmap(context, arguments["node"], arguments["name"])[1].recording = True
    return {}


@commands.handles("block-dirty-bitmap-disable")
def disable(context: Context, arguments: Mapping[str, Any]) -> Any:
    find_free_bitmap(context, arguments["node"], arguments["name"])[1].recording = False
    return {}


@commands.handles("block-dirty-bitmap-merge")
def merge(context: Context, arguments: Mapping[str, Any]) -> Any:
    find_free_bitmap(context, arguments["node"], arguments["target"])
    for source in arguments["bitmaps"]:
        if isinstance(source, str):
            find_free_bitmap(context, arguments["node"], source)
        else:
            find_free_bitmap(context, source["node"], source["name"])
    return {}


@commands.handles("x-debug-block-dirty-bitmap-sha256")
def checksum(context: Context, arguments: Mapping[str, Any]) -> Any:
    import hashlib

    node, bitmap = find_bitmap(context, arguments["node"], arguments["name"])
    bits = -(-node.size // bitmap.granularity)
    words = -(-bits // _WORD)
    return {"sha256": hashlib.sha256(bytes(8 * words)).hexdigest()}
