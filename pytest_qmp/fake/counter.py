"""Numbers, one after the other, for what can be copied."""

from __future__ import annotations

__all__ = ["Counter"]


class Counter:
    """As ``itertools.count()``, of which Python makes no copies any more."""

    def __init__(self) -> None:
        self._next = 0

    def __next__(self) -> int:
        number = self._next
        self._next += 1
        return number
