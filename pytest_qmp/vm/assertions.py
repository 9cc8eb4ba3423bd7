"""Assertions on a machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp import asserts
from pytest_qmp.qmp.events import Match
from pytest_qmp.vm.commands import MachineCommands

__all__ = ["MachineAssertions"]


class MachineAssertions(MachineCommands):
    """The assertions of ``VirtualMachine``."""

    def assert_status(self, expected: str) -> None:
        """Asserts the run state, such as ``running`` or ``paused``.

        Raises:
            AssertionError: it is another.
        """
        __tracebackhide__ = True
        asserts.assert_status(self.qmp.execute, expected)

    def assert_qmp(
        self,
        command: str,
        path: str,
        value: object,
        arguments: Mapping[str, Any] | None = None,
        /,
        **keywords: Any,
    ) -> None:
        """Asserts one value in what a command returns.

        Args:
            command: what to ask.
            path: where to look: ``0/inserted/file``.
            value: what must be there.
            arguments: those of the command.
            keywords: more of them.

        Raises:
            AssertionError: there is something else, or nothing.
        """
        __tracebackhide__ = True

        def execute(name: str, given: Mapping[str, Any] | None) -> Any:
            return self.qmp.execute(name, given, **keywords)

        asserts.assert_qmp(execute, command, path, value, arguments)

    def assert_no_event(
        self, name: str | Iterable[str], within: float = 0.0, match: Match = None
    ) -> None:
        """Fails if such an event came or comes; see ``QMPClient.assert_no_event``."""
        __tracebackhide__ = True
        self.qmp.assert_no_event(name, within, match)
