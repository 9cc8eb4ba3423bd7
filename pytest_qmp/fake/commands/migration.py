"""Commands about migration: none is ever under way, as ``migrate`` itself is not modelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()


@commands.handles("migrate-pause")
def migrate_pause(context: Context, arguments: Mapping[str, Any]) -> Any:
    states = "postcopy-active"
    if context.dialect.version >= (10, 0, 0):
        states += " or postcopy-recover"
    raise CommandFailed(f"migrate-pause is currently only supported during {states} state")
