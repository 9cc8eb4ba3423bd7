"""The order in which QEMU goes through names that it keeps in a hash table of GLib's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

__all__ = ["StringTable", "first_in_set"]

_LEAST_SHIFT = 3
#: The largest primes below 2**n, as far as anyone sends arguments.
_PRIMES = (1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521)


def _hash(text: str) -> int:
    """Bernstein's hash as GLib has it: 32 bits, bytes signed, 0 and 1 kept for itself."""
    value = 5381
    for byte in text.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80"):
        value = (value * 33 + (byte - 256 if byte > 127 else byte)) % 2**32
    return max(value, 2)


class StringTable:
    """An open hash table that fills, grows and shrinks in the way of GLib's.

    Iterating over it goes through its texts in the order in which GLib does.
    """

    def __init__(self) -> None:
        self._size = 1 << _LEAST_SHIFT
        self._prime = _PRIMES[_LEAST_SHIFT]
        self._count = 0
        # Slots in use, those of removed texts included until the next change of size.
        self._occupied = 0
        self._slots: list[str | None] = [None] * self._size

    def __iter__(self) -> Iterator[str]:
        return iter([text for text in self._slots if text is not None])

    def add(self, text: str) -> None:
        """Puts in a text that is not in the table yet."""
        self._slots[self._free(text, self._slots)] = text
        self._count += 1
        self._occupied += 1
        self._resize()

    def remove(self, text: str) -> None:
        """Takes out a text that is in the table."""
        self._slots[self._slots.index(text)] = None
        self._count -= 1
        self._resize()

    def _free(self, text: str, taken: Sequence[object]) -> int:
        index = _hash(text) * 11 % 2**32 % self._prime
        step = 0
        while taken[index] not in (None, False):
            step += 1
            index = (index + step) % self._size
        return index

    def _resize(self) -> None:
        too_large = self._size > max(self._count * 4, 1 << _LEAST_SHIFT)
        if not too_large and self._size > self._occupied + self._occupied // 16:
            return
        shift = max(int(self._count * 1.333).bit_length(), _LEAST_SHIFT)
        shift = min(shift, len(_PRIMES) - 1)
        previous, self._size, self._prime = self._size, 1 << shift, _PRIMES[shift]
        self._slots += [None] * (self._size - previous)
        settled = [False] * len(self._slots)
        for index in range(previous):
            text = None if settled[index] else self._slots[index]
            if text is not None:
                self._slots[index] = None
            while text is not None:
                place = self._free(text, settled)
                settled[place] = True
                self._slots[place], text = text, self._slots[place]
        del self._slots[self._size :]
        self._occupied = self._count


def first_in_set(texts: Iterable[str], removed: Iterable[str]) -> str:
    """What QEMU comes upon first when ``texts`` were put in its set, then ``removed`` taken out."""
    table = StringTable()
    for text in texts:
        table.add(text)
    for text in removed:
        table.remove(text)
    return next(iter(table))
