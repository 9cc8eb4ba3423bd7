"""The guest agent of a machine that we watch: its port opens and closes, its machine goes down."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPDisconnectedError, QMPError, QMPTimeoutError
from pytest_qmp.qmp.agent_system import ShutdownMode
from pytest_qmp.qmp.connection import BlockingConnection
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventMatcher, QMPEvent
from pytest_qmp.qmp.guest_agent import GuestAgentClient
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.argv import AGENT

if TYPE_CHECKING:
    from pytest_qmp.vm.ports import MachinePorts

__all__ = ["MachineGuestAgent"]

_PORT = f"{AGENT}-port"
_OPENED = EventMatcher("VSERPORT_CHANGE", {"data": {"open": True, "id": _PORT}})
_CLOSED = {"open": False, "id": _PORT}

# What tells that a guest is down. One that halts may only be silent from then on.
_DOWN: dict[str, EventMatcher] = {
    "powerdown": EventMatcher("SHUTDOWN"),
    "reboot": EventMatcher(("RESET", "SHUTDOWN")),
    "halt": EventMatcher(
        ("SHUTDOWN", "VSERPORT_CHANGE"),
        lambda event: event.name == "SHUTDOWN" or event.data == _CLOSED,
    ),
}
_WANTED = {
    "powerdown": frozenset({"shutdown"}),
    "reboot": frozenset({"reset", "shutdown"}),
    "halt": frozenset({"shutdown"}),
}


class MachineGuestAgent(GuestAgentClient):
    """The client of a machine's guest agent: ``vm.guest``.

    It waits by event until the guest has opened the agent's port, also after a reboot. When the
    guest closes the port, or something happens to the machine, every wait ends.

    Args:
        machine: whose it is.
        sock: our end of the port's socket.
    """

    def __init__(self, machine: MachinePorts, sock: socket.socket) -> None:
        self._machine = machine
        self._oversight = machine._oversight
        super().__init__(timeout=machine._timeout, peer=f"the guest agent of {machine.label}")
        self._port_watch = _PortWatch(self)
        self.watch(self._port_watch)
        self.explain_loss = machine.explain_end
        self._answered = False
        self._take_socket(sock)
        self._oversight.listeners.append(self._port_watch.on_event)
        self._oversight.board.add_wait(self.look_again)

    def require_answer(self) -> None:
        """Waits, until it once has, for the guest to open the port and for the agent to answer.

        Raises:
            QMPTimeoutError: the guest has not opened the port, or no agent answers.
            VMVerdictError: something happened to the machine meanwhile.
        """
        __tracebackhide__ = True
        if not self._answered:
            self.sync()
            self._answered = True

    def shutdown(self, mode: ShutdownMode = "powerdown", *, timeout: Timeout = DEFAULT) -> QMPEvent:
        """Has the guest shut itself down (``guest-shutdown``), and waits until it has.

        Nothing has to be allowed for it. The event is only looked at: ``wait_for_event`` still
        finds it.

        Args:
            mode: ``powerdown`` waits for SHUTDOWN, ``reboot`` for RESET (SHUTDOWN where QEMU was
                told so, as by ``-no-reboot``), ``halt`` until the agent's port is closed.
            timeout: seconds for the whole wait.

        Returns:
            The event.

        Raises:
            ValueError: there is no such mode.
            QMPCommandError: the agent refused it.
            QMPTimeoutError: no agent answers, or the guest did not go down.
            VMVerdictError: something else happened to the machine.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        qmp = self._machine.qmp
        since = qmp.events.total
        with self._oversight.board.permitting(_WANTED.get(mode, frozenset())):
            super().shutdown(mode, timeout=deadline)
            event = qmp.wait_for_event_since(since, _DOWN[mode], deadline, keep=True)
            self._oversight.sync()
        return event

    # -- the port --------------------------------------------------------------------------------

    def _follow_up(self, command: str, arguments: Mapping[str, Any], deadline: Deadline) -> Any:
        __tracebackhide__ = True
        # One that is started again knows nothing of it.
        self._port_watch.require_open(command)
        return super()._follow_up(command, arguments, deadline)

    def _ensure_sync(self, connection: BlockingConnection, deadline: Deadline) -> None:
        __tracebackhide__ = True
        if self._port_watch.closed:
            self._session.lose_sync()
        super()._ensure_sync(connection, deadline)

    def _resync(self, connection: BlockingConnection, deadline: Deadline) -> None:
        __tracebackhide__ = True
        self._await_port(deadline)
        super()._resync(connection, deadline)

    def _await_port(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        qmp = self._machine.qmp
        was_open = self._port_watch.opened
        while True:
            # What was told of it by now is older than what is asked next.
            self._oversight.sync()
            self._port_watch.closed = False
            if self._machine.backend == "fake":
                return  # It is there as soon as a script plays it.
            seen = qmp.events.total
            chardevs = qmp.execute("query-chardev", timeout=deadline)
            if any(one["label"] == AGENT and one["frontend-open"] for one in chardevs):
                self._port_watch.opened = True
                return
            try:
                qmp.wait_for_event_since(seen, _OPENED, deadline, keep=True)
            except QMPTimeoutError:
                raise QMPTimeoutError(
                    f"waited {deadline.words} for the guest of {self._machine} to open the guest "
                    f"agent's port{' again' if was_open else ''}, in vain. Check that it has "
                    "booted, and that qemu-guest-agent is installed and runs in it."
                    f"{self._machine._shown_console()}"
                ) from None


class _PortWatch:
    """Ends the agent's waits: by the machine's verdicts, and when the guest closes the port.

    Attributes:
        opened: True once the port was open.
        closed: True from when the guest closes it until it is looked at again.
    """

    def __init__(self, agent: MachineGuestAgent) -> None:
        self.opened = False
        self.closed = False
        self._agent = agent
        self._board = agent._oversight.board

    def on_event(self, event: QMPEvent) -> None:
        """An event came, in the background."""
        # QEMU tells of a port at most once a second; with a reset it closes as well.
        if event.name in ("RESET", "SHUTDOWN") or event.data == _CLOSED:
            self.closed = True
            self._agent.look_again()

    @property
    def pending(self) -> bool:
        return self.closed or self._board.pending

    def _ends_reply(self) -> bool:
        # Before it is in sync, it waits for the agent to open it again.
        return self.closed and self._agent._session.synced

    def ends(self, names: tuple[str, ...] | None) -> bool:
        return self._ends_reply() or self._board.ends(names)

    def error(self, awaited: str, *, gone: bool) -> QMPError | None:
        verdict = self._board.error(awaited, gone=gone)
        if verdict is None and not gone and self._ends_reply():
            return self._closed_while(awaited)
        return verdict

    def _closed_while(self, awaited: str) -> QMPDisconnectedError:
        return QMPDisconnectedError(
            f"the guest of {self._agent._machine} closed the guest agent's port while {awaited} "
            "was awaited: the agent ended, or the guest went down or reboots. The next command "
            "waits until it is open again"
        )

    def require_open(self, command: str) -> None:
        """Raises what fits a port that was closed before a command; a verdict comes first."""
        __tracebackhide__ = True
        if self.closed:
            awaited = f"the reply to {command!r}"
            raise self._board.error(awaited, gone=False) or self._closed_while(awaited)

    def wanted(self, event: QMPEvent) -> None:
        self._board.wanted(event)
