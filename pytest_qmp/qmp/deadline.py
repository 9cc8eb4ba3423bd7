"""One total, monotonic deadline for one wait."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline", "WaitLimits", "limits", "seconds"]

# More than any clock of the operating system takes; nobody sees the difference to no limit.
_ENDLESS = 1e9


class Deadline:
    """The moment at which a wait ends, set once and never moved by traffic.

    Args:
        timeout: seconds from now; None (or infinity) waits without limit; 0 looks at what has
            already come and does not wait.

    Raises:
        ValueError: for a negative number, or one that is not a number.
    """

    __slots__ = ("at", "note", "started", "timeout")

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"a timeout is a number of seconds, 0 or more, or None: not {timeout}")
        self.started = time.monotonic()
        self.timeout = timeout
        self.note = ""
        self.at = None if timeout is None or timeout >= _ENDLESS else self.started + timeout

    def remaining(self) -> float | None:
        """Seconds left, never below 0; None where there is no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def poll_milliseconds(self, longest: float = math.inf) -> int | None:
        """What is left for ``poll()``, rounded up so that it never wakes early and spins.

        Args:
            longest: seconds that it may be at most.
        """
        left = longest
        if self.at is not None:
            left = self.at - time.monotonic()
            if left <= 0:
                return 0
            if left > longest:
                left = longest
        return None if left == math.inf else min(math.ceil(left * 1000), 2**31 - 1)

    def end_by(self, moment: float, note: str) -> None:
        """Moves it forward to a moment of ``time.monotonic()``, unless it is earlier already."""
        if self.at is None or moment < self.at:
            self.at = moment
            self.timeout = max(0.0, moment - self.started)
            self.note = note

    @property
    def words(self) -> str:
        """How long the wait may take, for a message: ``30 s``."""
        return f"{seconds(self.timeout)}{self.note}"

    @property
    def expired(self) -> bool:
        """True once the moment has come."""
        return self.at is not None and time.monotonic() >= self.at

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self.started


class WaitLimits:
    """What holds for every wait that a user asks for, beside its own timeout.

    Attributes:
        scale: what timeouts are multiplied by, for slow hosts.
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self._ends: list[tuple[float, str]] = []

    def end_waits_by(self, moment: float, note: str) -> tuple[float, str]:
        """No wait goes beyond a moment of ``time.monotonic()``, until ``lift()``.

        Args:
            moment: when.
            note: added to the time in a message: `` (all that … left)``.

        Returns:
            What ``lift()`` takes.
        """
        end = moment, note
        self._ends.append(end)
        return end

    def lift(self, end: tuple[float, str]) -> None:
        """That end holds no more. Idempotent."""
        if end in self._ends:
            self._ends.remove(end)

    @property
    def bounded(self) -> bool:
        """Whether there is a moment now beyond which no wait goes."""
        return bool(self._ends)

    def deadline(self, timeout: float | Deadline | None) -> Deadline:
        """The deadline of a wait that a user asks for; that of the outer one if it is given."""
        if isinstance(timeout, Deadline):
            return timeout
        if timeout is not None and self.scale != 1.0:
            timeout *= self.scale
        return self.bound(Deadline(timeout))

    def bound(self, deadline: Deadline) -> Deadline:
        """The same deadline, moved forward to where every wait ends by now."""
        # A copy: another thread may lift the last one meanwhile.
        ends = list(self._ends)
        if ends:
            deadline.end_by(*min(ends))
        return deadline


#: Of this process: the tests of one run one after the other.
limits = WaitLimits()


def seconds(value: float | None) -> str:
    """A duration for a message: ``0.25 s``, ``30 s``, ``no limit``."""
    if value is None or value >= _ENDLESS:
        return "no limit"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
