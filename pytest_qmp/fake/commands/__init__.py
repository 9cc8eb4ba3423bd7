"""The commands that the fake models, by area: a module each, named here."""

from __future__ import annotations

from . import block, chardevs, descriptors, migration, monitor, run_state
from .registry import Context, Handler

__all__ = ["HANDLERS", "Context", "Handler"]

HANDLERS: dict[str, Handler] = {
    command: handler
    for area in (block, chardevs, descriptors, monitor, run_state, migration)
    for command, handler in area.commands.handlers.items()
}
