"""Writes JSON as QEMU does: its key order, its escapes, its numbers, its pretty mode."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
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


def _block(opening: str, items: Iterable[str], closing: str, indent: int | None) -> str:
    if indent is None:
        return opening + ", ".join(items) + closing
    inner = "\n" + " " * (indent + 4)
    return opening + ",".join(inner + item for item in items) + "\n" + " " * indent + closing


def emit(value: Any, pretty: bool = False) -> str:
    """The JSON text of a value, without an end of line.

    Raises:
        TypeError: the value has something that JSON has not.
    """
    return _emit(value, 0 if pretty else None)


def _emit(value: Any, indent: int | None) -> str:
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
    deeper = None if indent is None else indent + 4
    if isinstance(value, Mapping):
        items = [f"{_string(key)}: {_emit(value[key], deeper)}" for key in hash_ordered(value)]
        return _block("{", items, "}", indent)
    if isinstance(value, (list, tuple)):
        return _block("[", [_emit(item, deeper) for item in value], "]", indent)
    if isinstance(value, Encoded):
        return value.text if indent is None else _emit(value.value, indent)
    raise TypeError(f"{value!r} can't be sent as JSON")
