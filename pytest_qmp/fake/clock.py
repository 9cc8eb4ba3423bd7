"""The time of an emulated machine: real, or standing still until a test moves it on."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable

from .counter import Counter

__all__ = ["Clock", "Timer"]


class Timer:
    """Something to be done at a point in time, unless it is cancelled before."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """It will not be done; nothing happens if it was."""
        self._action = None

    def fire(self) -> None:
        """Does it, unless it was cancelled or done."""
        action, self._action = self._action, None
        if action is not None:
            action()


class Clock:
    """Seconds since the machine began, and what is to be done when.

    Args:
        schedule: calls a function so many real seconds later.
        virtual: time stands still but for ``advance()``.
    """

    def __init__(
        self, schedule: Callable[[float, Callable[[], None]], None], *, virtual: bool = False
    ) -> None:
        self._schedule = schedule
        self._virtual = virtual
        self._origin = time.monotonic()
        self._advanced = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = Counter()
        self._soon: deque[Callable[[], None]] = deque()

    @property
    def now(self) -> float:
        """Seconds since the machine began."""
        passed = 0.0 if self._virtual else time.monotonic() - self._origin
        return passed + self._advanced

    def call_soon(self, action: Callable[[], None]) -> None:
        """Does it as soon as the present command has its reply."""
        self._soon.append(action)

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Does it in so many seconds."""
        timer = Timer(action)
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), timer))
        if not self._virtual:
            self._schedule(seconds, self._run_due)
        return timer

    def look_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Does it in so many real seconds: for what goes on outside, whatever the time is here."""
        self._schedule(seconds, action)

    def resume(self, now: float) -> None:
        """Goes on from that time, with what is still to be done."""
        self._origin = time.monotonic()
        self._advanced = now
        if not self._virtual:
            for due, _, _ in self._timers:
                self._schedule(max(0.0, due - now), self._run_due)

    def settle(self) -> None:
        """The present command has its reply: what was to come soon after it comes."""
        while self._soon:
            self._soon.popleft()()

    def advance(self, seconds: float) -> None:
        """Moves on, and does what falls due on the way, each thing at its moment."""
        target = self.now + seconds
        while self._timers and self._timers[0][0] <= target:
            due = self._timers[0][0]
            self._advanced += max(0.0, due - self.now)
            self._run_due()
        self._advanced += max(0.0, target - self.now)

    def _run_due(self) -> None:
        # What a timer starts anew now isn't due before the next look.
        now = self.now
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].fire()
            self.settle()
