"""One total, monotonic deadline for one wait."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline", "seconds"]

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

    __slots__ = ("at", "started", "timeout")

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"a timeout is a number of seconds, 0 or more, or None: not {timeout}")
        self.started = time.monotonic()
        self.timeout = timeout
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

    @property
    def expired(self) -> bool:
        """True once the moment has come."""
        return self.at is not None and time.monotonic() >= self.at

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self.started


def seconds(value: float | None) -> str:
    """A duration for a message: ``0.25 s``, ``30 s``, ``no limit``."""
    if value is None or value >= _ENDLESS:
        return "no limit"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
