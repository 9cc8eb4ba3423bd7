"""Asserting that events come, and in which order."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, cast

from pytest_qmp.asserts.comparing import differences
from pytest_qmp.errors import QMPConnectError, QMPTimeoutError, VMVerdictError
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.qmp.events import EventLog, EventMatcher, Match, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, DefaultTimeout, Timeout

__all__ = ["EventsExpectation", "WantedEvent", "assert_events", "expect_events"]

_WHOLE = frozenset({"event", "data", "timestamp"})
_ROWS = 40
_RUN = 4

#: A name; several, in a set, of which any will do; a pair of a name and what must be in the
#: event's data (or a callable that gets the event); or an event as a dict, in part.
WantedEvent = (
    str
    | frozenset[str]
    | set[str]
    | tuple[str, Mapping[str, Any] | Callable[[QMPEvent], object]]
    | Mapping[str, Any]
)


class WatchedEvents(Protocol):
    """A blocking client."""

    timeout: float | None

    @property
    def events(self) -> EventLog:
        """All events so far."""

    def wait_for_news(self, seen: int, deadline: Deadline, names: tuple[str, ...] = ()) -> bool:
        """Waits until the history has had more than ``seen`` events; False at the deadline."""

    def want(self, event: QMPEvent) -> None:
        """The test wants this very event."""


class HasClient(Protocol):
    """A machine."""

    @property
    def qmp(self) -> Any:
        """Its client."""


def assert_events(
    target: WatchedEvents | HasClient | Sequence[Mapping[str, Any]],
    expected: Iterable[WantedEvent],
    *,
    exact: bool = False,
    since: int | QMPEvent = 0,
    timeout: Timeout = DEFAULT,
) -> list[QMPEvent]:
    """Asserts that these events come in this order; waits for those that have not come yet.

    The events are only looked at: a wait still finds them.

    Args:
        target: a blocking client, or a machine; or events, which are looked at as they are.
        expected: names (``"STOP"``); pairs of a name and what must be in the event's data, in
            part (``("SHUTDOWN", {"guest": True})``), or a callable that gets the event; events
            as dicts, in part; or sets of names of which any will do.
        exact: True lets no others come between them, or before the first.
        since: looks only at what came after this: an event, or what ``events.total`` was then.
        timeout: seconds for the whole wait; 0 looks once.

    Returns:
        The events, in that order.

    Raises:
        AssertionError: one does not come, or not in that order; the text shows what was wanted
            beside what came.
        VMVerdictError: something else happened to the machine, so that no more will come.
        ValueError: what is expected is no list of events.
    """
    __tracebackhide__ = True
    wanted = _Wanted(expected, exact=exact)
    if isinstance(target, Sequence):
        check = _Check(wanted)
        check.feed([QMPEvent(one) for one in target[_first(target, since) :]])
        return check.result("")
    client = _client_of(target)
    return _await(client, wanted, _first(client.events, since), _deadline(client, timeout))


def expect_events(
    client: WatchedEvents | HasClient,
    expected: Iterable[WantedEvent],
    *,
    exact: bool = False,
    timeout: Timeout = DEFAULT,
) -> EventsExpectation:
    """A context manager: at its end asserts that these events came, or come, from inside it.

    Args:
        client: a blocking client, or a machine.
        expected: as for ``assert_events``.
        exact: as for ``assert_events``.
        timeout: seconds for the wait at the end of the block.

    Returns:
        A context manager; ``value`` holds the events once the block has ended.

    Raises:
        AssertionError: as for ``assert_events``, at the end of the block.
        ValueError: what is expected is no list of events.
    """
    __tracebackhide__ = True
    # What is wrong with it is to be said before the block.
    return EventsExpectation(_client_of(client), _Wanted(expected, exact=exact), timeout)


class EventsExpectation:
    """What ``expect_events`` gives; ``value`` holds the events, once the block has ended."""

    def __init__(
        self,
        client: WatchedEvents,
        wanted: _Wanted,
        timeout: Timeout,
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._timeout = timeout
        self._since = 0
        self._events: list[QMPEvent] | None = None

    @property
    def value(self) -> list[QMPEvent]:
        """The events.

        Raises:
            ValueError: the block has not ended yet.
        """
        if self._events is None:
            raise ValueError("the events are known once the with block has ended")
        return self._events

    def __enter__(self) -> EventsExpectation:
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
            deadline = _deadline(self._client, self._timeout)
            self._events = _await(self._client, self._wanted, self._since, deadline)


class _Wanted:
    """The events that are wanted."""

    def __init__(self, expected: Iterable[WantedEvent], *, exact: bool) -> None:
        __tracebackhide__ = True
        if isinstance(expected, (str, Mapping)):
            raise ValueError(f"the events are a list, as in [{expected!r}], not {expected!r}")
        self.matchers = [_matcher(one) for one in expected]
        self.exact = exact
        if not self.matchers and not exact:
            raise ValueError(
                "no event is expected, which is always so: name some; or [] with exact=True says "
                "that none came, and assert_no_event(name) that none of a name does"
            )
        self.names = tuple(dict.fromkeys(name for one in self.matchers for name in one.names))


def _await(
    client: WatchedEvents, wanted: _Wanted, since: int, deadline: Deadline
) -> list[QMPEvent]:
    __tracebackhide__ = True
    check = _Check(wanted)
    cursor = since
    why = ""
    while True:
        history = client.events
        seen, dropped = history.total, history.dropped
        for event in check.feed(history[max(0, cursor - dropped) : max(0, seen - dropped)]):
            client.want(event)
        cursor = seen
        if check.complete or check.hopeless or why:
            return check.result(why)
        try:
            if not client.wait_for_news(seen, deadline, wanted.names):
                why = f" in {deadline.words}"
        except VMVerdictError:
            raise
        except QMPTimeoutError as error:
            why = f": {error}"
        except QMPConnectError as error:
            why = f", and will not: {error}"


def _client_of(target: Any) -> WatchedEvents:
    __tracebackhide__ = True
    # A client takes any name for that of a command: so its class is asked.
    client: Any = target.qmp if hasattr(type(target), "qmp") else target
    if not hasattr(type(client), "wait_for_news"):
        raise ValueError(
            f"{target!r} is no blocking client, no machine and no list of events; of an "
            "AsyncQMPClient, give its events"
        )
    return cast(WatchedEvents, client)


def _deadline(client: WatchedEvents, timeout: Timeout) -> Deadline:
    return limits.deadline(client.timeout if isinstance(timeout, DefaultTimeout) else timeout)


def _matcher(one: object) -> EventMatcher:
    __tracebackhide__ = True
    match: Match = None
    if isinstance(one, str):
        return EventMatcher(one)
    if isinstance(one, (set, frozenset)) and one and all(isinstance(name, str) for name in one):
        return EventMatcher(sorted(one))
    if isinstance(one, Mapping) and isinstance(one.get("event"), str):
        match = {key: value for key, value in one.items() if key != "event"}
        return EventMatcher(one["event"], match or None)
    if isinstance(one, (tuple, list)) and len(one) == 2 and isinstance(one[0], str):
        name, match = one
        if isinstance(match, Mapping):
            whole = bool(match) and _WHOLE.issuperset(match)
            return EventMatcher(name, match if whole else {"data": dict(match)} if match else None)
        if match is None or callable(match):
            return EventMatcher(name, match)
    raise ValueError(
        "an event is expected as its name ('STOP'), a pair of its name and of what is in its "
        "data (('SHUTDOWN', {'guest': True})), or a dict ({'event': 'SHUTDOWN', 'data': {…}}): "
        f"not {one!r}"
    )


def _first(events: Sequence[Mapping[str, Any]], since: int | QMPEvent) -> int:
    """The number of the first event to look at."""
    if isinstance(since, int) and not isinstance(since, bool):
        return since
    before = events.dropped if isinstance(events, EventLog) else 0
    for index, event in enumerate(events):
        if event == since:
            return before + index + 1
    raise ValueError(f"since={since!r} is no event that came, nor the number of one")


@dataclass
class _Row:
    wanted: str
    came: str


class _Check:
    """What was wanted, laid beside what came."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self._came: list[QMPEvent] = []
        self._places: list[int] = []
        self._stray: int | None = None

    def feed(self, events: Sequence[QMPEvent]) -> list[QMPEvent]:
        """Lays more of what came beside what was wanted; returns those that were."""
        matchers = self._wanted.matchers
        known = len(self._places)
        for place, event in enumerate(events, len(self._came)):
            if self._stray is not None:
                break
            if len(self._places) < len(matchers) and matchers[len(self._places)].accepts(event):
                self._places.append(place)
            elif self._wanted.exact:
                self._stray = place
        self._came += events
        return [self._came[place] for place in self._places[known:]]

    @property
    def complete(self) -> bool:
        """True if all came as they were to."""
        return self._stray is None and len(self._places) == len(self._wanted.matchers)

    @property
    def hopeless(self) -> bool:
        """True if nothing that comes can mend it."""
        return self._stray is not None

    def result(self, why: str) -> list[QMPEvent]:
        """The events.

        Raises:
            AssertionError: they are not all there.
        """
        __tracebackhide__ = True
        if self.complete:
            return [self._came[place] for place in self._places]
        missing = self._missing
        if missing is None:
            title = f"{self._came[self._stray or 0]} came, where no more events were to come"
        elif self._stray is not None:
            title = f"{missing} was to come next, but {self._came[self._stray]} did"
        else:
            title = f"{missing} did not come{self._after()}{why}"
        raise AssertionError(
            f"{title} ({len(self._places)} of {len(self._wanted.matchers)} came in order)\n"
            f"{_table(self._rows())}{self._nearest()}"
        )

    @property
    def _missing(self) -> EventMatcher | None:
        count = len(self._places)
        return self._wanted.matchers[count] if count < len(self._wanted.matchers) else None

    def _after(self) -> str:
        return f" after {self._came[self._places[-1]].name}" if self._places else ""

    def _rows(self) -> list[_Row]:
        matchers = list(map(str, self._wanted.matchers))
        rows = []
        for place, event in enumerate(self._came):
            if place in self._places:
                rows.append(_Row(matchers[self._places.index(place)], str(event)))
            elif place == self._stray and len(self._places) < len(matchers):
                rows.append(_Row(matchers[len(self._places)], f"{event}  <- this instead"))
            else:
                rows.append(_Row("", str(event)))
        left = matchers[len(self._places) + (self._stray is not None) :]
        for index, one in enumerate(left):
            first = index == 0 and self._stray is None
            rows.append(_Row(one, "(missing)" if first else "(not looked for)"))
        return _shortened(rows)

    def _nearest(self) -> str:
        missing = self._missing
        if missing is None or not self._came:
            return ""
        last = self._places[-1] if self._places else -1
        others = [
            (event, place < last)
            for place, event in enumerate(self._came)
            if place not in self._places
        ]
        same = [one for one in others if one[0].name in missing.names]
        names = sorted({event.name for event, _ in others})
        lines = []
        for event, early in same[-3:]:
            when = f", which came before {self._came[last].name}" if early else ""
            lines.append(f"\nnearest: {event}{when}{_unlike(missing, event)}")
        if not same:
            near = difflib.get_close_matches(missing.names[0], names, n=1)
            lines += [f"\ndid you mean {one!r}, which came?" for one in near]
        return "".join(lines)


def _unlike(matcher: EventMatcher, event: QMPEvent) -> str:
    if not isinstance(matcher.match, Mapping):
        return ""
    found = list(differences(matcher.match, event, partial=True))
    return f" ({'; '.join(f'{path}: {text}' for path, text in found)})" if found else ""


def _shortened(rows: list[_Row]) -> list[_Row]:
    """Without the middle of a long run of events that nobody asked for."""
    short: list[_Row] = []
    run: list[_Row] = []
    for row in [*rows, _Row("end", "")]:
        if not row.wanted:
            run.append(row)
            continue
        if len(run) > _RUN:
            run = [*run[:2], _Row("", f"… {len(run) - 3} others …"), run[-1]]
        short += run
        run = []
        short.append(row)
    return short[:-1]


def _table(rows: list[_Row]) -> str:
    rows = [_Row("wanted", "came"), *rows]
    if len(rows) > _ROWS:
        rows = [*rows[: _ROWS - 10], _Row("…", "…"), *rows[-9:]]
    width = min(60, max(len(row.wanted) for row in rows))
    return "\n".join(f"  {row.wanted:{width}}  {row.came}".rstrip() for row in rows)
