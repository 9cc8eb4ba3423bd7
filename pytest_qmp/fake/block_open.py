"""Opens block nodes, each driver in its way, with QEMU's errors where it can't be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from .block_graph import ALL, NOTHING, BlockGraph, Node
from .block_images import SECTOR, Qcow2Header, file_size, full_backing_name, read_qcow2
from .block_names import name_node
from .descriptors import Borrowed
from .replies import CommandFailed

__all__ = ["Opener"]

_GIB = 1 << 30
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_FILES = frozenset({"file", "host_device", "host_cdrom"})
#: Where the child of a driver that filters is named.
_FILTERS = {
    "throttle": "file",
    "copy-on-read": "file",
    "compress": "file",
    "preallocate": "file",
    "blkdebug": "image",
    "blkreplay": "image",
    "blkverify": "raw",
    "blklogwrites": "file",
    "copy-before-write": "file",
    "replication": "file",
}
#: Formats that the fake can't read: what QEMU says of an image that has nothing of theirs.
_NOT_THIS_FORMAT = {
    "qcow": "Image not in qcow format",
    "qed": "Image not in QED format",
    "vdi": "Image not in VDI format (bad signature 00000000)",
    "vmdk": "invalid VMDK image descriptor",
    "vpc": "invalid VPC image",
    "parallels": "Image not in Parallels format",
    "luks": "Parameter 'key-secret' is required for cipher",
}
#: Drivers in modules that a distribution does not install with QEMU itself.
_IN_MODULES = frozenset({"http", "https", "ftp", "ftps", "ssh", "gluster", "iscsi", "nfs", "rbd"})
_READ_ONLY_FORMATS = frozenset({"bochs", "cloop", "dmg"})
#: What is no business of the driver itself.
_COMMON = frozenset(
    {
        "driver",
        "node-name",
        "read-only",
        "auto-read-only",
        "cache",
        "detect-zeroes",
        "discard",
        "force-share",
        "active",
    }
)


class Opener:
    """Opens nodes.

    Args:
        graph: where they go.
        group_exists: whether there is a throttle group of that name.
        backend_names: the names that ``-drive`` has taken.
        borrow: a descriptor of the set that a path names, None if it names none.
    """

    def __init__(
        self,
        graph: BlockGraph,
        group_exists: Callable[[str], bool],
        backend_names: Callable[[], Mapping[str, Any]],
        borrow: Callable[[str, int], Borrowed | None],
    ) -> None:
        self._graph = graph
        self._group_exists = group_exists
        self._backend_names = backend_names
        self._borrow = borrow

    def open(self, options: Mapping[str, Any], parent: Mapping[str, Any] | None = None) -> Node:
        """Opens a node and what it needs.

        Args:
            options: as ``blockdev-add`` takes them; a child is a name or options again.
            parent: the options of the node that it is a part of; what it has not itself of
                ``read-only`` and ``cache``, it takes from there.

        Raises:
            CommandFailed: it can't be opened; nothing is left behind.
        """
        options = _inherit(options, parent)
        known = set(map(id, self._graph.nodes))
        try:
            return self._open(options)
        except CommandFailed:
            # What was opened on the way is closed again, what is younger first.
            for node in reversed(list(self._graph.nodes)):
                if id(node) not in known:
                    self._discard(node)
            raise

    def _discard(self, node: Node) -> None:
        node.monitor_owned = False
        for edge in list(node.parents):
            self._graph.unlink(edge, keep=True)
        self._graph.close_unused(node)

    def _open(self, options: dict[str, Any]) -> Node:
        driver = options["driver"]
        if driver in _IN_MODULES:
            raise CommandFailed(f"Unknown driver '{driver}'")
        early = self._child_node(options, "file") if "file" in options else None
        if options.get("detect-zeroes") == "unmap" and options.get("discard") != "unmap":
            raise CommandFailed(
                "setting detect-zeroes to unmap is not allowed without setting discard "
                "operation to unmap"
            )
        name = options.get("node-name")
        if name is None:
            name = self._graph.generate_name()
        else:
            self._graph.check_name(name, self._backend_names())
        node = _make_node(name, driver, options)
        self._graph.add(node)
        if driver in _READ_ONLY_FORMATS and not node.read_only:
            raise CommandFailed("Image is read-only")
        if early is not None:
            how = _child_permissions(driver, options)
            self._link(node, early, "file", how)
        if driver in _FILES:
            self._open_file(node, options)
        elif driver in ("null-co", "null-aio"):
            self._open_null(node, options)
        elif driver == "raw":
            _open_raw(node, options)
        elif driver == "qcow2":
            self._open_qcow2(node, options)
        elif driver == "quorum":
            if not options["children"]:
                raise CommandFailed("Number of provided children must be 1 or more")
            if options["vote-threshold"] > len(options["children"]):
                raise CommandFailed("threshold may not exceed children count")
            for index, reference in enumerate(options["children"]):
                self._link(node, self._child(options, reference), f"children.{index}", "quorum")
            node.size = min(edge.child.size for edge in node.children)
        elif driver == "snapshot-access":
            node.size = node.children[0].child.size
        elif driver == "nbd":
            _connect(options["server"])
        elif driver in _FILTERS:
            self._open_filter(node, options)
        elif driver in _NOT_THIS_FORMAT:
            raise CommandFailed(_NOT_THIS_FORMAT[driver])
        else:
            shown = node.children[0].child.facts.get("filename", "") if node.children else ""
            raise CommandFailed(f"Could not open '{shown}': Invalid argument")
        name_node(node)
        return node

    def _child_node(self, options: Mapping[str, Any], name: str) -> Node:
        return self._child(options, options[name])

    def _child(self, options: Mapping[str, Any], reference: Any) -> Node:
        if isinstance(reference, str):
            return self._named(reference)
        return self._open(_inherit(reference, options))

    def _named(self, name: str) -> Node:
        """The node of a ``-drive``, or of that name itself."""
        backend = self._backend_names().get(name)
        found: Node | None = backend.node if backend is not None else None
        return found or self._graph.need(name)

    def _link(self, node: Node, child: Node, name: str, how: str) -> None:
        if child.facts.get("inactive") and not node.facts.get("inactive"):
            raise CommandFailed(
                f"Inactive '{child.name}' can't be a {name} child of active '{node.name}'"
            )
        node.facts.setdefault("perms", {})[name] = how
        self._graph.link(node, child, name, NOTHING, ALL)
        self._graph.refresh(node)

    def _open_file(self, node: Node, options: Mapping[str, Any]) -> None:
        filename = options["filename"]
        if not filename:
            raise CommandFailed(f"The '{node.driver}' block driver requires a file name")
        if options.get("aio") in ("native",) and not node.direct:
            raise CommandFailed(
                "aio=native was specified, but it requires cache.direct=on, which was not "
                "specified."
            )
        read_only = node.read_only or node.auto_read_only
        flags = (os.O_RDONLY if read_only else os.O_RDWR) | (_O_DIRECT if node.direct else 0)
        borrowed = self._borrow(filename, flags)
        if borrowed is not None:
            node.facts["borrowed"] = borrowed
        node.size, node.facts["file-key"] = file_size(
            filename,
            node.driver,
            read_only=read_only,
            descriptor=None if borrowed is None else borrowed.descriptor,
        )
        node.facts["path"] = filename
        node.facts["cluster-info"] = {}

    def _open_null(self, node: Node, options: Mapping[str, Any]) -> None:
        if not 0 <= options.get("latency-ns", 0) < 2**63:
            raise CommandFailed("latency-ns is invalid")
        size = options.get("size", _GIB)
        node.size = -(-size // SECTOR) * SECTOR
        node.facts["instant"] = not options.get("latency-ns")

    def _open_qcow2(self, node: Node, options: Mapping[str, Any]) -> None:
        below = node.children[0].child
        header = read_qcow2(below.unfiltered.data_path)
        if header is None:
            raise CommandFailed("Image is not in qcow2 format")
        node.size = header.size
        node.facts.update(header=header, format=True)
        node.facts["snapshots"] = header.snapshots
        node.facts["cluster-info"] = {"cluster-size": header.cluster_size}
        if "backing" in options:
            reference = options["backing"]
            if reference is None:
                return
        elif header.backing:
            reference = _backing_options(header, below.unfiltered.facts["path"])
        else:
            return
        self._open_backing(node, options, reference)

    def _open_backing(self, node: Node, options: Mapping[str, Any], reference: Any) -> None:
        try:
            if isinstance(reference, str):
                backing = self._named(reference)
            else:
                inherited = {"read-only": True, "auto-read-only": False}
                if "cache" in options:
                    inherited["cache"] = options["cache"]
                backing = self._open(_inherit(reference, inherited))
            self._link(node, backing, "backing", "backing")
        except CommandFailed as failed:
            raise CommandFailed(
                f"Could not open backing file: {failed.desc}", failed.error_class
            ) from None
        backing.block(f"node is used as backing hd of '{node.name}'", node, *ON_BACKING)

    def _open_filter(self, node: Node, options: Mapping[str, Any]) -> None:
        name = _FILTERS[node.driver]
        if node.driver == "throttle" and not self._group_exists(options["throttle-group"]):
            raise CommandFailed(f"Throttle group '{options['throttle-group']}' does not exist")
        if not node.children:
            self._link(node, self._child_node(options, name), name, "filter")
        for other in ("test", "target", "log"):
            if other in options and node.driver in _FILTERS:
                self._link(node, self._child_node(options, other), other, "filter")
        below = node.children[0].child
        node.facts.update(filter=True, instant=below.facts.get("instant", False))
        node.size = below.size
        if node.driver == "compress" and below.unfiltered.driver != "qcow2":
            raise CommandFailed(
                f"Compression is not supported for underlying format: {below.unfiltered.driver}"
            )


#: What can be done with a node that is the backing file of another.
ON_BACKING = ("commit-target", "backup-source", "backup-target", "commit-source", "stream")


def _child_permissions(driver: str, options: Mapping[str, Any]) -> str:
    if driver == "raw":
        return "data" if options.get("offset") or "size" in options else "filter"
    if driver in _FILTERS or driver == "snapshot-access":
        return "filter"
    return "format"


def _inherit(options: Mapping[str, Any], parent: Mapping[str, Any] | None) -> dict[str, Any]:
    merged = dict(options)
    for key in ("read-only", "auto-read-only", "force-share"):
        if parent and key in parent:
            merged.setdefault(key, parent[key])
    cache = {**(parent or {}).get("cache", {}), **merged.get("cache", {})}
    if cache:
        merged["cache"] = cache
    return merged


def _make_node(name: str, driver: str, options: Mapping[str, Any]) -> Node:
    cache = options.get("cache", {})
    own = {key: value for key, value in options.items() if key not in _COMMON}
    node = Node(
        name,
        driver,
        own,
        read_only=bool(options.get("read-only", False)),
        auto_read_only=bool(options.get("auto-read-only", False)),
        direct=bool(cache.get("direct", False)),
        no_flush=bool(cache.get("no-flush", False)),
        detect_zeroes=str(options.get("detect-zeroes", "off")),
    )
    node.facts["inactive"] = not options.get("active", True)
    return node


def _open_raw(node: Node, options: Mapping[str, Any]) -> None:
    below = node.children[0].child
    offset = options.get("offset", 0)
    if offset > below.size:
        raise CommandFailed(
            f"Offset ({offset}) cannot be greater than size of the containing file ({below.size})"
        )
    size = options.get("size")
    if size is not None and offset + size > below.size:
        raise CommandFailed(
            f"The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the "
            f" actual size of the containing file ({below.size})"
        )
    if size is not None and size % SECTOR:
        raise CommandFailed(f"Specified size is not multiple of {SECTOR}")
    length = size if size is not None else below.size - offset
    node.size = -(-length // SECTOR) * SECTOR
    node.facts["instant"] = below.facts.get("instant", False)
    if below.facts.get("cluster-info") is not None:
        node.facts["cluster-info"] = {}


def _backing_options(header: Qcow2Header, path: str) -> dict[str, Any]:
    """How the backing file of an image is opened, with what the header says."""
    filename = full_backing_name(header, path)
    driver = header.backing_format
    if not driver:
        driver = "qcow2" if _probes_as_qcow2(filename) else "raw"
    return {"driver": driver, "file": {"driver": "file", "filename": filename}}


def _probes_as_qcow2(filename: str) -> bool:
    try:
        return read_qcow2(filename) is not None
    except OSError:
        return False


def _connect(server: Mapping[str, Any]) -> None:
    """Fails as QEMU does where no NBD server is; the fake talks to none that is there."""
    unix = server["type"] == "unix"
    shown = server["path"] if unix else f"{server['host']}:{server['port']}"
    try:
        if unix:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(server["path"])
        else:
            socket.create_connection((server["host"], int(server["port"])), 5.0).close()
    except (OSError, ValueError) as error:
        reason = os.strerror(getattr(error, "errno", None) or 22)
        raise CommandFailed(f"Failed to connect to '{shown}': {reason}") from None
    raise CommandFailed(f"pytest-qmp's fake QEMU is no NBD client (of '{shown}')")
