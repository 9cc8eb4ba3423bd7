"""Proof of a reboot: the reset, and what the guest writes once it has come up again."""

from __future__ import annotations

import re
import time
from collections import deque
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_qmp.errors import QMPTimeoutError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventMatcher, QMPEvent
from pytest_qmp.qmp.waiting import Timeout
from pytest_qmp.vm.progress import progress

if TYPE_CHECKING:
    from pytest_qmp.vm.console import Console
    from pytest_qmp.vm.power import MachinePower
    from pytest_qmp.vm.stream import OutputStream

__all__ = ["RebootExpectation", "Until"]

#: A regular expression that the console is to write, as for ``console.expect()``.
Until = str | re.Pattern[str]

_SAMPLES = 10_000
_UNDER_WAY_SECONDS = 0.05


class RebootExpectation:
    """What ``vm.expect_reboot()`` gives; ``value`` is the RESET, once the block has ended.

    Args:
        machine: whose reboot it is.
        guest: True for a reset by the guest, False for one by the host, None for either.
        until: what the console writes once the guest is up again; None: that is not waited for.
        console: the name of the console; None: the first.
        timeout: seconds for all of it, from the end of the block.

    Raises:
        ValueError: ``until`` is no regular expression.
    """

    def __init__(
        self,
        machine: MachinePower,
        guest: bool | None,
        until: Until | None,
        console: str | None,
        timeout: Timeout,
    ) -> None:
        try:
            self._until = None if until is None else re.compile(until)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"until is a regular expression that the console is to write, and {until!r} is "
                f"none: {error}"
            ) from None
        self._machine = machine
        self._guest = guest
        self._console_name = console
        self._timeout = timeout
        self._since = 0
        self._console: Console | None = None
        self._positions: _Positions | None = None
        self._event: QMPEvent | None = None
        self._leave = ExitStack()

    @property
    def value(self) -> QMPEvent:
        """The RESET event.

        Raises:
            ValueError: the block has not ended yet.
        """
        if self._event is None:
            raise ValueError("the reset is known once the with block has ended")
        return self._event

    def __enter__(self) -> RebootExpectation:
        __tracebackhide__ = True
        machine = self._machine
        if self._until is not None:
            self._console = machine._console_called(self._console_name)
        # What came before the block counts where it belongs.
        machine._oversight.sync()
        self._since = machine.events.total
        with ExitStack() as entered:
            entered.enter_context(machine._oversight.board.permitting(frozenset({"reset"})))
            if self._console is not None:
                self._positions = _Positions(self._console._stream)
                entered.callback(self._positions.end)
            self._leave = entered.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        machine = self._machine
        with self._leave:
            if kind is not None:
                return
            deadline = machine._deadline(self._timeout)
            with progress(f"rebooting {machine.label}"):
                event = self._await_reset(deadline)
                machine._oversight.sync()
                machine._forget_shells()
                if self._console is not None and self._positions is not None:
                    unread = self._console._unread
                    unread.skip(max(unread.start, self._positions.at(event.timestamp)))
                    self._console.expect(self._until, timeout=deadline.remaining())
        self._event = event

    def _await_reset(self, deadline: Deadline) -> QMPEvent:
        __tracebackhide__ = True
        machine = self._machine
        others: list[str] = []
        number = self._since
        while True:
            events = machine.events
            seen, dropped = events.total, events.dropped
            for event in events[max(0, number - dropped) : max(0, seen - dropped)]:
                if event.name != "RESET":
                    continue
                if self._is_firmware_s(event):
                    others.append(f"{event}, which the firmware made of the one before")
                elif self._guest is not None and event.data.get("guest") is not self._guest:
                    others.append(str(event))
                else:
                    return event
            number = seen
            if deadline.expired or not machine.qmp.wait_for_news(seen, deadline, ("RESET",)):
                break
        who = {None: "", True: " by its guest", False: " by its host"}[self._guest]
        raise QMPTimeoutError(
            f"waited {deadline.words} for {machine} to be reset{who}, in vain. "
            + (f"Other resets came: {'; '.join(others)}. " if others else "")
            + machine.events.describe(EventMatcher("RESET"))
            + machine._shown_console()
        )

    def _is_firmware_s(self, event: QMPEvent) -> bool:
        oversight = self._machine._oversight
        # The background has to have judged it.
        oversight.sync()
        if not oversight.board.is_own_reset(event):
            return False
        earlier = [
            one.timestamp
            for one in self._machine.events
            if one.name == "RESET" and one.timestamp < event.timestamp
        ]
        # The firmware resets before anything is written; what was, was under way for a moment.
        return not oversight.wrote_between(
            max(earlier, default=0.0) + _UNDER_WAY_SECONDS, event.timestamp
        )


class _Positions:
    """When the guest had written how much.

    What was read before the reset was written before it. What is read later may be either, for a
    moment: so nothing that came after is missed.
    """

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._first = stream.size
        self._known: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self.end = stream.add_listener(self._note)

    def _note(self) -> None:
        self._known.append((time.time(), self._stream.size))

    def at(self, moment: float) -> int:
        """How many bytes had come by then, in seconds since the epoch."""
        return max([size for when, size in self._known if when < moment], default=self._first)
