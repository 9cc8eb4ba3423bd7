"""The command ``transaction``: actions that happen all or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..jobs import Job
from ..replies import CommandFailed
from . import bitmaps, snapshots
from .block_jobs import blockdev_backup, drive_backup
from .registry import Context, Handler, Registry

commands = Registry()

_Undo = Callable[[], None]


@commands.handles("transaction")
def transaction(context: Context, arguments: Mapping[str, Any]) -> Any:
    actions = arguments["actions"]
    properties = arguments.get("properties", {})
    grouped = properties.get("completion-mode", "individual") == "grouped"
    if grouped:
        word = "Transaction" if context.dialect.version < (8, 0, 0) else "transaction"
        for action in actions:
            if action["type"] not in _CAN_BE_GROUPED:
                raise CommandFailed(
                    f"Action '{action['type']}' does not support {word} property "
                    "completion-mode = grouped"
                )
    jobs = context.machine.block.jobs
    undone: list[_Undo] = []
    removed: list[Callable[[], None]] = []
    started: list[Job] = []
    start = jobs.hold_starts()
    try:
        for action in actions:
            undone.append(_act(context, action["type"], action["data"], started, removed))
    except CommandFailed:
        jobs.let_start(start, run=False)
        for undo in reversed(undone):
            undo()
        raise
    for remove in removed:
        remove()
    if grouped:
        for job in started:
            job.group = started[::-1]
    jobs.let_start(start, run=True)
    return {}


def _act(
    context: Context,
    kind: str,
    data: Mapping[str, Any],
    started: list[Job],
    removed: list[Callable[[], None]],
) -> _Undo:
    if kind == "abort":
        raise CommandFailed("Transaction aborted using Abort action")
    if kind in _JOBS:
        _JOBS[kind](context, data)
        job = context.machine.block.jobs.all[0]
        started.append(job)
        return lambda: context.machine.block.jobs.abort(job)
    if kind in _SNAPSHOTS:
        return _SNAPSHOTS[kind](context, data)
    if kind == "block-dirty-bitmap-remove":
        return _remove_bitmap(context, data, removed)
    return _change_bitmap(context, kind, data)


def _remove_bitmap(
    context: Context, data: Mapping[str, Any], removed: list[Callable[[], None]]
) -> _Undo:
    """The bitmap goes when all actions have succeeded, and is busy until then."""
    node, bitmap = bitmaps.find_free_bitmap(context, data["node"], data["name"])
    bitmap.busy = True
    removed.append(lambda: node.bitmaps.remove(bitmap))

    def undo() -> None:
        bitmap.busy = False

    return undo


def _change_bitmap(context: Context, kind: str, data: Mapping[str, Any]) -> _Undo:
    node = context.machine.block.lookup(data["node"]) if kind == _ADD else None
    if node is None:
        name = data["target"] if "target" in data else data["name"]
        node, bitmap = bitmaps.find_bitmap(context, data["node"], name)
        before = bitmap.recording
    else:
        before = False
    kept = list(node.bitmaps)
    _BITMAPS[kind](context, data)
    changed = node

    def undo() -> None:
        changed.bitmaps[:] = kept
        for bitmap in kept:
            if bitmap.name == data.get("name"):
                bitmap.recording = before

    return undo


_ADD = "block-dirty-bitmap-add"
_JOBS: dict[str, Handler] = {"blockdev-backup": blockdev_backup, "drive-backup": drive_backup}
_SNAPSHOTS: dict[str, Callable[[Context, Mapping[str, Any]], _Undo]] = {
    "blockdev-snapshot": snapshots.snapshot,
    "blockdev-snapshot-sync": snapshots.snapshot_sync,
    "blockdev-snapshot-internal-sync": snapshots.snapshot_internal,
}
_BITMAPS: dict[str, Handler] = {
    _ADD: bitmaps.add,
    "block-dirty-bitmap-clear": bitmaps.clear,
    "block-dirty-bitmap-enable": bitmaps.enable,
    "block-dirty-bitmap-disable": bitmaps.disable,
    "block-dirty-bitmap-merge": bitmaps.merge,
}
_CAN_BE_GROUPED = frozenset({"blockdev-backup", "drive-backup", "abort"})
