"""Commands that put overlays on nodes, or keep states inside images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..block_graph import Node
from ..block_images import snapshot_info
from ..block_jobs import Create
from ..jobs import Job
from ..replies import CommandFailed
from .block_jobs import make_image, root_node
from .registry import Context, Registry

commands = Registry()

_FORMATS = frozenset({"qcow2", "raw", "qed", "qcow", "vmdk", "vdi", "vpc", "luks", "file"})


@commands.handles("blockdev-snapshot-sync")
def blockdev_snapshot_sync(context: Context, arguments: Mapping[str, Any]) -> Any:
    snapshot_sync(context, arguments)
    return {}


def snapshot_sync(context: Context, arguments: Mapping[str, Any]) -> Callable[[], None]:
    """Puts a new image on a node; returns what takes it back."""
    block = context.machine.block
    kind = arguments.get("format", "qcow2")
    node = block.find(arguments.get("device"), arguments.get("node-name"))
    name = arguments.get("snapshot-node-name")
    if "node-name" in arguments and name is None:
        raise CommandFailed("New overlay node-name missing")
    if name is not None and block.graph.find(name) is not None:
        raise CommandFailed("New overlay node-name already in use")
    node.check_blockers("external-snapshot")
    path = arguments["snapshot-file"]
    if arguments.get("mode", "absolute-paths") != "existing":
        if kind not in _FORMATS:
            raise CommandFailed(f"Unknown file format '{kind}'")
        make_image(path, kind, node.size, node.unfiltered)
    options: dict[str, Any] = {
        "driver": kind,
        "file": {"driver": "file", "filename": path},
        "backing": None,
    }
    if name is not None:
        options["node-name"] = name
    overlay = block.opener.open(options)
    return _put_on(context, node, overlay)


@commands.handles("blockdev-snapshot")
def blockdev_snapshot(context: Context, arguments: Mapping[str, Any]) -> Any:
    snapshot(context, arguments)
    return {}


def snapshot(context: Context, arguments: Mapping[str, Any]) -> Callable[[], None]:
    """Puts a node on another; returns what takes it off again."""
    block = context.machine.block
    node = block.lookup(arguments["node"])
    node.check_blockers("external-snapshot")
    overlay = block.lookup(arguments["overlay"])
    if overlay.has_backend:
        raise CommandFailed("The overlay is already in use")
    overlay.check_blockers("external-snapshot")
    if overlay.backing is not None:
        raise CommandFailed("The overlay already has a backing image")
    if "header" not in overlay.facts:
        raise CommandFailed("The overlay does not support backing images")
    return _put_on(context, node, overlay)


def _put_on(context: Context, node: Node, overlay: Node) -> Callable[[], None]:
    block = context.machine.block
    header = overlay.facts["header"]
    kept = header.backing, header.backing_format
    block.graph.replace(node, overlay)
    block.set_backing(overlay, node)
    header.backing, header.backing_format = kept
    block.rename(overlay)
    was_read_only = node.read_only
    _set_read_only(node, True)
    block.close(overlay)

    def undo() -> None:
        _set_read_only(node, was_read_only)
        if overlay in block.graph.nodes:
            block.set_backing(overlay, None)
            block.graph.replace(overlay, node)
            block.close(overlay)

    return undo


def _set_read_only(node: Node, read_only: bool) -> None:
    """A node can be written or not, and the parts that it was opened with as well."""
    node.read_only = read_only
    for edge in node.children:
        if edge.name == "file" and not edge.child.monitor_owned:
            _set_read_only(edge.child, read_only)


@commands.handles("blockdev-snapshot-internal-sync")
def blockdev_snapshot_internal_sync(context: Context, arguments: Mapping[str, Any]) -> Any:
    snapshot_internal(context, arguments)
    return {}


def snapshot_internal(context: Context, arguments: Mapping[str, Any]) -> Callable[[], None]:
    """Keeps a node's state inside its image; returns what forgets it."""
    device, name = arguments["device"], arguments["name"]
    node = root_node(context.machine.block, device)
    node.check_blockers("internal-snapshot")
    if node.read_only:
        raise CommandFailed(f"Device '{device}' is read only")
    if "snapshots" not in node.facts:
        raise CommandFailed(
            f"Block format '{node.driver}' used by device '{device}' does not support "
            "internal snapshots"
        )
    if not name:
        raise CommandFailed("Name is empty")
    if any(item["name"] == name for item in node.facts["snapshots"]):
        raise CommandFailed(f"Snapshot with name '{name}' already exists on device '{device}'")
    added = _keep(context, node, name, 0)
    return lambda: node.facts["snapshots"].remove(added)


