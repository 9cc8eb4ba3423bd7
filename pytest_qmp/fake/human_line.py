"""A line of the human monitor, taken apart as QEMU does: names, strings, numbers, flags."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["LineFault", "read_arguments", "read_integer", "split_name"]

_EXPECTED = {
    "s": "{}: string expected",
    "F": "{}: filename expected",
    "B": "{}: block device name expected",
}
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+")
_SIZE = re.compile(r"(\d+)([bBkKmMgGtT]?)(?=\s|$)")
_SHIFTS = {"b": 0, "k": 10, "m": 20, "": 20, "g": 30, "t": 40}


class LineFault(Exception):  # noqa: N818 - an answer, not an error of the fake
    """What QEMU prints about a line that it can't read."""


def split_name(line: str) -> tuple[str, str]:
    """The name that a line begins with, and the rest."""
    found = re.match(r"[^\s/]*", line)
    end = found.end() if found else 0
    return line[:end], line[end:]


def read_arguments(name: str, shape: str, text: str) -> dict[str, Any]:
    """The arguments of a command.

    Args:
        name: as errors call the command.
        shape: ``name:kind`` for each argument, with a ``?`` behind for one that may be left out,
            ``-x`` for a flag, ``-x:`` for one with a string. Kinds: ``s`` string,
            ``F`` file, ``B`` block device, ``i`` number, ``M`` mebibytes, ``o`` size,
            ``b`` on or off, ``S`` the rest of the line.
        text: what came behind the name.

    Raises:
        LineFault: they are not like that.
    """
    reader = _Reader(name, text)
    found: dict[str, Any] = {}
    for part in shape.split():
        if part.startswith("-"):
            flag, takes_value, _ = part.partition(":")
            found[flag] = reader.flag(flag)
            if takes_value and found[flag]:
                reader.skip_space()
                found[flag] = reader.value("s")
            continue
        key, _, kind = part.partition(":")
        optional = kind.endswith("?")
        reader.skip_space()
        if optional and reader.at_end:
            continue
        found[key] = reader.value(kind.rstrip("?"))
    reader.skip_space()
    if not reader.at_end:
        raise LineFault(f"{name}: extraneous characters at the end of line")
    return found


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._text)

    @property
    def _here(self) -> str:
        return self._text[self._at : self._at + 1]

    def skip_space(self) -> None:
        while self._here.isspace():
            self._at += 1

    def flag(self, flag: str) -> bool:
        self.skip_space()
        found = re.compile(re.escape(flag) + r"(?=\s|$)").match(self._text, self._at)
        if found:
            self._at = found.end()
        return bool(found)

    def value(self, kind: str) -> Any:
        if kind in _EXPECTED:
            return self._string(kind)
        if kind == "S":
            if self.at_end:
                raise LineFault(_EXPECTED["s"].format(self._name))
            rest, self._at = self._text[self._at :].rstrip(), len(self._text)
            return rest
        if kind == "b":
            word = self._word()
            if word not in ("on", "off"):
                raise LineFault("Expected 'on' or 'off'")
            return word == "on"
        if kind == "o":
            found = _SIZE.match(self._text, self._at)
            if not found:
                raise LineFault("invalid size")
            self._at = found.end()
            return int(found[1]) << _SHIFTS[found[2].lower()]
        number, self._at = read_integer(self._text, self._at)
        if kind == "M":
            if number < 0:
                raise LineFault("enter a positive value")
            return number << 20
        return number

    def _word(self) -> str:
        found = re.compile(r"\S*").match(self._text, self._at)
        word = found[0] if found else ""
        self._at += len(word)
        return word

    def _string(self, kind: str) -> str:
        if self.at_end:
            raise LineFault(_EXPECTED[kind].format(self._name))
        if self._here != '"':
            return self._word()
        self._at += 1
        taken = []
        while not self.at_end and self._here != '"':
            char = self._here
            if char == "\\":
                self._at += 1
                if self._here not in _ESCAPES:
                    # What is wrong with it goes to QEMU's standard output.
                    raise LineFault(_EXPECTED[kind].format(self._name))
                char = _ESCAPES[self._here]
            taken.append(char)
            self._at += 1
        if self.at_end:
            raise LineFault(_EXPECTED[kind].format(self._name))
        self._at += 1
        return "".join(taken)


def read_integer(text: str, start: int = 0) -> tuple[int, int]:
    """An expression of integers at a place of a text; its value, and where it ends.

    Raises:
        LineFault: there is none.
    """
    expression = _Expression(text, start)
    return expression.sum(), expression.at


class _Expression:
    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self.at = start

    def sum(self) -> int:
        value = self._logic()
        while self._next() and self._next() in "+-":
            sign = 1 if self._take() == "+" else -1
            value += sign * self._logic()
        return _signed(value)

    def _logic(self) -> int:
        value = self._product()
        while self._next() and self._next() in "&|^":
            sign, other = self._take(), self._product()
            value = (
                value & other if sign == "&" else value | other if sign == "|" else value ^ other
            )
        return value

    def _product(self) -> int:
        value = self._unary()
        while self._next() and self._next() in "*/%":
            sign, other = self._take(), self._unary()
            if sign == "*":
                value *= other
            elif not other:
                raise LineFault("division by zero")
            else:
                value = value // other if sign == "/" else value % other
        return value

    def _unary(self) -> int:
        char = self._next()
        if not char:
            raise LineFault("unexpected end of expression")
        if char in "+-~":
            self._take()
            value = self._unary()
            return {"+": value, "-": -value, "~": ~value}[char]
        if char == "(":
            self._take()
            value = self.sum()
            if self._next() != ")":
                raise LineFault("')' expected")
            self._take()
            return value
        found = _NUMBER.match(self._text, self.at)
        if not found:
            raise LineFault(f"invalid char '{char}' in expression")
        self.at = found.end()
        digits = found[0]
        self._skip_space()
        octal = digits.startswith("0") and digits.isdigit() and len(digits) > 1
        return int(digits, 8 if octal and not set(digits) & set("89") else 0 if not octal else 10)

    def _next(self) -> str:
        self._skip_space()
        return self._text[self.at : self.at + 1]

    def _take(self) -> str:
        char = self._next()
        self.at += 1
        return char

    def _skip_space(self) -> None:
        while self._text[self.at : self.at + 1].isspace():
            self.at += 1


def _signed(value: int) -> int:
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value
