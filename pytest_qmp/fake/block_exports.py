"""Exports of block nodes; the NBD server's socket is there, but nothing is served on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .block_backends import Emit
from .block_graph import ALL, BlockGraph, Edge, Node, Perm, User
from .replies import CommandFailed

__all__ = ["Export", "Exports"]


@dataclass
class Export:
    """An export of a node.

    Attributes:
        ident: its id.
        kind: its type, such as ``nbd``.
        name: the name that clients ask for.
        writable: clients may write.
    """

    ident: str
    kind: str
    name: str
    writable: bool
    edge: Edge | None = None

    def info(self) -> dict[str, Any]:
        """``BlockExportInfo``."""
        return {
            "id": self.ident,
            "type": self.kind,
            "node-name": self.edge.child.name if self.edge else "",
            "shutting-down": False,
        }


class Exports:
    """All exports of a machine.

    Attributes:
        all: newest first.
    """

    def __init__(self, graph: BlockGraph, emit: Emit) -> None:
        self._graph = graph
        self._emit = emit
        self._listener: socket.socket | None = None
        self._path: str | None = None
        self.all: list[Export] = []

    @property
    def running(self) -> bool:
        """Whether the NBD server runs."""
        return self._listener is not None

    def start(self, address: Mapping[str, Any], tls: str | None) -> None:
        """Starts the NBD server at an address, flat as in QAPI; CommandFailed if it can't be."""
        if self.running:
            raise CommandFailed("NBD server already running")
        if tls is not None:
            raise CommandFailed(f"No TLS credentials with id '{tls}'")
        if address["type"] == "unix":
            self._listener = _listen_unix(address["path"])
            self._path = address["path"]
        elif address["type"] == "inet":
            self._listener = _listen_inet(address["host"], address["port"])
        else:
            raise CommandFailed(f"pytest-qmp's fake has no NBD server on {address['type']}")

    def stop(self) -> None:
        """Stops the NBD server and ends its exports; CommandFailed if it doesn't run."""
        if not self.running:
            raise CommandFailed("NBD server not running")
        for export in [export for export in self.all if export.kind == "nbd"]:
            self.remove(export)
        self.close()

    def close(self) -> None:
        """Gives back the server's socket; it is safe to call again."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        path, self._path = self._path, None
        if path is not None:
            with suppress(OSError):
                os.unlink(path)

    def add(self, export: Export, node: Node) -> None:
        """Exports a node; CommandFailed if it can't be used like that."""
        perm = Perm.CONSISTENT_READ | (Perm.WRITE if export.writable else Perm(0))
        user = User("an unnamed block device", is_backend=True)
        export.edge = self._graph.link(user, node, "root", perm, ALL & ~Perm.RESIZE)
        self.all.insert(0, export)

    def find(self, ident: str) -> Export:
        """The export of that id; CommandFailed if there is none."""
        for export in self.all:
            if export.ident == ident:
                return export
        raise CommandFailed(f"Export '{ident}' is not found")

    def remove(self, export: Export) -> None:
        """Ends an export, and says so."""
        self.all.remove(export)
        if export.edge is not None:
            self._graph.unlink(export.edge)
        self._emit("BLOCK_EXPORT_DELETED", {"id": export.ident})


def _listen_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        listener.listen()
    except OSError as error:
        listener.close()
        raise CommandFailed(
            f"Failed to bind socket to {path}: {os.strerror(error.errno or 0)}"
        ) from None
    return listener


def _listen_inet(host: str, port: str) -> socket.socket:
    try:
        return socket.create_server((host or "127.0.0.1", int(port)))
    except (OSError, ValueError) as error:
        reason = os.strerror(getattr(error, "errno", None) or 22)
        raise CommandFailed(f"Failed to find an available port: {reason}") from None
