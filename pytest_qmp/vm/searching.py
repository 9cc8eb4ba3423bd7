"""Finds patterns in a text that grows, each part of it looked at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pexpect

from pytest_qmp.vm.pattern_bounds import Bounds, bounds_of, literal_bounds

__all__ = ["Found", "Searcher"]

# Counting back over more lines than that costs more than it saves.
_MOST_NEWLINES = 64


@dataclass(frozen=True)
class Found:
    """A match: which pattern, where in the text, and what ``spawn.match`` is to be."""

    index: int
    start: int
    end: int
    match: Any


class Searcher:
    """Looks for several patterns: the one that begins first wins, then the one named first.

    Positions are indices into the text that it is given, which may lose its beginning meanwhile.

    Args:
        patterns: compiled regular expressions, or plain texts; ``pexpect.EOF`` and ``TIMEOUT``.
        window: matches that are longer may be missed; None: none is.

    Attributes:
        eof_index: of ``pexpect.EOF`` among the patterns; -1 if it is not there.
        timeout_index: the same of ``pexpect.TIMEOUT``.
        key: equal for searchers that look for the same.
        begins: from where on each pattern is looked for: it does not match before.
    """

    def __init__(self, patterns: Sequence[Any], window: int | None = None) -> None:
        self.eof_index = -1
        self.timeout_index = -1
        self.key = (tuple(patterns), window)
        self._wanted: list[tuple[int, Any, Bounds]] = []
        for index, one in enumerate(patterns):
            if one is pexpect.EOF:
                self.eof_index = index
            elif one is pexpect.TIMEOUT:
                self.timeout_index = index
            else:
                bounds = literal_bounds(one) if isinstance(one, str) else bounds_of(one)
                self._wanted.append((index, one, bounds))
        self._window = math.inf if window is None else window
        self.begins = [0] * len(self._wanted)

    @property
    def behind(self) -> float:
        """How much of the text before ``begins`` has to be there still."""
        return max((bounds.behind for _, _, bounds in self._wanted), default=0)

    @property
    def begin(self) -> int:
        """Before it nothing can be found any more, however much comes."""
        return min(self.begins, default=0)

    def search(self, text: str) -> Found | None:
        """The first match in all of the text."""
        best: Found | None = None
        for number, (index, pattern, bounds) in enumerate(self._wanted):
            found = _find(pattern, bounds, text, self.begins[number])
            if found is None:
                continue
            start, end, match = found
            if best is None or start < best.start:
                best = Found(index, start, end, match)
        return best

    def pass_by(self, text: str) -> None:
        """Nothing was found in this text: goes on from where more of it could change that."""
        if not self._wanted:
            self.begins = [len(text)]
            return
        for number, (_, _, bounds) in enumerate(self._wanted):
            self.begins[number] = self._open_from(number, bounds, text)

    def is_final(self, found: Found, text: str) -> bool:
        """Whether no further text can change what was found in this one."""
        for number, (index, _, bounds) in enumerate(self._wanted):
            if index == found.index and (
                found.end + bounds.lazy_margin <= len(text)
                or (bounds.steady and text.find(bounds.literal, self.begins[number]) >= found.start)
            ):
                continue
            # One that is named later has to begin earlier.
            last = found.start if index <= found.index else found.start - 1
            if self._open_from(number, bounds, text) <= last:
                return False
        return True

    def _open_from(self, number: int, bounds: Bounds, text: str) -> int:
        """The first place at which more text could still make this pattern match."""
        size = len(text)
        place = self.begins[number]
        width = min(bounds.width, self._window)
        if width < math.inf:
            place = max(place, size - int(width) + 1)
        if bounds.newlines <= _MOST_NEWLINES:
            line = size
            for _ in range(int(bounds.newlines) + 1):
                line = text.rfind("\n", place, line)
                if line < 0:
                    break
            else:
                place = line + 1
        if bounds.literal:
            return _could_begin(bounds.literal, text, min(place, size))
        return place


def _find(pattern: Any, bounds: Bounds, text: str, begin: int) -> tuple[int, int, Any] | None:
    if bounds.whole:
        start = text.find(bounds.literal, begin)
        if start < 0:
            return None
        match = pattern if isinstance(pattern, str) else pattern.match(text, start)
        return start, start + len(bounds.literal), match
    found: re.Match[str] | None = pattern.search(text, begin)
    return None if found is None else (found.start(), found.end(), found)


def _could_begin(literal: str, text: str, begin: int) -> int:
    """The first place from there on where the literal stands, or where its beginning ends it."""
    place = text.find(literal, begin)
    if place >= 0:
        return place
    for place in range(max(begin, len(text) - len(literal) + 1), len(text)):
        if text.endswith(literal[: len(text) - place]):
            return place
    return len(text)
