"""Where a machine's verdicts come in, and every wait of that machine looks before it goes on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pytest_qmp.errors import VMGoneError, VMVerdictError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.vm.verdicts import EVENT_KINDS, Judge, ProcessEnd, Verdict

__all__ = ["VerdictBoard"]

#: How long after a verdict, in seconds, a console may still bring what a wait is for.
LAST_WORDS_SECONDS = 0.02
_END_SECONDS = 1.0

_EventKey = tuple[str, float]


class VerdictBoard:
    """Collects verdicts from the background; the first that is not wanted ends every wait.

    It is the ``Watch`` of the machine's clients.

    Args:
        always: kinds that are wanted all the time.
        story: tells what is known of the machine by now, for a message, and waits for more until
            a deadline; it is called in the thread whose wait ends.
        watched: False for a machine that nobody watches in the background.
        firmware_resets: True if the machine's firmware answers each reset with its own.
    """

    def __init__(
        self,
        always: Iterable[str],
        story: Callable[[Verdict, Deadline], str],
        *,
        watched: bool,
        firmware_resets: bool,
    ) -> None:
        self.pending = False
        self.ended: ProcessEnd | None = None
        self._watched = watched
        self._judge = Judge(firmware_resets=firmware_resets)
        self._always = frozenset(always)
        self._story = story
        self._changed = threading.Condition()
        self._verdicts: list[Verdict] = []
        self._met: set[int] = set()
        self._permitted: list[frozenset[str]] = []
        self._wanted_events: set[_EventKey] = set()
        self._all_seen = False
        self._waits: list[Callable[[], None]] = []

    # -- the background's side -------------------------------------------------------------------

    def on_event(self, event: QMPEvent) -> None:
        """An event came on the monitor of the background."""
        with self._changed:
            verdict = self._judge.event(event)
            if verdict is not None and _key(event) not in self._wanted_events:
                self._add(verdict)
        self._tell()

    def on_status(self, status: str) -> None:
        """The run state that a STOP led to came."""
        with self._changed:
            verdict = self._judge.status(status)
            if verdict is not None:
                self._add(verdict)
        self._tell()

    def on_console(self, verdict: Verdict) -> None:
        """A console wrote what was declared."""
        with self._changed:
            self._add(verdict)
        self._tell()

    def on_end(self, end: ProcessEnd) -> None:
        """The process has ended, and all its events were seen."""
        with self._changed:
            self.ended = end
            self._all_seen = True
            verdict = self._judge.end(end)
            if verdict is not None:
                self._add(verdict)
        self._tell()

    def on_lost(self) -> None:
        """Nothing more will be seen of the machine."""
        with self._changed:
            self._all_seen = True
        self._tell()

    def wait_until_all_seen(self, deadline: Deadline) -> None:
        """Waits until the process has ended and its last events were judged; not for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._all_seen, deadline.remaining())

    def _add(self, verdict: Verdict) -> None:
        wanted = self._always.union(*self._permitted)
        if verdict.kind not in wanted:
            self._verdicts.append(verdict)
            self._look()

    def _look(self) -> None:
        self.pending = any(verdict.fatal for verdict in self._verdicts)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            waits = list(self._waits) if self.pending else []
        for look_again in waits:
            look_again()

    # -- what a test wants -----------------------------------------------------------------------

    def add_wait(self, look_again: Callable[[], None]) -> None:
        """From now on this is called, in the background, whenever waits have to look."""
        with self._changed:
            self._waits.append(look_again)

    @contextmanager
    def permitting(self, kinds: frozenset[str]) -> Iterator[None]:
        """What comes of these kinds meanwhile is wanted."""
        with self._changed:
            self._permitted.append(kinds)
        try:
            yield
        finally:
            with self._changed:
                self._permitted.remove(kinds)

    def forgive(self, kinds: frozenset[str]) -> None:
        """What came of these kinds by now was wanted after all."""
        with self._changed:
            self._verdicts = [one for one in self._verdicts if one.kind not in kinds]
            self._look()

    def ask_to_end(self) -> None:
        """We are about to end the process ourselves: that is no verdict."""
        with self._changed:
            self._judge.ask_to_end()

    def ask_to_crash(self, asked: bool = True) -> None:
        """The guest is about to be crashed, and what comes of that is no verdict; or no longer."""
        with self._changed:
            self._judge.ask_to_crash(asked)

    def is_own_reset(self, event: QMPEvent) -> bool:
        """Whether a RESET was the firmware's own, made because of one just before."""
        with self._changed:
            return event.timestamp in self._judge.own_resets

    # -- the waits' side: see Watch --------------------------------------------------------------

    def ends(self, names: tuple[str, ...] | None) -> bool:
        """Whether a wait for these events (None: for a reply) has to end; see ``Watch``."""
        if not self.pending:
            return False
        with self._changed:
            if names is None:
                return self._first(met=False) is not None
            return self._first(but=_kinds_of(names)) is not None

    def error(self, awaited: str, *, gone: bool) -> VMVerdictError | None:
        """The error of the first verdict, which is met by that; None if there is none."""
        if gone and self._watched:
            # Whoever watches the process is about to say why.
            with self._changed:
                self._changed.wait_for(lambda: self._all_seen or self.pending, _END_SECONDS)
        with self._changed:
            verdict = self._first()
        return None if verdict is None else self.failure(verdict, f"while {awaited} was awaited")

    def failure(self, verdict: Verdict, when: str) -> VMVerdictError:
        """The error that tells a verdict, which is met by that."""
        with self._changed:
            self._met.add(id(verdict))
            limit = Deadline(_last_words_left(verdict))
            if self._watched and _ends_qemu(verdict):
                # That QEMU ended is a part of the story, and takes it a moment.
                self._changed.wait_for(lambda: self.ended is not None, limit.remaining())
        kind = VMGoneError if self.ended is not None else VMVerdictError
        text = self._story(verdict, limit)
        title, newline, rest = text.partition("\n")
        hint = f"If the test wants this, it says so: with vm.allow({verdict.kind!r}): …"
        return kind(f"{title} {when}{newline}{rest}\n{hint}", kind=verdict.kind, verdict=verdict)

    def wanted(self, event: QMPEvent) -> None:
        """A wait was for this very event; see ``Watch``."""
        kinds = EVENT_KINDS.get(event.name)
        if kinds is None:
            return
        key = _key(event)
        with self._changed:
            self._wanted_events.add(key)
            self._verdicts = [
                one for one in self._verdicts if one.event is None or _key(one.event) != key
            ]
            self._look()

    @property
    def first(self) -> Verdict | None:
        """The first verdict that is not wanted."""
        with self._changed:
            return self._first()

    @property
    def unmet(self) -> Verdict | None:
        """The first verdict that is not wanted, if no wait has met it."""
        with self._changed:
            return self._first(met=False)

    def take_unmet(self) -> list[Verdict]:
        """The verdicts that no wait has met; each is handed out once."""
        with self._changed:
            unmet = [one for one in self._verdicts if id(one) not in self._met]
            self._met.update(map(id, unmet))
            # What follows from one that was told is no news.
            told = len(unmet) < len(self._verdicts)
        return [] if told else unmet

    def wait_for_end(self, deadline: Deadline) -> ProcessEnd | None:
        """Waits until the process has ended, or something else ends the wait, or the deadline."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.ended is not None or self._first() is not None, deadline.remaining()
            )
            return self.ended

    def wait_for_last_words(self, but: frozenset[str]) -> float:
        """Seconds that are left for a console to bring what a wait is for; endless: no verdict.

        Args:
            but: kinds that the wait is not ended by.
        """
        with self._changed:
            verdict = self._first(but=but)
        if verdict is None:
            return math.inf
        return _last_words_left(verdict)

    def _first(self, met: bool = True, but: frozenset[str] = frozenset()) -> Verdict | None:
        for verdict in self._verdicts:
            if not verdict.fatal or verdict.kind in but:
                continue
            # Once a test knows of the first one, commands tell it more.
            return verdict if met or id(verdict) not in self._met else None
        return None


def _last_words_left(verdict: Verdict) -> float:
    return max(0.0, verdict.moment + LAST_WORDS_SECONDS - time.monotonic())


def _ends_qemu(verdict: Verdict) -> bool:
    action = verdict.event.data.get("action") if verdict.event is not None else None
    return verdict.kind == "shutdown" or action in ("poweroff", "shutdown")


def _key(event: QMPEvent) -> _EventKey:
    # QEMU stamps an event once, and sends the same to every monitor.
    return event.name, event.timestamp


def _kinds_of(names: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*(EVENT_KINDS.get(name, ()) for name in names))