def _keep(context: Context, node: Node, name: str, state_size: int) -> dict[str, Any]:
    kept = node.facts["snapshots"]
    ident = str(max((int(item["id"]) for item in kept), default=0) + 1)
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    clock = int(context.machine.clock.now * 10**9) if context.machine.running else 0
    added = snapshot_info(ident, name, state_size, seconds, nanoseconds, clock)
    kept.append(added)
    return added


@commands.handles("blockdev-snapshot-delete-internal-sync")
def blockdev_snapshot_delete_internal_sync(context: Context, arguments: Mapping[str, Any]) -> Any:
    device = arguments["device"]
    node = root_node(context.machine.block, device)
    node.check_blockers("internal-snapshot-delete")
    ident, name = arguments.get("id"), arguments.get("name")
    if ident is None and name is None:
        raise CommandFailed("Name or id must be provided")
    if "snapshots" not in node.facts:
        raise CommandFailed("Failed to get a snapshot list: Operation not supported")
    for item in node.facts["snapshots"]:
        if ident in (None, item["id"]) and name in (None, item["name"]):
            node.facts["snapshots"].remove(item)
            return {key: value for key, value in item.items() if key != "icount" or value != -1}
    raise CommandFailed(
        f"Snapshot with id '{ident or '(null)'}' and name '{name or '(null)'}' does not exist "
        f"on device '{device}'"
    )


@commands.handles("snapshot-save")
def snapshot_save(context: Context, arguments: Mapping[str, Any]) -> Any:
    def run() -> None:
        nodes = _snapshot_nodes(context, arguments)
        tag = arguments["tag"]
        if any(item["name"] == tag for node in nodes for item in node.facts["snapshots"] if tag):
            raise CommandFailed(f"Snapshot '{tag}' already exists in one or more devices")
        state = _vmstate_node(context, arguments, nodes)
        for node in nodes:
            _keep(context, node, tag or time.strftime("vm-%Y%m%d%H%M%S"), _STATE * (node is state))

    return _start(context, arguments, "snapshot-save", run, stops=True)


@commands.handles("snapshot-load")
def snapshot_load(context: Context, arguments: Mapping[str, Any]) -> Any:
    def run() -> None:
        nodes = _snapshot_nodes(context, arguments)
        tag = arguments["tag"]
        for node in nodes:
            if not any(item["name"] == tag for item in node.facts["snapshots"]):
                raise CommandFailed(f"Snapshot '{tag}' does not exist in one or more devices")
        _vmstate_node(context, arguments, nodes)

    return _start(context, arguments, "snapshot-load", run, stops=True)


@commands.handles("snapshot-delete")
def snapshot_delete(context: Context, arguments: Mapping[str, Any]) -> Any:
    def run() -> None:
        for node in _snapshot_nodes(context, arguments):
            kept = node.facts["snapshots"]
            kept[:] = [item for item in kept if item["name"] != arguments["tag"]]

    return _start(context, arguments, "snapshot-delete", run, stops=False)


#: The size of a machine's state, in bytes; that of a real one depends on all of its devices.
_STATE = 1 << 16


def _snapshot_nodes(context: Context, arguments: Mapping[str, Any]) -> list[Node]:
    names = arguments["devices"]
    if not names:
        raise CommandFailed("At least one device is required for snapshot")
    nodes = []
    for name in names:
        node = context.machine.block.graph.find(name)
        if node is None:
            raise CommandFailed(f"No block device node '{name}'")
        if "snapshots" not in node.facts:
            raise CommandFailed(
                f"Device '{name}' is writable but does not support snapshots"
                if not node.read_only
                else f"Device '{name}' does not support snapshots"
            )
        nodes.append(node)
    return nodes


def _vmstate_node(context: Context, arguments: Mapping[str, Any], nodes: list[Node]) -> Node:
    for node in nodes:
        if node.name == arguments["vmstate"]:
            return node
    raise CommandFailed(f"vmstate block device '{arguments['vmstate']}' does not exist")


def _start(
    context: Context, arguments: Mapping[str, Any], kind: str, run: Callable[[], None], stops: bool
) -> Any:
    machine = context.machine
    outcome: list[str] = []

    def prepare() -> None:
        """The work itself comes before the reply, what is told of it afterwards."""
        try:
            run()
        except CommandFailed as failed:
            outcome.append(failed.desc)
            return
        if stops and machine.running:
            machine.stop("save-vm" if kind == "snapshot-save" else "restore-vm")
            machine.cont()

    def finish() -> None:
        if outcome:
            raise CommandFailed(outcome[0])

    work = Create(machine.block, finish, prepare, fails_later=True)
    work.kind = kind
    jobs = machine.block.jobs
    job: Job = jobs.create(arguments["job-id"], work, {"auto-dismiss": False})
    jobs.start(job)
    return {}
