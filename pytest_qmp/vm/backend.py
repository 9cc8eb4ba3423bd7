"""What a VirtualMachine needs of whatever runs it: a QEMU process, the fake, or somebody else's."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.config import VMConfig

__all__ = ["Backend", "Wires"]


@dataclass(frozen=True)
class Wires:
    """Our ends of a started machine's sockets.

    Attributes:
        monitor: the QMP monitor's.
        consoles: the serial ports', by name.
        guest_agent: the guest agent's port's; None where there is none.
        second_monitor: another QMP monitor's, for the background; None where there is none.
    """

    monitor: socket.socket
    consoles: dict[str, socket.socket] = field(default_factory=dict)
    second_monitor: socket.socket | None = None
    guest_agent: socket.socket | None = None


class Backend(Protocol):
    """Something that runs a machine."""

    kind: str
    argv: tuple[str, ...]

    @property
    def pid(self) -> int | None:
        """The process, or None where there is none of ours."""

    @property
    def description(self) -> str:
        """What runs it, for the header: binary, version and accelerator."""

    def configure(self, config: VMConfig) -> None:
        """Takes another config than it was made with, before the start."""

    def start(self, consoles: Sequence[str], deadline: Deadline) -> Wires:
        """Starts it."""

    def wait(self, deadline: Deadline) -> int | None:
        """Waits for its end: the exit status, negative for a signal; None at the deadline."""

    def stderr(self) -> str:
        """What it wrote to its standard error so far."""

    def terminate(self) -> None:
        """Asks it to end (SIGTERM)."""

    def kill(self) -> None:
        """Ends it (SIGKILL)."""

    def close(self) -> None:
        """Lets go of what was held for it. Idempotent."""
