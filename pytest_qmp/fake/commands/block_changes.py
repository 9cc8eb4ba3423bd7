"""Commands that make images, and change nodes that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..block_graph import ALL, NOTHING, Node, User
from ..block_images import create_file, create_qcow2
from ..block_jobs import CREATES, Create
from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()

_CREATABLE = frozenset(
    {"file", "qcow2", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "parallels", "luks"}
)
_SECTOR = 512


@commands.handles("blockdev-create")
def blockdev_create(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    options = arguments["options"]
    driver = options["driver"]
    if driver not in _CREATABLE:
        raise CommandFailed("Driver does not support blockdev-create")

    def prepare() -> None:
        if driver == "file":
            _check_file(options)
        else:
            _check_format(context, options)

    def make() -> None:
        if driver == "file":
            _make_file(options)
        else:
            _make_format(context, options)

    later = driver != "file" and context.dialect.version >= (8, 0, 0)
    work = Create(block, make, prepare, fails_later=later)
    job = block.jobs.create(arguments["job-id"], work, {"auto-dismiss": False})
    block.jobs.start(job)
    return {}


def _check_file(options: Mapping[str, Any]) -> None:
    create_file(options["filename"], 0)


def _make_file(options: Mapping[str, Any]) -> None:
    mode = options.get("preallocation", "off")
    if not 0 <= options["size"] < 2**63:
        raise CommandFailed("Could not resize file: Invalid argument")
    if mode == "metadata":
        raise CommandFailed("Unsupported preallocation mode: metadata")
    create_file(options["filename"], options["size"])


def _check_format(context: Context, options: Mapping[str, Any]) -> None:
    block = context.machine.block
    reference = options["file"]
    inline = isinstance(reference, dict)
    node = block.opener.open(reference) if inline else block.graph.need(reference)
    if options["driver"] == "qcow2":
        _check_qcow2(options)
    user = User("an unnamed block device", is_backend=True)
    block.graph.unlink(block.graph.link(user, node, "root", CREATES, ALL))


def _check_qcow2(options: Mapping[str, Any]) -> None:
    version = options.get("version", "v3")
    if options["size"] % _SECTOR:
        raise CommandFailed("Image size must be a multiple of 512 bytes")
    size = options.get("cluster-size", 1 << 16)
    if size & (size - 1) or not 512 <= size <= 2 << 20:
        raise CommandFailed("Cluster size must be a power of two between 512 and 2048k")
    if options.get("lazy-refcounts") and version == "v2":
        raise CommandFailed(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use "
            "version=v3 or greater)"
        )
    if options.get("backing-fmt") and not options.get("backing-file"):
        raise CommandFailed("Backing format cannot be used without backing file")


def _make_format(context: Context, options: Mapping[str, Any]) -> None:
    block = context.machine.block
    reference = options["file"]
    if options["driver"] != "qcow2":
        raise CommandFailed(
            f"pytest-qmp's fake QEMU makes no images of the format {options['driver']}"
        )
    if isinstance(reference, dict):
        path = reference.get("filename")
    else:
        path = block.graph.need(reference).unfiltered.data_path
    if path is None:
        return
    create_qcow2(
        path,
        options["size"],
        backing=options.get("backing-file", ""),
        backing_format=options.get("backing-fmt", ""),
        version=2 if options.get("version") == "v2" else 3,
    )
    if not isinstance(reference, dict):
        block.graph.need(reference).size = 3 * (1 << 16) + _SECTOR


@commands.handles("block_resize")
def block_resize(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    node = block.find(arguments.get("device"), arguments.get("node-name"))
    size = arguments["size"]
    if size < 0:
        raise CommandFailed("Parameter 'size' expects a >0 size")
    if context.dialect.version < (8, 0, 0) and node.blockers:
        raise CommandFailed(f"Device '{arguments.get('device', '(null)')}' is in use")
    node.check_blockers("resize")
    if not node.unfiltered.facts.get("header") and "path" not in _storage(node).facts:
        raise CommandFailed("Image format driver does not support resize")
    if node.unfiltered.facts.get("header") and size % _SECTOR:
        raise CommandFailed("The new size must be a multiple of 512")
    changed: Node | None = node
    while changed is not None:
        changed.size = -(-size // _SECTOR) * _SECTOR
        changed = changed.below
    if node.unfiltered.facts.get("header"):
        node.unfiltered.facts["header"].size = size
    return {}


def _storage(node: Node) -> Node:
    while node.children and node.driver in ("raw", "throttle", "copy-on-read"):
        node = node.children[0].child
    return node


@commands.handles("block-set-write-threshold")
def block_set_write_threshold(context: Context, arguments: Mapping[str, Any]) -> Any:
    node = context.machine.block.graph.find(arguments["node-name"])
    if node is None:
        raise CommandFailed(f"Device '{arguments['node-name']}' not found")
    node.write_threshold = arguments["write-threshold"]
    return {}


@commands.handles("change-backing-file")
def change_backing_file(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    node = block.lookup(arguments["device"])
    image = block.find(None, arguments["image-node-name"])
    if image not in node.chain():
        raise CommandFailed(f"'{arguments['device']}' and image file are not in the same chain")
    if image.backing is None:
        raise CommandFailed("not allowing backing file change on an image without a backing file")
    node.check_blockers("change")
    header = image.facts.get("header")
    if header is not None:
        header.backing = arguments["backing-file"]
        block.store_backing(image)
    return {}


@commands.handles("x-blockdev-change")
def blockdev_change(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    parent = block.lookup(arguments["parent"])
    if ("child" in arguments) == ("node" in arguments):
        raise CommandFailed(
            "Either child or node must be specified, but not both"
            if "child" in arguments
            else "Need exactly one of child and node"
        )
    if "child" in arguments:
        edge = parent.child(arguments["child"])
        if edge is None:
            raise CommandFailed(
                f"Node '{arguments['parent']}' does not have child '{arguments['child']}'"
            )
        if parent.driver != "quorum":
            raise CommandFailed(f"The node {arguments['parent']} does not support removing a child")
        block.graph.unlink(edge)
        return {}
    node = block.graph.find(arguments["node"])
    if node is None:
        raise CommandFailed(f"Node '{arguments['node']}' not found")
    if parent.driver != "quorum":
        raise CommandFailed(f"The node {arguments['parent']} does not support adding a child")
    name = f"children.{len(parent.children)}"
    parent.facts["perms"][name] = "quorum"
    block.graph.link(parent, node, name, NOTHING, ALL)
    return {}


@commands.handles("x-blockdev-set-iothread")
def blockdev_set_iothread(context: Context, arguments: Mapping[str, Any]) -> Any:
    _named(context, arguments["node-name"])
    thread = arguments["iothread"]
    if thread is not None:
        known = [one["id"] for one in context.machine.objects.iothreads()]
        if thread not in known:
            raise CommandFailed(f"Cannot find iothread {thread}")
    return {}


@commands.handles("blockdev-set-active")
def blockdev_set_active(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = arguments.get("node-name")
    nodes = context.machine.block.graph.nodes if name is None else [_named(context, name)]
    for node in nodes:
        over = [edge.parent for edge in node.parents if isinstance(edge.parent, Node)]
        held = any(not parent.facts.get("inactive") for parent in over)
        if name is not None and held and not arguments["active"]:
            raise CommandFailed("Node has active parent node")
    for node in nodes:
        node.facts["inactive"] = not arguments["active"]
    return {}


@commands.handles("x-blockdev-amend")
def blockdev_amend(context: Context, arguments: Mapping[str, Any]) -> Any:
    node = context.machine.block.find(None, arguments["node-name"])
    if node.driver != arguments["options"]["driver"]:
        raise CommandFailed("x-blockdev-amend doesn't support changing the block driver")
    raise NotModelled("changes of what is in images")


def _named(context: Context, name: str) -> Node:
    node = context.machine.block.graph.find(name)
    if node is None:
        raise CommandFailed(f"Failed to find node with node-name='{name}'")
    return node


@commands.handles("blockdev-reopen")
def blockdev_reopen(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    for options in arguments["options"]:
        if "node-name" not in options:
            raise CommandFailed("node-name not specified")
        node = block.graph.find(options["node-name"])
        if node is None:
            raise CommandFailed(f"Failed to find node with node-name='{options['node-name']}'")
        block.reopen(node, options)
    return {}
