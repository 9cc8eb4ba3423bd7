"""Cuts a stream of bytes into JSON tokens the way QEMU's own lexer does, errors included."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Lexer", "Token"]

_SPACE = re.compile(rb"[ \t\r\n]*")
_WORD = re.compile(rb"[a-z]*")
# A string may hold any byte that is not a control character, 0xFE or 0xFF: what is not UTF-8 is
# found only when the token is parsed.
_BODY = {
    0x22: re.compile(rb'(?:[^\x00-\x1f"\\\xfe\xff]+|\\[^\x00-\x1f\xfe\xff])*'),
    0x27: re.compile(rb"(?:[^\x00-\x1f'\\\xfe\xff]+|\\[^\x00-\x1f\xfe\xff])*"),
}
# What is skipped after an error, until something that can start afresh.
_SKIPPED = re.compile(rb"[\t\x20-\x2b\x2d-\x39\x3b-\x5a\x5c\x5e-\x7a\x7c\x7e-\xfd]*")

_PUNCTUATION = {code: chr(code) for code in b"{}[]:,"}
_WHITESPACE = frozenset(b" \t\r\n")
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_ENDED_BY_LOOKING_AHEAD = frozenset({"number", "keyword"})
_BACKSLASH, _MINUS = b"\\-"
_DIGITS = frozenset(b"0123456789")
_EXPONENT = frozenset(b"eE")
_SIGN = frozenset(b"+-")


class Token(NamedTuple):
    """A token: ``kind`` is a punctuation mark, "string", "number", "keyword" or "error".

    ``line`` and ``column`` are where it began, counted from 1.
    """

    kind: str
    text: bytes
    line: int
    column: int


def _scan_number(data: bytearray, position: int) -> tuple[int, bool | None]:
    """Goes over a number: where it ends, and whether it is one (None: more bytes are needed)."""
    state = "start"
    for index in range(position, len(data)):
        code = data[index]
        following = _after_digit_or_mark(state, code)
        if following == "end":
            return index, True
        if following == "error":
            return index + 1, False
        state = following
    return len(data), None


def _after_digit_or_mark(state: str, code: int) -> str:
    if state == "start":
        return "minus" if code == 0x2D else "zero" if code == 0x30 else "integer"
    if state == "minus":
        return "zero" if code == 0x30 else "integer" if code in _DIGITS else "error"
    if state in ("zero", "integer"):
        if code in _DIGITS:
            return "integer" if state == "integer" else "error"
        if code == 0x2E:
            return "point"
        # QEMU takes no exponent straight after a zero: "0e1" is 0, then the keyword "e", then 1.
        return "exponent" if code in _EXPONENT and state == "integer" else "end"
    if state in ("point", "fraction"):
        if code in _DIGITS:
            return "fraction"
        if state == "point":
            return "error"
        return "exponent" if code in _EXPONENT else "end"
    if code in _DIGITS:
        return "power"
    if state == "exponent" and code in _SIGN:
        return "sign"
    return "end" if state == "power" else "error"


class Lexer:
    """Takes bytes in pieces of any size and gives the tokens that are complete."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._scanned = 0
        self._recovering = False
        self._line = 1
        self._column = 1
        # QEMU counts a byte that ended a token without being part of it before it looks at it
        # again, so that what starts with that byte is one column further than it really is.
        self._shift = 0

    def feed(self, data: bytes) -> list[Token]:
        """The tokens that are complete with ``data``."""
        # Grown in place: a long string comes in many pieces.
        self._held += data
        held, scanned, size = self._held, self._scanned, len(self._held)
        self._scanned = 0
        tokens = []
        position = 0
        while position < size:
            if self._recovering:
                end = _end(_SKIPPED, held, position)
                self._move(held, position, end)
                position, self._shift = end, 1
                self._recovering = end == size
                continue
            code = held[position]
            if code in _WHITESPACE:
                end = _end(_SPACE, held, position)
                self._move(held, position, end)
                position, self._shift = end, 0
                continue
            kind, end = self._scan(held, position, max(scanned, position + 1))
            if kind is None:
                self._scanned = end - position
                break
            scanned = 0
            tokens.append(
                Token(kind, bytes(held[position:end]), self._line, self._column + self._shift)
            )
            self._move(held, position, end)
            position = end
            self._recovering = kind == "error"
            self._shift = 1 if kind in _ENDED_BY_LOOKING_AHEAD else 0
        del held[:position]
        return tokens

    @staticmethod
    def _scan(data: bytearray, position: int, scanned: int) -> tuple[str | None, int]:
        """The kind of the token at ``position`` and its end.

        The kind is None for a token that may go on after these bytes; then the end says how far
        it was looked at.
        """
        code = data[position]
        mark = _PUNCTUATION.get(code)
        if mark is not None:
            return mark, position + 1
        if code in _BODY:
            end = _end(_BODY[code], data, scanned)
            if end == len(data) or (data[end] == _BACKSLASH and end + 1 == len(data)):
                return None, end
            if data[end] == code:
                return "string", end + 1
            return "error", end + (2 if data[end] == _BACKSLASH else 1)
        if code in _DIGITS or code == _MINUS:
            end, valid = _scan_number(data, position)
            if valid is None:
                return None, position
            return ("number" if valid else "error"), end
        if code in _LETTERS:
            end = _end(_WORD, data, position)
            return (None, position) if end == len(data) else ("keyword", end)
        return "error", position + 1

    def _move(self, data: bytearray, start: int, end: int) -> None:
        newlines = data.count(b"\n", start, end)
        if newlines:
            self._line += newlines
            self._column = end - data.rindex(b"\n", start, end)
        else:
            self._column += end - start


def _end(pattern: re.Pattern[bytes], data: bytearray, position: int) -> int:
    match = pattern.match(data, position)
    return match.end() if match else position
