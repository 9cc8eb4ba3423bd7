"""The loop of an expect: takes in what comes and looks for patterns, each text about once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator

from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.searching import Found, Searcher
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.unread import UnreadText

__all__ = ["Ending", "Outcome", "Wait", "expecting"]

_FIRST_PIECE = 4096
_LARGEST_PIECE = 1 << 18
#: A match that more text could change is final once nothing came for that many seconds …
_QUIET_SECONDS = 0.01
#: … or after that many, where text keeps coming.
_LONGEST_SETTLING = 0.25
# A text that has to be searched from its beginning again is, once it has grown by a third, and
# between whiles for half of the time at most.
_GROWTH = 3
_REST = 1
_SHORT_SEARCH = 0.0005


class Ending(Exception):  # noqa: N818 - ends a wait, and is no error by itself
    """Nothing was found.

    Attributes:
        ended: True if nothing more can come; else the time is up.
    """

    def __init__(self, *, ended: bool) -> None:
        super().__init__(ended)
        self.ended = ended


#: How many bytes are known, how often the stream's readers had to look, and the seconds to wait.
Wait = tuple[int, int, float | None]
Outcome = Generator[Wait, None, Found]


def expecting(
    unread: UnreadText,
    stream: OutputStream,
    searcher: Searcher,
    deadline: Deadline,
    patience: Callable[[], float],
    *,
    settle: bool = True,
) -> Outcome:
    """Looks until something is found; each wait is yielded to whoever runs it.

    What it finds is what one search of all the text would find that has come by then.

    Args:
        unread: what to look through; on return its window holds the match.
        stream: where it comes from.
        searcher: what to look for.
        deadline: of the whole.
        patience: how many more seconds it makes sense to wait.
        settle: False takes a match at once, though more text could make it another.

    Raises:
        Ending: nothing was found.
    """
    unread.begin(searcher)
    look = _Look(unread, searcher, settle)
    look.search()
    settling: _Settling | None = None
    enough: int | None = None
    while not look.final:
        ended, looks, size = stream.ended, stream.looks, stream.size
        if look.found is None:
            settling = None
        elif settling is None:
            settling = _Settling(size)
        if enough is None and deadline.expired:
            # What has come by now is looked at, and no more.
            enough = size
        over = enough is not None and unread.taken >= enough
        over = over or (settling is not None and settling.over(unread.taken))
        if not over and unread.take(look.piece()):
            look.came()
            continue
        if over or ended or enough is not None:
            look.search()
            if look.found is not None:
                break
            if enough is None and not ended:
                continue
            unread.note_failure(searcher)
            raise Ending(ended=ended and (not over or unread.taken >= size))
        limit = patience()
        if limit <= 0:
            enough = size
            continue
        if settling is not None:
            limit = min(limit, settling.left())
            if limit <= 0:
                look.search()
                if look.found is not None:
                    break
                continue
        pause = look.pause()
        if pause <= 0:
            look.search()
            continue
        left = deadline.remaining()
        wait = min(limit, pause) if left is None else min(limit, pause, left)
        yield unread.seen, looks, None if wait == math.inf else wait
        if settling is not None and stream.size > unread.seen:
            settling.go_on()
    assert look.found is not None
    return look.found


class _Settling:
    """How long a match is still waited with, that more text could change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._began = self._quiet_since = time.monotonic()

    def go_on(self) -> None:
        """More has come."""
        self._quiet_since = time.monotonic()

    def left(self) -> float:
        """Seconds that may still be waited."""
        quiet_left = self._quiet_since + _QUIET_SECONDS
        return min(quiet_left, self._began + _LONGEST_SETTLING) - time.monotonic()

    def over(self, taken: int) -> bool:
        """Whether it has gone on for too long; not before all is looked at that had come."""
        return taken >= self._size and time.monotonic() > self._began + _LONGEST_SETTLING


class _Look:
    """When to search: so seldom that all searches together cost about one of the whole text."""

    def __init__(self, unread: UnreadText, searcher: Searcher, settle: bool) -> None:
        self.found: Found | None = None
        self.final = False
        self._settle = settle
        self._unread = unread
        self._searcher = searcher
        self._searched = -1
        self._next_time = 0.0
        self._piece = _FIRST_PIECE

    def piece(self) -> int:
        size = self._piece
        self._piece = min(2 * size, _LARGEST_PIECE)
        return size

    def came(self) -> None:
        again = self._searched - self._searcher.begin
        if (self._unread.length - self._searched) * _GROWTH >= again:
            self.search()

    def pause(self) -> float:
        """Seconds until the next search; infinite: there is nothing new to search."""
        if self._unread.length == self._searched:
            return math.inf
        return self._next_time - time.monotonic()

    def search(self) -> None:
        text = self._unread.text
        if len(text) == self._searched:
            return
        began = time.monotonic()
        self.found = self._searcher.search(text)
        if self.found is None:
            self._searcher.pass_by(text)
            behind = self._searcher.behind
            if behind < math.inf:
                gone = self._unread.trim(self._searcher.begin - int(behind))
                self._searcher.begins = [one - gone for one in self._searcher.begins]
        else:
            self.final = not self._settle or self._searcher.is_final(self.found, text)
        self._searched = self._unread.length
        now = time.monotonic()
        took = now - began
        self._next_time = now + (_REST * took if took > _SHORT_SEARCH else 0)
