"""Commands that start jobs on block nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..block import BlockLayer
from ..block_graph import Node
from ..block_images import create_file, create_qcow2, full_backing_name
from ..block_jobs import Backup, Commit, Mirror, Stream, allocated
from ..block_names import filename
from ..jobs import Job
from ..replies import CommandFailed
from .bitmaps import check_free
from .registry import Context, Registry

commands = Registry()

#: Drivers that make no images.
_UNCREATABLE = frozenset({"null-co", "null-aio", "throttle", "copy-on-read", "blkdebug", "quorum"})


def root_node(block: BlockLayer, name: str) -> Node:
    """The node of a drive or name, as long as only devices and the like use it."""
    node = block.lookup(name)
    if any(edge.name != "root" for edge in node.parents):
        raise CommandFailed("Need a root block node")
    return node


def _job_id(block: BlockLayer, arguments: Mapping[str, Any], device: str) -> str:
    """The id that a job gets: its own, or else the name of the drive that it is for."""
    default = device if device in block.backends.by_drive else ""
    ident: str = arguments.get("job-id", default)
    return ident


@commands.handles("blockdev-backup")
def blockdev_backup(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    source = block.lookup(arguments["device"])
    target = block.lookup(arguments["target"])
    start_backup(context, arguments, source, target)
    return {}


@commands.handles("drive-backup")
def drive_backup(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    source = root_node(block, arguments["device"])
    target = _open_target(block, arguments, source)
    try:
        start_backup(context, arguments, source, target)
    finally:
        block.close(target)
    return {}


def start_backup(context: Context, arguments: Mapping[str, Any], source: Node, target: Node) -> Job:
    """Starts a backup, for a command or an action of a transaction."""
    block = context.machine.block
    sync = arguments["sync"]
    bitmap = None
    if "bitmap" in arguments:
        bitmap = next((one for one in source.bitmaps if one.name == arguments["bitmap"]), None)
        if bitmap is None:
            raise CommandFailed(f"Bitmap '{arguments['bitmap']}' could not be found")
        _check_bitmap_mode(arguments.get("bitmap-mode"), sync)
        check_free(bitmap)
    elif sync in ("bitmap", "incremental"):
        raise CommandFailed(f"must provide a valid bitmap name for '{sync}' sync mode")
    block.jobs.pulse(2 if context.dialect.version < (11, 0, 0) else 3)
    if source is target:
        raise CommandFailed("Source and target cannot be the same")
    source.check_blockers("backup-source")
    target.check_blockers("backup-target")
    if source.size != target.size:
        raise CommandFailed("Source and target image have different sizes")
    ident = _job_id(block, arguments, arguments["device"])
    block.jobs.check_id(ident)
    work = Backup(block, source, target, sync)
    if bitmap is not None:
        work.bitmap, bitmap.busy = bitmap, True
    if bitmap is not None and sync in ("bitmap", "incremental"):
        # Nothing has ever been written, so nothing is dirty.
        work.amount, work.ends_later = 0, False
    name = arguments.get("filter-node-name")
    if name is not None:
        block.graph.check_name(name, block.backends.by_drive)
    job = block.jobs.create(ident, work, arguments)
    top = work.insert_filter(source, "copy-before-write", "file", name, target)
    work.use(job, top, "main node")
    work.block_node(target)
    block.jobs.start(job)
    return job


def _check_bitmap_mode(mode: str | None, sync: str) -> None:
    if mode is None and sync != "incremental":
        raise CommandFailed("Bitmap sync mode must be given when providing a bitmap")
    if sync == "incremental" and mode not in (None, "on-success"):
        raise CommandFailed(
            "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"
        )
    if sync == "none":
        raise CommandFailed("sync mode 'none' does not produce meaningful bitmap outputs")
    if mode == "never" and sync != "bitmap":
        raise CommandFailed(
            f"Bitmap sync mode 'never' has no meaningful effect when combined with sync mode "
            f"'{sync}'"
        )


@commands.handles("blockdev-mirror")
def blockdev_mirror(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    source = root_node(block, arguments["device"])
    target = block.lookup(arguments["target"])
    _start_mirror(context, arguments, source, target, fresh=False)
    return {}


@commands.handles("drive-mirror")
def drive_mirror(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    source = root_node(block, arguments["device"])
    target = _open_target(block, arguments, source)
    try:
        fresh = arguments.get("mode") != "existing"
        _start_mirror(context, arguments, source, target, fresh=fresh)
    finally:
        block.close(target)
    return {}


def _start_mirror(
    context: Context, arguments: Mapping[str, Any], source: Node, target: Node, *, fresh: bool
) -> None:
    block = context.machine.block
    sync = arguments["sync"]
    granularity = arguments.get("granularity", 0)
    if granularity and not 512 <= granularity <= 64 << 20:
        raise CommandFailed("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if granularity & (granularity - 1):
        raise CommandFailed("Parameter 'granularity' expects a power of 2")
    source.check_blockers("mirror-source")
    target.check_blockers("mirror-target")
    replaces = None
    if "replaces" in arguments:
        replaces = block.graph.find(arguments["replaces"])
        if replaces is None:
            raise CommandFailed(f"Failed to find node with node-name='{arguments['replaces']}'")
    if sync in ("incremental", "bitmap"):
        raise CommandFailed(f"Sync mode '{sync}' not supported")
    if arguments.get("buf-size", 0) < 0:
        raise CommandFailed("Invalid parameter 'buf-size'")
    if source is target:
        raise CommandFailed("Can't mirror node into itself")
    name = arguments.get("filter-node-name")
    if name is not None:
        block.graph.check_name(name, block.backends.by_drive)
    amount = _to_mirror(context, source, target, sync, fresh=fresh)
    work = Mirror(block, source, target, amount)
    work.replaces = replaces
    _run_mirror(context, arguments, work, source, target)


def _to_mirror(context: Context, source: Node, target: Node, sync: str, *, fresh: bool) -> int:
    if sync == "full":
        if fresh:
            return allocated(source, whole_chain=True)
        # Since 11.0 what reads as zeros is no work for a target that has only zeros.
        zeros = source.unfiltered.facts.get("format") and target.facts.get("format")
        if zeros and context.dialect.version >= (11, 0, 0):
            return allocated(source, whole_chain=True)
        return source.size
    return 0


def _run_mirror(
    context: Context, arguments: Mapping[str, Any], work: Mirror, source: Node, target: Node
) -> None:
    block = context.machine.block
    ident = _job_id(block, arguments, arguments["device"])
    job = block.jobs.create(ident, work, arguments)
    job.details["copy-mode"] = arguments.get("copy-mode", "background")
    if work.kind == "mirror":
        job.details["actively-synced"] = job.details["copy-mode"] == "write-blocking"
    top = work.insert_filter(source, "mirror_top", "backing", arguments.get("filter-node-name"))
    work.use(job, top, "main node")
    work.use(job, target, "root", backend=True)
    work.block_node(source)
    work.block_node(target)
    block.jobs.start(job)


@commands.handles("block-stream")
def block_stream(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    if "base" in arguments and "base-node" in arguments:
        raise CommandFailed("'base' and 'base-node' cannot be specified at the same time")
    top = block.lookup(arguments["device"])
    base: Node | None = None
    if "base" in arguments:
        base = _in_chain(top, arguments["base"])
    elif "base-node" in arguments:
        base = block.find(None, arguments["base-node"])
        if base is top or base not in top.chain():
            raise CommandFailed(
                f"Node '{base.name}' is not a backing image of '{arguments['device']}'"
            )
    for node in _between(top, base):
        node.check_blockers("stream")
    if base is None and "backing-file" in arguments:
        raise CommandFailed("backing file specified, but streaming the entire chain")
    ident = _job_id(block, arguments, arguments["device"])
    block.jobs.check_id(ident)
    work = Stream(block, top, base, arguments.get("backing-file"))
    job = block.jobs.create(ident, work, arguments)
    filter_node = work.insert_filter(top, "copy-on-read", "file", arguments.get("filter-node-name"))
    work.use(job, filter_node, "main node")
    for node in _between(top, base):
        work.block_node(node)
    block.jobs.start(job)
    return {}


@commands.handles("block-commit")
def block_commit(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    device = arguments["device"]
    for name in ("top", "base"):
        if name in arguments and f"{name}-node" in arguments:
            raise CommandFailed(f"'{name}-node' and '{name}' are mutually exclusive")
    if device not in block.backends.by_drive and block.graph.find(device) is None:
        raise CommandFailed(f"Device '{device}' not found", "DeviceNotFound")
    active = root_node(block, device)
    active.check_blockers("commit-source")
    top = _commit_top(block, arguments, active)
    base = _commit_base(block, arguments, top)
    for node in _between(top, base):
        node.check_blockers("commit-target")
    if top is base:
        raise CommandFailed("cannot commit an image into itself")
    ident = _job_id(block, arguments, device)
    if top is not active:
        overlay = next(node for node in active.chain() if node.backing is top)
        block.jobs.check_id(ident)
        commit = Commit(block, overlay, top, base, arguments.get("backing-file"))
        job = block.jobs.create(ident, commit, arguments)
        filter_name = arguments.get("filter-node-name")
        filter_node = commit.insert_filter(top, "commit_top", "backing", filter_name)
        commit.use(job, filter_node, "main node")
        for node in (*_between(top, base), base):
            commit.block_node(node)
        block.jobs.start(job)
        return {}
    if "backing-file" in arguments:
        raise CommandFailed("'backing-file' specified, but 'top' is the active layer")
    block.jobs.check_id(ident)
    amount = allocated(top, whole_chain=False)
    _run_mirror(context, arguments, Mirror(block, top, base, amount, "commit"), top, base)
    return {}


def _commit_top(block: BlockLayer, arguments: Mapping[str, Any], active: Node) -> Node:
    if "top-node" in arguments:
        top = block.find(None, arguments["top-node"])
        if top not in active.chain():
            raise CommandFailed(f"'{top.name}' is not in this backing file chain")
        return top
    if "top" not in arguments or arguments["top"] == filename(active):
        return active
    for node in active.chain():
        if arguments["top"] in (filename(node), _header_name(node)):
            return node
    raise CommandFailed(f"Top image file {arguments['top']} not found")


def _commit_base(block: BlockLayer, arguments: Mapping[str, Any], top: Node) -> Node:
    if "base-node" in arguments:
        base = block.find(None, arguments["base-node"])
        if base not in top.chain():
            raise CommandFailed(f"'{base.name}' is not in this backing file chain")
        return base
    if "base" in arguments:
        return _in_chain(top, arguments["base"])
    return list(top.chain())[-1]


def _in_chain(top: Node, name: str) -> Node:
    for node in top.chain():
        if node is not top and name in (filename(node), _header_name(node)):
            return node
    raise CommandFailed(f"Can't find '{name}' in the backing chain")


def _header_name(node: Node) -> str | None:
    """How the header of the node above may call it."""
    for edge in node.parents:
        above = edge.parent
        if isinstance(above, Node) and edge.name == "backing" and "header" in above.facts:
            header = above.facts["header"]
            path = above.children[0].child.unfiltered.facts["path"]
            if full_backing_name(header, path) == filename(node):
                name: str = header.backing
                return name
    return None


def _between(top: Node, base: Node | None) -> list[Node]:
    """The nodes from one to above another."""
    found = []
    for node in top.chain():
        if node is base:
            break
        found.append(node)
    return found


def _open_target(block: BlockLayer, arguments: Mapping[str, Any], source: Node) -> Node:
    """The file that drive-backup and drive-mirror copy to, made if need be."""
    # What is not copied is read from here.
    backing = {"top": source.backing, "none": source}.get(arguments["sync"])
    target = arguments["target"]
    mode = arguments.get("mode", "absolute-paths")
    kind = arguments.get("format") or ("raw" if mode == "existing" else source.driver)
    if mode != "existing":
        make_image(target, kind, source.size, backing)
    options: dict[str, Any] = {"driver": kind, "file": {"driver": "file", "filename": target}}
    if "node-name" in arguments:
        options["node-name"] = arguments["node-name"]
    if kind == "qcow2" and backing is None and mode != "existing":
        options["backing"] = None
    elif kind == "qcow2" and backing is not None:
        options["backing"] = backing.name
    return block.opener.open(options)


def make_image(path: str, kind: str, size: int, backing: Node | None) -> None:
    """Makes an image file; CommandFailed if it can't be."""
    if kind == "qcow2":
        create_qcow2(
            path,
            size,
            backing=filename(backing) if backing else "",
            backing_format=backing.driver if backing else "",
        )
    elif kind == "raw":
        if backing is not None:
            raise CommandFailed("Backing file not supported for file format 'raw'")
        create_file(path, size)
    elif kind in _UNCREATABLE:
        raise CommandFailed(f"Format driver '{kind}' does not support image creation")
    else:
        raise CommandFailed(f"Unknown file format '{kind}'")
