"""Waiting for events, as every client on a BlockingConnection does."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Final

from pytest_qmp.errors import QMPDisconnectedError, QMPError, QMPTimeoutError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.connection import BlockingConnection
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.qmp.events import EventLog, EventMatcher, Match, QMPEvent

__all__ = [
    "DEFAULT",
    "DEFAULT_TIMEOUT",
    "DefaultTimeout",
    "EventExpectation",
    "EventWaiter",
    "Timeout",
]

DEFAULT_TIMEOUT: Final = 30.0


class DefaultTimeout:
    """What stands for the timeout of the client, or of the machine."""

    def __repr__(self) -> str:
        return "the client's timeout"


DEFAULT: Final = DefaultTimeout()
#: Seconds, None for no limit, or the deadline of a wait that this one is a part of.
Timeout = float | None | Deadline | DefaultTimeout


class EventWaiter:
    """The part of a client that deals with events and with its default timeout.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_events: how many events the history keeps.
    """

    def __init__(self, timeout: float | None, max_events: int) -> None:
        self.timeout = timeout
        self._events = EventLog(max_events)
        self._connection: BlockingConnection | None = None

    @property
    def events(self) -> EventLog:
        """All events so far, those included that have arrived but were not asked for."""
        if self._connection is not None:
            self._connection.poll()
        return self._events

    def wait_for_event(
        self,
        name: str | Iterable[str],
        match: Match = None,
        timeout: Timeout = DEFAULT,
    ) -> QMPEvent:
        """Takes the first event that fits, of those that came and were not taken yet, or to come.

        Args:
            name: the event's name, or several of which any will do.
            match: a partial dict over the whole event (``{"data": {"guest": True}}``), or a
                callable that gets the event.
            timeout: seconds for the whole wait.

        Raises:
            QMPTimeoutError: it did not come; the text lists what did, nearest first.
            QMPDisconnectedError: QEMU is gone, and it was not among what QEMU left behind.
            ValueError: the match can't ever fit.
        """
        __tracebackhide__ = True
        return self.wait_for_event_since(0, EventMatcher(name, match), self._deadline(timeout))

    def wait_for_event_since(
        self, since: int, matcher: EventMatcher, deadline: Deadline, *, keep: bool = False
    ) -> QMPEvent:
        """The same, but only for events that have that number in the history or a later one.

        ``keep=True`` leaves the event for another wait to take.
        """
        __tracebackhide__ = True
        events = self._events
        found: list[tuple[int, QMPEvent]] = []
        cursor = since

        def ready() -> bool:
            nonlocal cursor
            seen = events.total
            event = events.find(matcher, cursor)
            cursor = max(cursor, seen)
            if event is not None:
                found.append(event)
                if not keep:
                    events.take(event[0])
            return event is not None

        connection = self._connection
        try:
            if connection is None:
                if not ready():
                    self._connected()
            elif not connection.wait(ready, deadline, matcher.names):
                connection.raise_unmet(f"the event {matcher}", deadline, events.describe(matcher))
        except BaseException:
            # Interrupted once it was there: the next wait is to find it.
            for number, _ in found:
                events.put_back(number)
            raise
        if connection is not None and connection.watch is not None:
            connection.watch.wanted(found[0][1])
        return found[0][1]

    def wait_for_news(self, seen: int, deadline: Deadline, names: tuple[str, ...] = ()) -> bool:
        """Waits until the history has had more than ``seen`` events; False at the deadline.

        ``names`` are those of the events that the test wants, which then are no verdict.
        """
        __tracebackhide__ = True
        connection = self._connected()
        if connection.wait(lambda: self._events.total > seen, deadline, names=names):
            return True
        connection.require_open("news of the machine")
        connection.require_unwatched("news of the machine", names)
        return False

    def expect_event(
        self,
        name: str | Iterable[str],
        match: Match = None,
        timeout: Timeout = DEFAULT,
    ) -> EventExpectation:
        """A context manager that, at its end, waits for an event that came from inside it.

        >>> from pytest_qmp import FakeQMPServer, QMPClient
        >>> with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        ...     with client.expect_event("STOP") as stopped:
        ...         _ = client.stop()
        ...     stopped.value.name
        'STOP'
        """
        return EventExpectation(self, EventMatcher(name, match), self._effective(timeout))

    def assert_no_event(
        self, name: str | Iterable[str], within: float = 0.0, match: Match = None
    ) -> None:
        """Fails if such an event is among those not taken yet, or comes within that time.

        Args:
            name: the event's name, or several.
            within: seconds to watch on.
            match: as in ``wait_for_event``.

        Raises:
            AssertionError: it came.
            QMPTimeoutError: the test's own timeout leaves less time than that.
            QMPDisconnectedError: there is nobody to watch for that time.
        """
        __tracebackhide__ = True
        matcher = EventMatcher(name, match)
        deadline = limits.bound(Deadline(within))
        try:
            event = self.wait_for_event_since(0, matcher, deadline)
        except QMPTimeoutError:
            if deadline.note:
                raise failures.watched_too_short(matcher, within, deadline) from None
            return
        except QMPDisconnectedError:
            # What has come can be looked at without a peer; what is to come can't be watched.
            if within:
                raise
            return
        raise failures.came_anyway(matcher, deadline, event)

    def _connected(self) -> BlockingConnection:
        if self._connection is None:
            raise failures.not_connected()
        return self._connection

    def _effective(self, timeout: Timeout) -> float | Deadline | None:
        return self.timeout if isinstance(timeout, DefaultTimeout) else timeout

    def _deadline(self, timeout: Timeout) -> Deadline:
        return limits.deadline(self._effective(timeout))


class EventExpectation:
    """What ``expect_event`` gives; ``value`` is the event, once the block has ended."""

    def __init__(
        self, client: EventWaiter, matcher: EventMatcher, timeout: float | Deadline | None
    ) -> None:
        self._client = client
        self._matcher = matcher
        self._timeout = timeout
        self._since = 0
        self._event: QMPEvent | None = None

    @property
    def value(self) -> QMPEvent:
        """The event.

        Raises:
            QMPError: if the block has not ended yet.
        """
        if self._event is None:
            raise QMPError(f"the event {self._matcher} is known once the with block has ended")
        return self._event

    event = value

    def __enter__(self) -> EventExpectation:
        self._since = self._client.events.total
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if kind is None:
            deadline = limits.deadline(self._timeout)
            self._event = self._client.wait_for_event_since(self._since, self._matcher, deadline)
