"""The block layer of the emulated machine: its nodes, backends, jobs and exports."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .block_backends import Backend, Backends, Emit
from .block_exports import Exports
from .block_graph import ALL, NOTHING, BlockGraph, Node
from .block_images import change_backing
from .block_names import filename, name_node
from .block_open import ON_BACKING, Opener
from .block_reopen import reopen
from .clock import Clock
from .descriptors import Borrowed
from .jobs import Jobs
from .replies import CommandFailed
from .versions import Dialect

__all__ = ["BlockLayer"]


class BlockLayer:
    """All of a machine's block devices, and what goes on with them.

    Attributes:
        graph: the block nodes.
        backends: the block backends.
        jobs: the background jobs.
        exports: what is exported.
        attach: see :meth:`Backends.attach`.
        detach: see :meth:`Backends.detach`.
        start_devices: makes the devices of the command line, which use nodes, if need be; for
            who keeps devices to set.
        group_exists: whether there is a throttle group of that id; for who keeps objects to set.
        borrow: see :meth:`Descriptors.borrow`; for who keeps descriptors to set.
    """

    def __init__(self, dialect: Dialect, clock: Clock, emit: Emit) -> None:
        self.dialect = dialect
        self.clock = clock
        self.emit = emit
        self.graph = BlockGraph()
        self.backends = Backends(self.graph, emit, tells_path=dialect.version >= (9, 2, 0))
        self.jobs = Jobs(dialect, clock, emit)
        self.exports = Exports(self.graph, emit)
        self.attach = self.backends.attach
        self.detach = self.backends.detach
        self.group_exists: Callable[[str], bool] = lambda name: False
        self.start_devices: Callable[[], None] = lambda: None
        self.borrow: Callable[[str, int], Borrowed | None] = lambda path, flags: None
        self.opener = Opener(
            self.graph,
            lambda name: self.group_exists(name),
            lambda: self.backends.by_drive,
            lambda path, flags: self.borrow(path, flags),
        )

    def add(self, options: Mapping[str, Any]) -> Node:
        """``blockdev-add``: opens a node that the monitor owns."""
        if "node-name" not in options:
            raise CommandFailed("'node-name' must be specified for the root node")
        self.start_devices()
        node = self.opener.open(options)
        node.monitor_owned = True
        return node

    def delete(self, name: str) -> None:
        """``blockdev-del``: closes a node of the monitor's, if nothing uses it."""
        self.start_devices()
        node = self.graph.find(name)
        if node is None:
            raise CommandFailed(f"Failed to find node with node-name='{name}'")
        if node.has_backend:
            raise CommandFailed(f"Node {name} is in use")
        node.check_blockers("drive-del")
        if not node.monitor_owned:
            raise CommandFailed(f"Node {name} is not owned by the monitor")
        if node.parents:
            raise CommandFailed(f"Block device {name} is in use")
        node.monitor_owned = False
        self.close(node)

    def close(self, node: Node) -> None:
        """Closes a node if nothing uses it, and what only it used."""
        for backing in [edge.child for edge in node.children if edge.name == "backing"]:
            if not node.parents and not node.monitor_owned:
                backing.unblock(node)
        self.graph.close_unused(node)

    def set_backing(self, node: Node, backing: Node | None, name: str | None = None) -> None:
        """Gives a node another backing file, or none.

        Args:
            node: it.
            backing: the node below, from now on.
            name: what its header says of that from now on; None for that node's file name.
        """
        edge = node.child("backing")
        if edge is not None:
            edge.child.unblock(node)
            self.graph.unlink(edge)
        if backing is not None:
            node.facts.setdefault("perms", {})["backing"] = "backing"
            self.graph.link(node, backing, "backing", NOTHING, ALL)
            self.graph.refresh(node)
            backing.block(f"node is used as backing hd of '{node.name}'", node, *ON_BACKING)
        header = node.facts.get("header")
        if header is not None:
            header.backing = name if name is not None else filename(backing) if backing else ""
            header.backing_format = backing.driver if backing else ""
        name_node(node)

    def reopen(self, node: Node, options: Mapping[str, Any]) -> None:
        """Changes the options of a node; see :func:`block_reopen.reopen`."""
        reopen(self, node, options)

    def store_backing(self, node: Node) -> None:
        """Writes what a node's header says of its backing file into its image."""
        path = node.children[0].child.unfiltered.data_path if node.children else None
        if path is not None and "header" in node.facts:
            with suppress(OSError):
                # Somebody took the image away; the node lives on without it.
                change_backing(path, node.facts["header"])

    def rename(self, node: Node) -> None:
        """Finds the file name of a node anew."""
        name_node(node)

    def find(self, device: str | None, node_name: str | None) -> Node:
        """The node of a ``-drive`` or of a name; CommandFailed if there is none."""
        self.start_devices()
        backend = self.backends.by_drive.get(device) if device is not None else None
        if backend is not None:
            if backend.node is None:
                raise CommandFailed(f"Device '{device}' has no medium")
            return backend.node
        node = self.graph.find(node_name) if node_name is not None else None
        if node is None:
            raise CommandFailed(
                f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'"
            )
        return node

    def lookup(self, name: str) -> Node:
        """The node of a ``-drive`` or a node of that name."""
        return self.find(name, name)

    def uses_group(self, name: str) -> bool:
        """Whether a node is in a throttle group."""
        return any(node.options.get("throttle-group") == name for node in self.graph.nodes)

    def device_of(self, name: str) -> Backend | None:
        """The backend of the device that has a node, or a node above it, or that drive."""
        for backend in self.backends.all:
            if backend.qom_path is None or backend.node is None:
                continue
            if name in (backend.drive, *(node.name for node in backend.node.chain())):
                return backend
        return None

    def device_nodes(self) -> list[str]:
        """The names of the nodes that devices have."""
        return [
            backend.node.name
            for backend in self.backends.all
            if backend.qom_path is not None and backend.node is not None
        ]

    def injected_error(self, backend: Backend) -> int | None:
        """The number of the error that a ``blkdebug`` node below a backend injects."""
        node = backend.node
        while node is not None:
            for injected in node.options.get("inject-error", ()):
                return int(injected.get("errno", errno.EIO))
            node = node.children[0].child if node.children else None
        return None
