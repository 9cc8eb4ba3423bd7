"""Writes JSON as QEMU does: its key order, its escapes, its numbers, its pretty mode."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Encoded", "emit", "hash_ordered"]

_BUCKETS = 512
_NEEDS_ESCAPE = re.compile(r"[^ !#-\[\]-~]")
_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


class Encoded:
    """A large value that is always the same, and is written only once."""

    __slots__ = ("text", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.text = emit(value)


@functools.lru_cache(maxsize=4096)
def _bucket(key: str) -> int:
    """Where QEMU's table keeps a key (the hash of Samba's tdb, on 32 bits)."""
    data = key.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")
    value = 0x238F13AF * len(data)
    for index, byte in enumerate(data):
        value += byte << (index * 5 % 24)
    return (1103515243 * value + 12345) % 2**32 % _BUCKETS


def hash_ordered(mapping: Mapping[str, Any]) -> list[str]:
    """The keys in the order in which QEMU goes through such an object."""
    keys = list(mapping)
    keys.reverse()
    keys.sort(key=_bucket)
    return keys


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    short = _SHORT_ESCAPES.get(char)
    if short is not None:
        return short
    code = ord(char)
    if 0xD800 <= code < 0xE000:
        return "\\uFFFD"
    if code < 0x10000:
        return f"\\u{code:04X}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04X}\\u{0xDC00 | code & 0x3FF:04X}"


def _string(text: str) -> str:
    return '"' + _NEEDS_ESCAPE.sub(_escape, text) + '"'


def emit(value: Any, pretty: bool = False) -> str:
    """The JSON text of a value, without an end of line.

    Raises:
        TypeError: the value has something that JSON has not.
    """
    # Without recursion: a client's id is sent back however deep it is.
    parts: list[str] = []
    open_ones: list[_Open] = []
    while True:
        while isinstance(value, Encoded) and pretty:
            value = value.value
        text = _scalar(value)
        if text is None:
            open_ones.append(_Open(value))
            parts.append(open_ones[-1].opening)
        else:
            parts.append(text)
        pair = None
        while open_ones and (pair := open_ones[-1].following()) is None:
            closed = open_ones.pop()
            parts.append(f"{_new_line(open_ones)}{closed.closing}" if pretty else closed.closing)
        if pair is None:
            return "".join(parts)
        first, key, value = pair
        if not first:
            parts.append("," if pretty else ", ")
        if pretty:
            parts.append(_new_line(open_ones))
        parts.append(key)


class _Open:
    """An object or a list that is being written."""

    __slots__ = ("_is_first", "_items", "closing", "opening")

    def __init__(self, value: Any) -> None:
        self._is_first = True
        self._items: Iterator[tuple[str, Any]]
        if isinstance(value, Mapping):
            self.opening, self.closing = "{", "}"
            self._items = ((f"{_string(key)}: ", value[key]) for key in hash_ordered(value))
        elif isinstance(value, (list, tuple)):
            self.opening, self.closing = "[", "]"
            self._items = (("", item) for item in value)
        else:
            raise TypeError(f"{value!r} can't be sent as JSON")

    def following(self) -> tuple[bool, str, Any] | None:
        """Whether it is the first, what comes before it, and the next value; None at the end."""
        pair = next(self._items, None)
        if pair is None:
            return None
        first, self._is_first = self._is_first, False
        return (first, *pair)


def _new_line(open_ones: Sequence[_Open]) -> str:
    return "\n" + " " * (4 * len(open_ones))


def _scalar(value: Any) -> str | None:
    if isinstance(value, str):
        return _string(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.17g}"
    return value.text if isinstance(value, Encoded) else None
