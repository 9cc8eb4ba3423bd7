"""Assertions on a machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp import asserts
from pytest_qmp.asserts.sequences import WantedEvent
from pytest_qmp.asserts.values import ANYTHING, Path
from pytest_qmp.qmp.events import Match, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.commands import MachineCommands

__all__ = ["MachineAssertions"]


class MachineAssertions(MachineCommands):
    """The assertions of ``VirtualMachine``."""

    def assert_status(self, expected: str | Iterable[str]) -> None:
        """Asserts the run state, such as ``running`` or ``paused``. Looks once, does not wait.

        Args:
            expected: as ``query-status`` spells it; or several, of which any will do.

        Raises:
            AssertionError: it is another.
        """
        __tracebackhide__ = True
        asserts.assert_status(self.qmp, expected)

    def assert_qmp(
        self,
        command: str,
        path: Path = "",
        value: object = ANYTHING,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        match: object = None,
        **keywords: Any,
    ) -> None:
        """Asserts one value in what a command returns.

        Args:
            command: what to ask.
            path: where to look: ``0/inserted/file``, or ``[0, "inserted", "file"]``; empty for
                the whole.
            value: what must be there, exactly; or a compiled regular expression, searched for in
                a text, a class, a predicate; left out, anything.
            arguments: those of the command.
            match: instead of ``value``: the same, but a mapping names only some of the members.
            keywords: more arguments.

        Raises:
            AssertionError: there is something else, or nothing; the text shows the expected
                beside the found, and where there is something like it.
        """
        __tracebackhide__ = True
        reply = self.qmp.execute(command, arguments, **keywords)
        asserts.assert_value(reply, path, value, match=match, what=command)

    def assert_qmp_absent(
        self,
        command: str,
        path: Path,
        arguments: Mapping[str, Any] | None = None,
        /,
        **keywords: Any,
    ) -> None:
        """Asserts that there is no such member or item in what a command returns.

        Args:
            command: what to ask.
            path: where to look, as for ``assert_qmp``.
            arguments: those of the command.
            keywords: more of them.

        Raises:
            AssertionError: there is; the text shows it.
        """
        __tracebackhide__ = True

        def execute(name: str, given: Mapping[str, Any] | None) -> Any:
            __tracebackhide__ = True
            return self.qmp.execute(name, given, **keywords)

        asserts.assert_qmp_absent(execute, command, path, arguments)

    def assert_no_event(
        self, name: str | Iterable[str], within: float = 0.0, match: Match = None
    ) -> None:
        """Fails if such an event came or comes; see ``QMPClient.assert_no_event``."""
        __tracebackhide__ = True
        self.qmp.assert_no_event(name, within, match)

    def assert_events(
        self,
        expected: Iterable[WantedEvent],
        *,
        exact: bool = False,
        since: int | QMPEvent = 0,
        timeout: Timeout = DEFAULT,
    ) -> list[QMPEvent]:
        """Asserts that these events come in this order; waits for those that have not come yet.

        The events are only looked at: ``wait_for_event`` still finds them.

        Args:
            expected: names (``"STOP"``); pairs of a name and what must be in the event's data, in
                part (``("SHUTDOWN", {"guest": True})``), or a callable that gets the event;
                events as dicts, in part; or sets of names of which any will do.
            exact: True lets no others come between them, or before the first.
            since: looks only at what came after this: an event, or what ``events.total`` was.
            timeout: seconds for the whole wait; 0 looks once.

        Returns:
            The events, in that order.

        Raises:
            AssertionError: one does not come, or not in that order; the text shows what was
                wanted beside what came.
            VMVerdictError: something else happened to the machine, so that no more will come.
        """
        __tracebackhide__ = True
        return asserts.assert_events(
            self.qmp, expected, exact=exact, since=since, timeout=self._deadline(timeout)
        )

    def expect_events(
        self,
        expected: Iterable[WantedEvent],
        *,
        exact: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> asserts.EventsExpectation:
        """A context manager: at its end asserts that these events came, or come, from inside it.

        Args:
            expected: as for ``assert_events``.
            exact: as for ``assert_events``.
            timeout: seconds for the wait at the end of the block.

        Returns:
            A context manager; ``value`` holds the events once the block has ended.

        Raises:
            AssertionError: as for ``assert_events``, at the end of the block.
        """
        __tracebackhide__ = True
        return asserts.expect_events(self.qmp, expected, exact=exact, timeout=timeout)

    def assert_error(
        self, error_class: str | None = None, match: str | re.Pattern[str] | None = None
    ) -> asserts.ErrorExpectation:
        """Asserts that a command inside the block is refused; a context manager.

        Args:
            error_class: QMP's error class, such as ``GenericError``; None: any.
            match: a regular expression that is searched for in QEMU's own words; None: any.

        Returns:
            A context manager; ``value`` is the ``QMPCommandError`` once the block has ended.

        Raises:
            AssertionError: at the end of the block: nothing was refused, or with another class or
                with other words; the text shows both.
        """
        __tracebackhide__ = True
        return asserts.assert_error(error_class, match)
