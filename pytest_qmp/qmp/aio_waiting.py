"""Waiting for events under asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import cast

from pytest_qmp.errors import QMPDisconnectedError, QMPError, QMPTimeoutError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.aio_connection import AsyncConnection
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.qmp.events import EventLog, EventMatcher, Match, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, Timeout

__all__ = ["AsyncEventExpectation", "AsyncEventWaiter", "EventStream"]


class AsyncEventWaiter:
    """The part of an asynchronous client that deals with events and with its default timeout.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_events: how many events the history keeps.
    """

    def __init__(self, timeout: float | None, max_events: int) -> None:
        self.timeout = timeout
        self._events = EventLog(max_events)
        self._connection: AsyncConnection | None = None

    @property
    def events(self) -> EventLog:
        """All events so far, those included that have arrived but were not asked for."""
        if self._connection is not None:
            self._connection.poll()
        return self._events

    async def wait_for_event(
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
        deadline = self._deadline(timeout)
        return await self.wait_for_event_since(0, EventMatcher(name, match), deadline)

    async def wait_for_event_since(
        self, since: int, matcher: EventMatcher, deadline: Deadline
    ) -> QMPEvent:
        """The same, but only for events that have that number in the history or a later one."""
        __tracebackhide__ = True
        found: tuple[int, QMPEvent] | None = None
        cursor = since

        def ready() -> bool:
            nonlocal found, cursor
            found = self._events.find(matcher, cursor)
            cursor = max(cursor, self._events.total)
            return found is not None

        connection = self._connected()
        connection.require_own_loop()
        await connection.wait(ready, deadline)
        if found is None:
            seen = self._events.describe(matcher)
            raise connection.unmet(f"the event {matcher}", deadline, seen)
        # Nothing was awaited since it was found: no other task has it, no cancellation loses it.
        number, event = found
        self._events.take(number)
        return event

    def expect_event(
        self,
        name: str | Iterable[str],
        match: Match = None,
        timeout: Timeout = DEFAULT,
    ) -> AsyncEventExpectation:
        """An ``async with`` block that, at its end, waits for an event that came from inside it.

        Args:
            name: as in ``wait_for_event``.
            match: as in ``wait_for_event``.
            timeout: seconds for the wait at the end of the block.

        >>> import asyncio
        >>> from pytest_qmp import AsyncQMPClient, FakeQMPServer
        >>> async def main(address):
        ...     async with await AsyncQMPClient.connect(address) as client:
        ...         async with client.expect_event("STOP") as stopped:
        ...             await client.stop()
        ...         return stopped.value.name
        >>> with FakeQMPServer() as server:
        ...     asyncio.run(main(server.address))
        'STOP'
        """
        return AsyncEventExpectation(self, EventMatcher(name, match), self._effective(timeout))

    async def assert_no_event(
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
            event = await self.wait_for_event_since(0, matcher, deadline)
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

    def stream_events(
        self,
        name: str | Iterable[str] | None = None,
        match: Match = None,
        timeout: float | None = None,
    ) -> EventStream:
        """Every event from here on, for ``async for``; ends when the connection ends.

        It takes no event from other waits, and any number of streams see each event. What comes
        between this call and the loop is not missed.

        Args:
            name: only events of that name, or of these names.
            match: as in ``wait_for_event``; only together with a name.
            timeout: seconds for the whole stream; None: as long as the connection lasts.

        >>> import asyncio
        >>> from pytest_qmp import AsyncQMPClient, FakeQMPServer
        >>> async def main(address):
        ...     async with await AsyncQMPClient.connect(address) as client:
        ...         events = client.stream_events()
        ...         await client.quit()
        ...         return [event.name async for event in events]
        >>> with FakeQMPServer() as server:
        ...     asyncio.run(main(server.address))
        ['SHUTDOWN']
        """
        if name is None and match is not None:
            raise ValueError("stream_events(match=…) needs the name of the events that it is for")
        matcher = None if name is None else EventMatcher(name, match)
        connection = self._connected()
        connection.require_own_loop()
        connection.require_open()
        return EventStream(connection, self._events, matcher, limits.deadline(timeout))

    def _connected(self) -> AsyncConnection:
        if self._connection is None:
            raise failures.not_connected()
        return self._connection

    def _effective(self, timeout: Timeout) -> float | None:
        return self.timeout if timeout is DEFAULT else cast("float | None", timeout)

    def _deadline(self, timeout: Timeout) -> Deadline:
        return limits.deadline(self._effective(timeout))


class AsyncEventExpectation:
    """What ``expect_event`` gives; ``value`` is the event, once the block has ended."""

    def __init__(
        self, client: AsyncEventWaiter, matcher: EventMatcher, timeout: float | None
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

    async def __aenter__(self) -> AsyncEventExpectation:
        self._since = self._client.events.total
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if kind is None:
            deadline = limits.deadline(self._timeout)
            self._event = await self._client.wait_for_event_since(
                self._since, self._matcher, deadline
            )


class EventStream(AsyncIterator[QMPEvent]):
    """What ``stream_events`` gives: each event once, oldest first.

    It reads the client's history, so it holds nothing that would have to be closed, and it can be
    left and gone on with later.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        events: EventLog,
        matcher: EventMatcher | None,
        deadline: Deadline,
    ) -> None:
        self._connection = connection
        self._events = events
        self._matcher = matcher
        self._deadline = deadline
        self._next = connection.poll().total

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> QMPEvent:
        """The next event.

        Raises:
            StopAsyncIteration: the connection has ended, and all that came on it was given out.
            QMPTimeoutError: the stream's own deadline has come.
            QMPProtocolError: the connection has ended because the peer sent what is not QMP.
            QMPError: the history was full before the stream got to its events. The stream goes
                on with the oldest that is left.
        """
        __tracebackhide__ = True
        connection, events = self._connection, self._events
        connection.require_own_loop()
        while (event := self._take_next()) is None:
            failure = connection.session.failure
            if isinstance(failure, QMPDisconnectedError):
                raise StopAsyncIteration
            if failure is not None or (
                not await connection.wait(lambda: events.total > self._next, self._deadline)
                and connection.session.failure is None
            ):
                raise connection.unmet("the next event of a stream", self._deadline)
        return event

    def _take_next(self) -> QMPEvent | None:
        events = self._events
        # Later events are those of a connection that was made after this one.
        end = self._connection.events_at_end
        if end is None:
            end = events.total
        while self._next < end:
            lost = min(events.dropped, end) - self._next
            if lost > 0:
                self._next += lost
                raise QMPError(
                    f"the history of {events.bound} events was full, and {lost} were dropped "
                    "before the stream got to them: look at events sooner, or connect with a "
                    "larger max_events"
                )
            event = events[self._next - events.dropped]
            self._next += 1
            if self._matcher is None or self._matcher.accepts(event):
                return event
        return None
