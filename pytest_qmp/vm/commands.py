"""What a test asks of a machine's monitor: commands, events and the run state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp.errors import QMPDisconnectedError, QMPTimeoutError, VMVerdictError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import Match, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, EventExpectation, Timeout
from pytest_qmp.vm.lifecycle import MachineLife
from pytest_qmp.vm.verdicts import STATUS_KINDS

__all__ = ["MachineCommands", "sooner"]

_FIRST_RECHECK_SECONDS = 0.25
_LAST_RECHECK_SECONDS = 4.0


class MachineCommands(MachineLife):
    """What every other part of ``VirtualMachine`` is built on."""

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any
    ) -> Any:
        """Executes a command; see ``QMPClient.execute``."""
        __tracebackhide__ = True
        return self.qmp.execute(command, arguments, **keywords)

    def wait_for_event(
        self, name: str | Iterable[str], match: Match = None, timeout: Timeout = DEFAULT
    ) -> QMPEvent:
        """Takes an event that came or will come; see ``QMPClient.wait_for_event``."""
        __tracebackhide__ = True
        return self.qmp.wait_for_event(name, match, timeout)

    def expect_event(
        self, name: str | Iterable[str], match: Match = None, timeout: Timeout = DEFAULT
    ) -> EventExpectation:
        """A context manager for an event from inside it; see ``QMPClient.expect_event``."""
        return self.qmp.expect_event(name, match, timeout)

    @property
    def status(self) -> str:
        """The run state, as ``query-status`` tells it: ``running``, ``paused``, …"""
        return str(self.qmp.execute("query-status")["status"])

    def wait_for_status(self, status: str | Iterable[str], timeout: Timeout = DEFAULT) -> str:
        """Waits until the run state is that one, or one of those.

        Looks again whenever an event comes. A machine that ends by itself after a SHUTDOWN counts
        as ``shutdown``.

        Args:
            status: as ``query-status`` spells it.
            timeout: seconds for the whole wait.

        Returns:
            The run state that was reached.

        Raises:
            QMPTimeoutError: it was not reached; the text has the present one.
            QMPDisconnectedError: the machine is gone.
        """
        __tracebackhide__ = True
        wanted = (status,) if isinstance(status, str) else tuple(status)
        kinds = frozenset[str]().union(*(STATUS_KINDS.get(one, ()) for one in wanted))
        if not kinds:
            return self._await_status(wanted, self._deadline(timeout))
        board = self._oversight.board
        with board.permitting(kinds):
            board.forgive(kinds)
            found = self._await_status(wanted, self._deadline(timeout))
            self._oversight.sync()
        return found

    def _await_status(self, wanted: tuple[str, ...], deadline: Deadline) -> str:
        __tracebackhide__ = True
        names = " or ".join(map(repr, wanted))
        recheck = _FIRST_RECHECK_SECONDS
        found = ""
        while True:
            try:
                seen = self.qmp.events.total
                found = str(self.qmp.execute("query-status", timeout=deadline)["status"])
                if found in wanted:
                    return found
                if deadline.expired:
                    break
                # Not every change of the run state is told by an event.
                self.qmp.wait_for_news(seen, sooner(deadline, recheck))
                recheck = min(2 * recheck, _LAST_RECHECK_SECONDS)
            except VMVerdictError as error:
                when = f"while the run state {names} of {self} was awaited"
                raise self._oversight.board.failure(error.verdict, when) from None
            except QMPDisconnectedError:
                # Not taken from those who wait for it: only looked for.
                if "shutdown" in wanted and "SHUTDOWN" in self.qmp.events.names():
                    return "shutdown"
                raise
            except QMPTimeoutError:
                break
        raise QMPTimeoutError(
            f"waited {deadline.words} for the run state {names} of {self}, in vain"
            + (f": it is {found!r}. " if found else ". ")
            + self.qmp.events.describe()
            + self._shown_console()
        )


def sooner(deadline: Deadline, limit: float) -> Deadline:
    """A deadline in so many seconds, or the given one if that is earlier."""
    left = deadline.remaining()
    return Deadline(limit if left is None else min(limit, left))
