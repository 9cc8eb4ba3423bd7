"""Commands about block devices: trays, media, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..block_backends import Backend
from ..block_graph import Node
from ..block_images import read_qcow2
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()

_FORMATS = frozenset(
    {
        *("raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "luks", "parallels"),
        *("bochs", "cloop", "dmg", "throttle", "file"),
    }
)
_HISTOGRAMS = {
    "boundaries-read": "rd",
    "boundaries-write": "wr",
    "boundaries-zap": "zone_append",
    "boundaries-flush": "flush",
}
_THROTTLED = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


def _backend(context: Context, arguments: Mapping[str, Any]) -> Backend:
    context.machine.devices.start()
    return context.machine.block.backends.find(arguments.get("device"), arguments.get("id"))


def _shown(arguments: Mapping[str, Any]) -> str:
    name: str = arguments.get("device") or arguments.get("id") or ""
    return name


def _open_tray(context: Context, backend: Backend, name: str, *, force: bool) -> bool:
    """Opens the tray if it is closed and not locked; whether a locked one is in the way."""
    if not backend.removable:
        raise CommandFailed(f"Device '{name}' is not removable")
    if not backend.tray:
        return False
    if backend.tray_open:
        return False
    if backend.locked and not force:
        return True
    context.machine.block.backends.move_tray(backend, to_open=True)
    return False


@commands.handles("blockdev-open-tray")
def blockdev_open_tray(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = _backend(context, arguments)
    name = _shown(arguments)
    if backend.removable and not backend.tray:
        return {}
    if _open_tray(context, backend, name, force=arguments.get("force", False)):
        raise CommandFailed(
            f"Device '{name}' is locked and force was not specified, wait for tray to open "
            "and try again"
        )
    return {}


@commands.handles("blockdev-close-tray")
def blockdev_close_tray(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = _backend(context, arguments)
    if not backend.removable:
        raise CommandFailed(f"Device '{_shown(arguments)}' is not removable")
    if backend.tray and backend.tray_open:
        context.machine.block.backends.move_tray(backend, to_open=False)
    return {}


@commands.handles("blockdev-remove-medium")
def blockdev_remove_medium(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = _backend(context, {"id": arguments["id"]})
    _remove_medium(context, backend, arguments["id"])
    return {}


def _remove_medium(context: Context, backend: Backend, name: str) -> None:
    if backend.qom_path is not None and not backend.removable:
        raise CommandFailed(f"Device '{name}' is not removable")
    if backend.tray and not backend.tray_open:
        raise CommandFailed(f"Tray of device '{name}' is not open")
    if backend.node is None:
        return
    backend.node.check_blockers("eject")
    context.machine.block.backends.empty(backend)


@commands.handles("blockdev-insert-medium")
def blockdev_insert_medium(context: Context, arguments: Mapping[str, Any]) -> Any:
    block = context.machine.block
    backend = _backend(context, {"id": arguments["id"]})
    node = block.graph.find(arguments["node-name"])
    if node is None:
        raise CommandFailed(f"Node '{arguments['node-name']}' not found")
    if node.has_backend:
        raise CommandFailed(f"Node '{node.name}' is already in use")
    _insert_medium(context, backend, node)
    return {}


def _insert_medium(context: Context, backend: Backend, node: Node) -> None:
    if not backend.removable:
        raise CommandFailed("Device is not removable")
    if backend.tray and not backend.tray_open:
        raise CommandFailed("Tray of the device is not open")
    if backend.node is not None:
        raise CommandFailed("There already is a medium in the device")
    context.machine.block.backends.use(backend, node)
    if not backend.tray:
        context.machine.block.backends.move_tray(backend, to_open=False)


@commands.handles("eject")
def eject(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = _backend(context, arguments)
    name = _shown(arguments)
    if _open_tray(context, backend, name, force=arguments.get("force", False)):
        raise CommandFailed(
            f"Device '{name}' is locked and force was not specified, wait for tray to open "
            "and try again"
        )
    _remove_medium(context, backend, name)
    return {}


@commands.handles("blockdev-change-medium")
def blockdev_change_medium(context: Context, arguments: Mapping[str, Any]) -> Any:
    backends = context.machine.block.backends
    backend = _backend(context, arguments)
    name = _shown(arguments)
    mode = arguments.get("read-only-mode", "retain")
    read_only = {"read-only": True, "read-write": False}.get(
        mode, backend.node.read_only if backend.node else backend.last_read_only
    )
    filename = arguments["filename"]
    kind = arguments.get("format")
    if kind is not None and kind not in _FORMATS:
        raise CommandFailed(f"Unknown driver '{kind}'")
    options: dict[str, Any] = {
        "driver": kind or _probe(filename),
        "read-only": read_only,
        "file": {"driver": "file", "filename": filename},
    }
    node = context.machine.block.opener.open(options)
    try:
        if _open_tray(context, backend, name, force=arguments.get("force", False)):
            raise CommandFailed(
                f"Device '{name}' is locked and force was not specified, wait for tray to open "
                "and try again"
            )
        _remove_medium(context, backend, name)
        _insert_medium(context, backend, node)
    except CommandFailed:
        context.machine.block.close(node)
        raise
    if backend.tray and backend.tray_open:
        backends.move_tray(backend, to_open=False)
    return {}


def _probe(filename: str) -> str:
    try:
        return "qcow2" if read_qcow2(filename) else "raw"
    except OSError:
        return "raw"


@commands.handles("block_set_io_throttle")
def block_set_io_throttle(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = _backend(context, arguments)
    if backend.node is None:
        raise CommandFailed(f"Device '{_shown(arguments)}' has no medium")
    limits = {key: arguments[key] for key in arguments if key not in ("device", "id", "group")}
    for total, parts in (("bps", ("bps_rd", "bps_wr")), ("iops", ("iops_rd", "iops_wr"))):
        if limits[total] and any(limits[part] for part in parts):
            raise CommandFailed(
                "bps/iops/max total values and read/write values cannot be used at the same time"
            )
    for value in limits.values():
        if not 0 <= value <= 10**15:
            raise CommandFailed("bps/iops/max values must be within [0, 1000000000000000]")
    if not any(limits[key] for key in _THROTTLED):
        backend.throttling = None
        return {}
    shown: dict[str, Any] = {key: limits[key] for key in _THROTTLED}
    for key in _THROTTLED:
        if limits[key]:
            most = limits.get(f"{key}_max", 0)
            if most:
                shown[f"{key}_max"] = most
                shown[f"{key}_max_length"] = limits.get(f"{key}_max_length", 1)
    if limits.get("iops_size"):
        shown["iops_size"] = limits["iops_size"]
    shown["group"] = arguments.get("group") or backend.name
    backend.throttling = shown
    return {}


@commands.handles("block-latency-histogram-set")
def block_latency_histogram_set(context: Context, arguments: Mapping[str, Any]) -> Any:
    backend = _backend(context, {"id": arguments["id"]})
    given = {key: value for key, value in arguments.items() if key.startswith("boundaries")}
    if not given:
        backend.histograms = {}
        return {}
    for key, kind in _HISTOGRAMS.items():
        if key == "boundaries-zap" and context.dialect.version < (8, 2, 0):
            continue
        bounds = arguments.get(key, arguments.get("boundaries"))
        if bounds is None:
            continue
        if not bounds or any(low >= high for low, high in zip([0, *bounds], bounds, strict=False)):
            what = key.removeprefix("boundaries-")
            raise CommandFailed(f"Device '{arguments['id']}' set {what} boundaries fail")
        backend.histograms[f"{kind}_latency_histogram"] = {
            "boundaries": list(bounds),
            "bins": [0] * (len(bounds) + 1),
        }
    return {}
