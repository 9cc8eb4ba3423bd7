"""Events: what one is, how a test says which it means, and the history of all that came."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, overload

from pytest_qmp.errors import QMPProtocolError
from pytest_qmp.qmp.wire import show_bytes
from pytest_qmp.text import printable

__all__ = ["EventLog", "EventMatcher", "Match", "QMPEvent", "partial_match"]

# How every QEMU begins an event. Such a line is kept as it came and decoded when looked at.
EVENT_PREFIX = b'{"timestamp": {"seconds": '
_NAME_KEY = b'"event": "'

Match = Mapping[str, Any] | Callable[["QMPEvent"], object] | None


class QMPEvent(dict[str, Any]):
    """An event as it came, with names for what people look at.

    It is the plain message (``event["data"]["guest"]``), and has:

    Attributes:
        name: such as ``SHUTDOWN``.
        data: its data; empty where it has none.
        timestamp: seconds since the epoch, by the host's clock, when QEMU sent it; 0.0 if untold.

    Source: the QMP specification, section "Asynchronous events".
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """Such as ``SHUTDOWN``."""
        return str(self.get("event", ""))

    @property
    def data(self) -> dict[str, Any]:
        """The event's data; empty where it has none."""
        data = self.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def timestamp(self) -> float:
        """Seconds since the epoch, when QEMU sent it."""
        stamp = self.get("timestamp")
        if not isinstance(stamp, dict):
            return 0.0
        return float(stamp.get("seconds", 0)) + float(stamp.get("microseconds", 0)) / 1e6

    def __str__(self) -> str:
        name = printable(self.name)
        return f"{name} {json.dumps(self.data)}" if self.data else name


def partial_match(expected: object, found: object) -> bool:
    """True if all that ``expected`` names is in ``found``; what it does not name is free.

    Mappings are compared member by member, at any depth; lists item by item; the rest by ``==``.

    >>> partial_match({"data": {"guest": True}}, {"event": "X", "data": {"guest": True, "n": 1}})
    True
    """
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and partial_match(value, found[key]) for key, value in expected.items()
        )
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(expected) == len(found)
            and all(map(partial_match, expected, found))
        )
    # JSON tells true from 1, Python does not.
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found or (type(expected) not in (int, float, bool) and expected == found)
    return bool(expected == found)


class EventMatcher:
    """Which events a wait means.

    Args:
        name: an event's name, or several.
        match: a partial dict over the whole event, or a callable that gets the event; None
            takes every event of that name.

    Raises:
        ValueError: if the match can't ever fit, as one that forgets ``data`` can't.
    """

    def __init__(self, name: str | Iterable[str], match: Match = None) -> None:
        self.names = (name,) if isinstance(name, str) else tuple(name)
        if not self.names or not all(isinstance(one, str) and one for one in self.names):
            raise ValueError(f"an event's name is a text such as 'STOP', or several: not {name!r}")
        self.match = match
        if isinstance(match, Mapping):
            strange = set(match) - {"event", "data", "timestamp"}
            if strange:
                inner = {key: match[key] for key in match if key in strange}
                raise ValueError(
                    f"match={match!r} is compared with the whole event, which has the members "
                    f"event, data and timestamp: did you mean match={{'data': {inner!r}}}?"
                )
        self._needles = tuple(_NAME_KEY + one.encode() + b'"' for one in self.names)

    def accepts_raw(self, raw: bytes) -> bool:
        """False if the undecoded event can't be one of the names; True if it may be."""
        for needle in self._needles:  # noqa: SIM110 - a generator would cost as much again
            if needle in raw:
                return True
        return False

    def may_be_among(self, events: Sequence[bytes | QMPEvent]) -> bool:
        """False if none of them can be one of the names, found without a look at each."""
        raw = [event for event in events if isinstance(event, bytes)]
        return len(raw) < len(events) or self.accepts_raw(b"\n".join(raw))

    def accepts(self, event: QMPEvent) -> bool:
        """True if it is one of the names and fits."""
        if event.name not in self.names:
            return False
        if self.match is None:
            return True
        if isinstance(self.match, Mapping):
            return partial_match(self.match, event)
        return bool(self.match(event))

    def __str__(self) -> str:
        text = " or ".join(self.names)
        if self.match is None:
            return text
        if isinstance(self.match, Mapping):
            return f"{text} matching {dict(self.match)!r}"
        return f"{text} matching {getattr(self.match, '__name__', self.match)}"


