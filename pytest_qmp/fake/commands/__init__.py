"""The commands that the fake models, by area: a module each, named here."""

from __future__ import annotations

from . import (
    absent_features,
    bitmaps,
    block,
    block_changes,
    block_jobs,
    block_media,
    chardevs,
    descriptors,
    devices,
    exports,
    human_monitor,
    jobs,
    machine_queries,
    memory,
    migration,
    monitor,
    network,
    qom,
    run_state,
    screen,
    snapshots,
    tracing,
    transactions,
)
from .registry import Context, Handler

__all__ = ["HANDLERS", "Context", "Handler"]

HANDLERS: dict[str, Handler] = {
    command: handler
    for area in (
        bitmaps,
        block,
        block_changes,
        exports,
        snapshots,
        transactions,
        block_jobs,
        block_media,
        jobs,
        chardevs,
        descriptors,
        monitor,
        run_state,
        migration,
        devices,
        machine_queries,
        network,
        qom,
        absent_features,
        human_monitor,
        memory,
        screen,
        tracing,
    )
    for command, handler in area.commands.handlers.items()
}
