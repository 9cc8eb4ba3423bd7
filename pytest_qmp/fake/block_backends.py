"""Block backends: what devices of the guest, and drives of the command line, have of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .block_graph import ALL, BlockGraph, Edge, Node, Perm, User
from .replies import CommandFailed

__all__ = ["Backend", "Backends", "no_device"]

Emit = Callable[[str, "Mapping[str, Any] | None"], None]

_WRITES = Perm.CONSISTENT_READ | Perm.WRITE


def no_device(name: str) -> CommandFailed:
    """The error for a device that is not there."""
    return CommandFailed(f"Device '{name}' not found", "DeviceNotFound")


@dataclass(eq=False)
class Backend:
    """What stands between a device and a node.

    Attributes:
        drive: its name, if ``-drive`` made it; "" otherwise.
        device_id: of its device; None without one.
        qom_path: of its device; None without one.
        owner_path: of the device that the user knows, where the one at ``qom_path`` is a part.
        removable: its medium can be changed.
        tray: its device has a tray.
        throttling: what ``block_set_io_throttle`` set, None for nothing.
        last_read_only: its last medium could not be written.
        io_status: ``ok``, ``failed`` or ``nospace``; None where its device has none.
    """

    drive: str = ""
    device_id: str | None = None
    qom_path: str | None = None
    owner_path: str | None = None
    removable: bool = False
    tray: bool = False
    tray_open: bool = False
    locked: bool = False
    reads_only: bool = False
    shares_write: bool = False
    grows: bool = False
    has_io_status: bool = True
    io_status: str = "ok"
    rerror: str = "auto"
    werror: str = "auto"
    root: Edge | None = None
    user: User = field(default_factory=lambda: User("", is_backend=True))
    throttling: dict[str, Any] | None = None
    last_read_only: bool = False
    histograms: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> Node | None:
        """The node that is its medium."""
        return self.root.child if self.root else None

    @property
    def qdev(self) -> str | None:
        """How queries call its device: its id or else its path."""
        return self.device_id or self.qom_path

    @property
    def name(self) -> str:
        """How errors call it."""
        return self.drive or self.qdev or ""


class Backends:
    """All block backends of a machine.

    Attributes:
        all: in the order of ``query-block``.
        has_device: whether the machine has a device of that id or path; for who keeps devices
            to set.
    """

    def __init__(self, graph: BlockGraph, emit: Emit, *, tells_path: bool = True) -> None:
        self._graph = graph
        self._tells_path = tells_path
        self._emit = emit
        self.all: list[Backend] = []
        self.has_device: Callable[[str], bool] = lambda name: False

    @property
    def by_drive(self) -> dict[str, Backend]:
        """Those of ``-drive``, by name."""
        return {backend.drive: backend for backend in self.all if backend.drive}

    def attach(
        self,
        drive: str | None,
        device_id: str | None,
        qom_path: str,
        *,
        property_name: str = "drive",
        owner_path: str | None = None,
        removable: bool = False,
        tray: bool = False,
        reads_only: bool = False,
        allows_read_only: bool = True,
        shares_write: bool = False,
        grows: bool = False,
        rerror: str = "auto",
        werror: str = "auto",
    ) -> Backend:
        """A device is plugged in that has a block backend.

        Args:
            drive: the value of its property ``drive``: the name of a node or of a ``-drive``;
                None for a device without one, such as an empty CD drive.
            device_id: its id; None if it has none, as is true of ``…/virtio-backend``.
            qom_path: its path in QOM.
            property_name: the property in errors, such as ``virtio-blk-device.drive``.
            owner_path: the path of the device that it is a part of (``virtio-blk-pci``).
            removable: its medium can be changed (CD, floppy).
            tray: it has a tray (CD).
            reads_only: it never writes (CD).
            allows_read_only: it takes a node that can't be written (not so an IDE disk).
            shares_write: its property ``share-rw`` is on.
            grows: a change of the node's size is no concern of its users (virtio-blk, scsi-hd).
            rerror: its property, or else that of ``-drive``.
            werror: its property, or else that of ``-drive``.

        Raises:
            CommandFailed: the node can't be used, in QEMU's words.
        """
        backend = self._for_drive(drive, property_name)
        if backend.qom_path is not None:
            raise CommandFailed(f"Drive '{drive}' is already in use by another device")
        node = backend.node
        if node is None and not removable:
            raise CommandFailed("Device needs media, but drive is empty")
        if node is not None and not reads_only and node.read_only and not allows_read_only:
            raise CommandFailed("Block node is read-only")
        fresh = backend not in self.all
        backend.device_id, backend.qom_path = device_id, qom_path
        backend.owner_path = owner_path
        backend.removable, backend.tray = removable, tray
        backend.reads_only = reads_only
        backend.shares_write, backend.grows = shares_write, grows
        backend.rerror = rerror if rerror != "auto" else backend.rerror
        backend.werror = werror if werror != "auto" else backend.werror
        backend.user.text = f"block device '{backend.name}'"
        try:
            if node is not None:
                self.use(backend, node)
        except CommandFailed:
            self._release(backend)
            raise
        if fresh:
            self.all.append(backend)
        return backend

    def detach(self, qom_path: str) -> None:
        """A device was unplugged; nothing happens if it had no block backend.

        Args:
            qom_path: of the device, or of the device that it was a part of.
        """
        for backend in [b for b in self.all if qom_path in (b.qom_path, b.owner_path)]:
            self._release(backend)
            # A drive goes with its device.
            self.all.remove(backend)

    def use(self, backend: Backend, node: Node) -> None:
        """Puts a node behind a backend, as its device uses it."""
        perm, shared = self._permissions(backend, node)
        if backend.root is None:
            backend.root = self._graph.link(backend.user, node, "root", perm, shared)
        else:
            self._graph.change(backend.root, perm, shared)

    def empty(self, backend: Backend) -> None:
        """Takes the node from a backend."""
        root, backend.root = backend.root, None
        if root is not None:
            backend.last_read_only = root.child.read_only
            self._graph.unlink(root)

    def find(self, device: str | None, device_id: str | None) -> Backend:
        """The backend of a command's ``device`` or ``id``; CommandFailed if there is none."""
        if (device is None) == (device_id is None):
            raise CommandFailed("Need exactly one of 'device' and 'id'")
        if device is not None:
            found = self.by_drive.get(device)
            if found is None:
                raise no_device(device)
            return found
        name = device_id or ""
        for backend in self.all:
            if name in (backend.device_id, backend.qom_path):
                return backend
        if self.has_device(name):
            raise CommandFailed("Device does not have a block device backend")
        raise no_device(name)

    def move_tray(self, backend: Backend, *, to_open: bool) -> None:
        """Opens or closes a tray, and says so."""
        backend.tray_open = to_open
        self._emit(
            "DEVICE_TRAY_MOVED",
            {"device": backend.drive, "tray-open": to_open, "id": backend.qdev or ""},
        )

    def fail(self, backend: Backend, operation: str, *, nospace: bool, reason: str) -> bool:
        """A device's read or write fails, which is told of; whether that stops the machine."""
        policy = backend.rerror if operation == "read" else backend.werror
        if policy == "auto":
            policy = "report" if operation == "read" else "enospc"
        if policy == "enospc":
            policy = "stop" if nospace else "report"
        data: dict[str, Any] = {
            "device": backend.drive,
            "operation": operation,
            "action": policy,
            "nospace": nospace,
            "reason": reason,
        }
        if backend.node is not None:
            data["node-name"] = backend.node.name
        if self._tells_path and backend.qom_path is not None:
            data["qom-path"] = backend.qom_path
        self._emit("BLOCK_IO_ERROR", data)
        if policy != "stop":
            return False
        if backend.io_status == "ok":
            backend.io_status = "nospace" if nospace else "failed"
        return True

    def recover(self) -> None:
        """The machine goes on: what failed before is forgotten."""
        for backend in self.all:
            backend.io_status = "ok"

    def _for_drive(self, drive: str | None, property_name: str) -> Backend:
        if drive is None:
            return Backend()
        found = self.by_drive.get(drive)
        if found is not None:
            return found
        node = self._graph.find(drive)
        if node is None:
            raise CommandFailed(f"Property '{property_name}' can't find value '{drive}'")
        backend = Backend()
        backend.root = self._graph.link(backend.user, node, "root", Perm(0), ALL)
        return backend

    def _release(self, backend: Backend) -> None:
        backend.device_id = backend.qom_path = backend.owner_path = None
        self.empty(backend)

    def _permissions(self, backend: Backend, node: Node) -> tuple[Perm, Perm]:
        if backend.qom_path is None:
            return Perm.CONSISTENT_READ, ALL
        writes = not backend.reads_only and not node.read_only
        perm = _WRITES if writes else Perm.CONSISTENT_READ
        shared = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED
        if backend.grows:
            shared |= Perm.RESIZE
        if backend.shares_write:
            shared |= Perm.WRITE
        return perm, shared
