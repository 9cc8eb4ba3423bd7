"""Which one of several unexpected arguments QEMU names: the first one in its set of strings."""

from __future__ import annotations

from collections.abc import Container, Sequence

__all__ = ["first_in_set"]

_LEAST_SHIFT = 3
#: The largest primes below 2**n, as far as anyone sends arguments.
_PRIMES = (1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521)


def _hash(text: str) -> int:
    """Bernstein's hash as GLib has it: 32 bits, bytes signed, 0 and 1 kept for itself."""
    value = 5381
    for byte in text.encode("utf-8", "surrogatepass"):
        value = (value * 33 + (byte - 256 if byte > 127 else byte)) % 2**32
    return max(value, 2)


class _StringSet:
    """An open hash table that fills, and grows, in the order in which GLib's does."""

    def __init__(self) -> None:
        self._prime = _PRIMES[_LEAST_SHIFT]
        self.slots: list[str | None] = [None] * (1 << _LEAST_SHIFT)

    def add(self, text: str, used: int) -> None:
        self.slots[self._free(text, self.slots)] = text
        if len(self.slots) <= used + used // 16:
            self._grow(used)

    def _free(self, text: str, taken: Sequence[object]) -> int:
        index = _hash(text) * 11 % 2**32 % self._prime
        step = 0
        while taken[index]:
            step += 1
            index = (index + step) % len(self.slots)
        return index

    def _grow(self, used: int) -> None:
        shift = min(max(int(used * 1.333).bit_length(), _LEAST_SHIFT), len(_PRIMES) - 1)
        previous = len(self.slots)
        self._prime = _PRIMES[shift]
        self.slots += [None] * ((1 << shift) - previous)
        settled = [False] * len(self.slots)
        for index in range(previous):
            text = None if settled[index] else self.slots[index]
            if text is not None:
                self.slots[index] = None
            while text is not None:
                place = self._free(text, settled)
                settled[place] = True
                self.slots[place], text = text, self.slots[place]


def first_in_set(texts: Sequence[str], wanted: Container[str]) -> str:
    """What QEMU comes upon first of ``wanted`` when all ``texts`` were put in its set in turn."""
    table = _StringSet()
    for used, text in enumerate(texts, 1):
        table.add(text, used)
    return next(text for text in table.slots if text is not None and text in wanted)
