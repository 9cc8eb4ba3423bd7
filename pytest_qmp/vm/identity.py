"""What a machine is, and what is known of it at any time."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import VMError
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.session import TranscriptEntry
from pytest_qmp.qmp.waiting import DEFAULT_TIMEOUT, DefaultTimeout, Timeout
from pytest_qmp.text import printable
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.oversight import Oversight
from pytest_qmp.vm.verdicts import Verdict

if TYPE_CHECKING:
    from pytest_qmp.fake.server import FakeQMPServer

__all__ = ["MachineIdentity"]


class MachineIdentity:
    """A machine, started or not. ``MachineLife`` starts and ends it.

    Args:
        config: what to start.
        backend: what runs it.

    Attributes:
        config: what was started.
        label: what messages and reports call it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        self.config = config
        self.label = config.name or "vm"
        self._backend = backend
        self._timeout = config.timeout if config.timeout is not None else DEFAULT_TIMEOUT
        self._qmp: QMPClient | None = None
        self._oversight = Oversight(config, backend, watched=backend.kind != "external")
        self._agent_socket: socket.socket | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._releases: list[Callable[[], None]] = []
        self._exit_status: int | None = None
        self._last_stderr = ""
        self._closed = False

    @property
    def exit_status(self) -> int | None:
        """QEMU's exit status, negative for a signal; None while it runs."""
        return self._exit_status if self._closed else self._reap(Deadline(0))

    def _reap(self, deadline: Deadline) -> int | None:
        if self._exit_status is None:
            self._exit_status = self._backend.wait(deadline)
        return self._exit_status

    @property
    def started(self) -> bool:
        """True once its monitor has answered; stays so after its end."""
        return self._qmp is not None

    @property
    def backend(self) -> str:
        """``qemu``, ``fake`` or ``external``."""
        return self._backend.kind

    @property
    def description(self) -> str:
        """What runs it: binary, version and accelerator."""
        return self._backend.description

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line."""
        return self._backend.argv

    @property
    def pid(self) -> int | None:
        """The QEMU process; None on the fake, and for a QEMU that somebody else started."""
        return self._backend.pid

    @property
    def stderr(self) -> str:
        """What QEMU wrote to its standard output and error."""
        return self._last_stderr if self._closed else self._backend.stderr()

    @property
    def fake(self) -> FakeQMPServer:
        """The fake that plays the machine.

        Raises:
            VMError: a real QEMU does.
        """
        server = getattr(self._backend, "server", None)
        if server is None:
            raise VMError(f"{self} runs on {self._backend.description}, not on the fake")
        fake: FakeQMPServer = server
        return fake

    @property
    def qmp(self) -> QMPClient:
        """The connected client.

        Raises:
            VMError: the machine was not started.
        """
        if self._qmp is None:
            raise VMError(f"{self} was not started: call start(), or use it in a with statement")
        return self._qmp

    @property
    def transcript(self) -> list[TranscriptEntry]:
        """The last QMP messages both ways; see ``QMPClient.transcript``."""
        return self._qmp.transcript if self._qmp is not None else []

    @property
    def events(self) -> EventLog:
        """All events so far."""
        return self.qmp.events

    @property
    def console_logs(self) -> dict[str, bytes]:
        """All that the guest has written so far, by console."""
        return {name: stream.everything() for name, stream in self._oversight.streams.items()}

    def keep_logs(self) -> None:
        """Keeps what the guest has written beyond ``close()``, until ``drop_logs()``."""
        self._oversight.keeps_logs = True

    def tell_apart(self) -> None:
        """Has verdicts say whose they are: the machine is one of several."""
        self._oversight.name = printable(self.label)

    def drop_logs(self) -> None:
        """Lets go of what the guest has written, but for its last lines. Idempotent."""
        self._oversight.drop_logs()

    def ask_in_background(self, command: str, timeout: float = 1.0) -> Any:
        """Asks QEMU something on a monitor of its own, which is nobody else's business.

        Args:
            command: without arguments.
            timeout: seconds.

        Returns:
            What QEMU returned; None if it did not, in time.
        """
        return self._oversight.ask(command, timeout)

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of all consoles, as a person would have seen them."""
        return self._oversight.console_tail(lines)

    def _deadline(self, timeout: Timeout) -> Deadline:
        return limits.deadline(self._timeout if isinstance(timeout, DefaultTimeout) else timeout)

    def __repr__(self) -> str:
        state = "ended" if self._closed else "not started" if self._qmp is None else "started"
        return f"<{self.label} on {self._backend.kind}, {state}>"

    __str__ = __repr__

    @property
    def verdict(self) -> Verdict | None:
        """The first thing that happened to the machine and was not wanted; None: nothing did."""
        return self._oversight.board.first