class EventLog(Sequence[QMPEvent]):
    """The history of a connection's events, oldest first, bounded.

    Waiting takes an event from those not yet taken; the history keeps it all the same.

    Args:
        bound: how many are kept; the oldest are dropped first.
    """

    def __init__(self, bound: int = 100_000) -> None:
        if bound < 1:
            raise ValueError(f"an event history holds at least one event, not {bound}")
        self._kept: deque[bytes | QMPEvent] = deque(maxlen=bound)
        self._taken: set[int] = set()
        self.total = 0  #: how many ever came; the number that the next event gets

    @property
    def bound(self) -> int:
        """How many events are kept."""
        return self._kept.maxlen or 0

    @property
    def dropped(self) -> int:
        """How many of the oldest events are gone because the history was full."""
        return self.total - len(self._kept)

    def append(self, event: bytes | QMPEvent) -> None:
        """Adds an event, decoded or as it came."""
        # In this order no signal handler can come between: Python looks for signals after calls.
        self.total += 1
        self._kept.append(event)

    def extend(self, events: Sequence[bytes]) -> None:
        """Adds several, as they came."""
        count = len(events)
        self.total += count
        self._kept.extend(events)

    def rewind(self, total: int) -> None:
        """Forgets the newest events, until so many are left."""
        while self.total > total:
            self.total -= 1
            self._kept.pop()

    def forget(self, name: str) -> None:
        """Forgets the first event of that name, as if it had not come; for one not yet taken."""
        for index, event in enumerate(self._kept):
            if _decoded(event).name == name:
                del self._kept[index]
                self.total -= 1
                return

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> QMPEvent: ...

    @overload
    def __getitem__(self, index: slice) -> list[QMPEvent]: ...

    def __getitem__(self, index: int | slice) -> QMPEvent | list[QMPEvent]:
        if isinstance(index, slice):
            return [_decoded(event) for event in list(self._kept)[index]]
        try:
            return _decoded(self._kept[index])
        except IndexError:
            raise IndexError(f"event {index} of {len(self._kept)}") from None

    def __iter__(self) -> Iterator[QMPEvent]:
        for event in list(self._kept):
            yield _decoded(event)

    def names(self) -> list[str]:
        """The names alone, oldest first."""
        return [event.name for event in self]

    def find(self, matcher: EventMatcher, since: int = 0) -> tuple[int, QMPEvent] | None:
        """The first event that fits and was not taken yet, and its number.

        Args:
            matcher: which.
            since: looks only at events with this number or a later one.
        """
        count = min(self.total - since, len(self._kept))
        if count <= 0:
            return None
        # From the end, where a wait looks: a deque reaches its middle slowly.
        newest = list(islice(reversed(self._kept), count))
        newest.reverse()
        if count > 1 and not matcher.may_be_among(newest):
            return None
        for number, event in enumerate(newest, self.total - count):
            if isinstance(event, bytes) and not matcher.accepts_raw(event):
                continue
            if number in self._taken:
                continue
            decoded = _decoded(event)
            if matcher.accepts(decoded):
                return number, decoded
        return None

    def take(self, number: int) -> None:
        """The event of that number is taken: no other wait finds it. The history keeps it."""
        if len(self._taken) > 2 * len(self._kept):
            first = self.dropped
            self._taken = {one for one in self._taken if one >= first}
        self._taken.add(number)

    def put_back(self, number: int) -> None:
        """The event of that number is not taken after all."""
        self._taken.discard(number)

    def describe(self, matcher: EventMatcher | None = None, limit: int = 10) -> str:
        """The events that came, for a message: those most like the wanted ones first."""
        if not self.total:
            return "no event came on this connection"
        events = [_decoded(one) for one in list(self._kept)[:-1001:-1]]
        if matcher is not None:
            events = _nearest_first(events, matcher.names)
        shown = ", ".join(str(event) for event in events[:limit])
        more = self.total - min(limit, len(events))
        order = "nearest first" if matcher is not None else "newest first"
        return f"events that came ({order}): {shown}" + (f", and {more} more" if more else "")

    def __repr__(self) -> str:
        lost = f", {self.dropped} dropped" if self.dropped else ""
        return f"<EventLog of {len(self)} events{lost}: {self.names()[-5:]}>"


def _nearest_first(events: list[QMPEvent], names: tuple[str, ...]) -> list[QMPEvent]:
    import difflib

    def distance(name: str) -> float:
        return 1 - max(difflib.SequenceMatcher(None, name, want).ratio() for want in names)

    distances = {name: distance(name) for name in {event.name for event in events}}
    return sorted(events, key=lambda event: distances[event.name])


def _decoded(event: bytes | QMPEvent) -> QMPEvent:
    if isinstance(event, QMPEvent):
        return event
    try:
        return QMPEvent(json.loads(event))
    except (ValueError, RecursionError) as error:
        raise QMPProtocolError(f"an event is not JSON: {error}: {show_bytes(event)}") from error
