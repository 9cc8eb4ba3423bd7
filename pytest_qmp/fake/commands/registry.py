"""How a module of commands says what it models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_qmp.qmp.schema import Schema

from ..machine import Machine
from ..monitor import MonitorSession
from ..versions import Dialect, load_schema

__all__ = ["Context", "Handler", "Registry"]


@dataclass(frozen=True, slots=True)
class Context:
    """What a command can see and change.

    Attributes:
        dialect: the version that is emulated.
        machine: the machine.
        monitor: the monitor that the command came from.
    """

    dialect: Dialect
    machine: Machine
    monitor: MonitorSession

    @property
    def schema(self) -> Schema:
        """The schema of the emulated version."""
        return load_schema(self.dialect.name)


#: Takes the arguments, already checked; returns the value of ``return``, raises CommandFailed.
Handler = Callable[[Context, Mapping[str, Any]], Any]


class Registry:
    """The commands of one area."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def handles(self, command: str) -> Callable[[Handler], Handler]:
        """Decorates the function that models ``command``."""

        def register(handler: Handler) -> Handler:
            self.handlers[command] = handler
            return handler

        return register
