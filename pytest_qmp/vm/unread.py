"""The text at a console that nothing has matched yet: a window of it in memory, the log on disk."""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Callable

from pytest_qmp.vm.searching import Searcher
from pytest_qmp.vm.stream import OutputStream

__all__ = ["UnreadText"]

# What is left behind a match is kept up to there; more is read again when it is looked at.
_KEPT = 8192
_SLICE = 4096
_LONGEST_CHARACTER = 4


class UnreadText:
    """Decodes a log piece by piece, and knows the place in it of each character.

    Characters count from the first one ever; the window has those from ``first`` on.

    Args:
        stream: the log.
        on_read: gets each piece of text once, as it is decoded.

    Attributes:
        first: the number of the window's first character.
        start: the byte at which the text begins that nothing has matched.
        taken: how many bytes were decoded.
        seen: how many bytes were looked at: the beginning of a character may be among them.
        whole: True as long as the window holds all that nothing has matched.
    """

    def __init__(self, stream: OutputStream, on_read: Callable[[str], None]) -> None:
        self.first = 0
        self.start = self.taken = self.seen = 0
        self.whole = True
        self._stream = stream
        self._on_read = on_read
        self._told = 0
        # Up to that character it is no text of the log.
        self._given = 0
        # What was looked for in vain, and from where on more text could still bring it.
        self._tried: tuple[object, list[int]] | None = None
        self._parts: list[str] = []
        self._length = 0
        # Where pieces begin: character, byte.
        self._marks: list[tuple[int, int]] = []

    @property
    def text(self) -> str:
        """The window."""
        if len(self._parts) != 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def length(self) -> int:
        """How many characters the window has."""
        return self._length

    def take(self, size: int) -> int:
        """Takes in more of the log, without waiting.

        Args:
            size: how many bytes at most.

        Returns:
            How many characters came; 0: there is none yet, or never will be.
        """
        if self.taken < self._told:
            # What was read before is not told again.
            size = min(size, self._told - self.taken)
        text, used = self._decode(size)
        if not used:
            return 0
        self._marks.append((self.first + self._length, self.taken))
        self.taken += used
        if self.taken > self._told:
            self._told = self.taken
            self._on_read(text)
        self._parts.append(text)
        self._length += len(text)
        return len(text)

    def _decode(self, size: int) -> tuple[str, int]:
        ended = self._stream.ended
        data = self._stream.read_at(self.taken, size)
        self.seen = self.taken + len(data)
        last = ended and self.seen >= self._stream.size
        text, used = codecs.utf_8_decode(data, "replace", last)
        if not used and len(data) == size < _LONGEST_CHARACTER:
            return self._decode(_LONGEST_CHARACTER)
        return text, used

    def trim(self, keep: int) -> int:
        """Lets go of the window's beginning, up to that index, where that is worth the work.

        Returns:
            How many characters have gone.
        """
        if keep <= max(_KEPT, self._length // 2):
            return 0
        self._parts = [self.text[keep:]]
        self._length -= keep
        self.first += keep
        self.whole = False
        self._forget_marks()
        return keep

    def consume(self, end: int) -> None:
        """What comes before that index is matched: the text begins there from now on."""
        place = self.first + end
        self.start = self._byte_of(place)
        self.first = place
        self.whole = True
        self._tried = None
        if self._length - end > _KEPT and place >= self._given:
            self._drop()
            return
        self._parts = [self.text[end:]]
        self._length -= end
        self._forget_marks()

    def begin(self, searcher: Searcher) -> None:
        """Begins with all that nothing has matched, or where the same was looked for before."""
        tried, self._tried = self._tried, None
        if tried is not None and tried[0] == searcher.key:
            searcher.begins = tried[1]
        elif not self.whole:
            self._drop()

    def note_failure(self, searcher: Searcher) -> None:
        """Nothing was found; the same searcher need not begin anew."""
        self._tried = searcher.key, searcher.begins

    def skip(self, byte: int) -> None:
        """The text begins at that byte from now on."""
        self.start = byte
        self._drop()

    def replace(self, text: str) -> None:
        """Puts a text in the place of all that has come so far."""
        self.skip(self._stream.size)
        self._told = max(self._told, self.start)
        self._marks = [(self.first, self.start)]
        self._parts = [text]
        self._length = len(text)
        self._given = self.first + len(text)

    def before(self, end: int) -> str | tuple[int, int]:
        """The unmatched text up to an index: itself, or from which byte to which it stands."""
        if self.whole:
            return self.text[:end]
        return self.start, self._byte_of(self.first + end)

    def buffered(self) -> str | None:
        """What ``replace()`` has put here, and all that came since; None: the log has it all."""
        if self.first >= self._given or not self.whole:
            return None
        while self.take(_SLICE):
            pass
        return self.text

    def _drop(self) -> None:
        self._parts = []
        self._length = 0
        self._marks = []
        self._tried = None
        self.whole = True
        self.taken = self.seen = self.start

    def _forget_marks(self) -> None:
        del self._marks[: max(0, bisect_right(self._marks, (self.first, self.taken)) - 1)]

    def _byte_of(self, place: int) -> int:
        """Where in the log a character of the window stands."""
        if place >= self.first + self._length:
            return self.taken
        number = bisect_right(self._marks, (place, self.taken)) - 1
        character, byte = self._marks[number]
        following = self._marks[number + 1 :][:1]
        end_character, end = following[0] if following else (self.first + self._length, self.taken)
        if end - byte in (0, end_character - character):
            # It is ASCII, or no text of the log.
            return min(end, byte + place - character)
        return byte + _bytes_of(self._stream.read_at(byte, end - byte), place - character)


def _bytes_of(data: bytes, count: int) -> int:
    """How many bytes the first characters take, each undecodable sequence being one.

    >>> _bytes_of(b"a\\xc3\\xa9\\xff\\xffb", 3)
    4
    """
    place = 0
    while count > 0:
        piece = data[place : place + _SLICE]
        try:
            text, used = codecs.utf_8_decode(piece, "strict", place + _SLICE >= len(data))
            wrong = 0
        except UnicodeDecodeError as error:
            text, used = piece[: error.start].decode(), error.start
            wrong = error.end - error.start
        if len(text) >= count:
            return place + len(text[:count].encode())
        place += used + wrong
        count -= len(text) + bool(wrong)
        if not used and not wrong:
            break
    return place
