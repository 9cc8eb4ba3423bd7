"""The commands that the fake models, by area: a module each, named here."""

from __future__ import annotations

from . import (
    absent_features,
    block,
    block_jobs,
    block_media,
    chardevs,
    descriptors,
    devices,
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
    tracing,
)
from .registry import Context, Handler

__all__ = ["HANDLERS", "Context", "Handler"]

HANDLERS: dict[str, Handler] = {
    command: handler
    for area in (
        block,
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
