"""How much of a text a regular expression can look at: what lets a search go on, not start anew."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Bounds", "bounds_of", "literal_bounds"]

# Python 3.11 has moved it; both names are the standard library's own, and neither is documented,
# so that whatever is not understood is taken for a pattern without bounds.
_parser: Any = getattr(re, "_parser", None)
if _parser is None:
    import sre_parse

    _parser = sre_parse

_NEWLINE = 10
_SINGLE = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN"})
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})


@dataclass(frozen=True)
class Bounds:
    """What one attempt to match, at one place, can look at.

    Attributes:
        literal: what each match begins with; empty if nothing is known.
        whole: True if that is all of the pattern.
        width: how many characters from its place on at most; may be infinite.
        newlines: how many newlines it can go beyond at most; may be infinite.
        behind: how many characters before its place; infinite if that is unknown.
        lazy_margin: where the only unbounded part takes as little as it can: how far beyond the
            end of a match it has looked at most; else infinite.
        steady: True if it can match in one way only at each place, and it is known where that
            ends: what follows a match can't change it.
    """

    literal: str = ""
    whole: bool = False
    width: float = math.inf
    newlines: float = math.inf
    behind: float = math.inf
    lazy_margin: float = math.inf
    steady: bool = False


def literal_bounds(text: str) -> Bounds:
    """Of a plain text."""
    return Bounds(text, True, len(text), text.count("\n"), 1)


@lru_cache(maxsize=256)
def bounds_of(pattern: re.Pattern[str]) -> Bounds:
    """Of a regular expression; without any, where it holds something unknown."""
    try:
        # Its flags already say what it sets itself.
        tree = _parser.parse(pattern.pattern, pattern.flags)
        walk = _Walk()
        width, newlines = walk.sequence(tree, bool(pattern.flags & re.DOTALL))
    except (_UnknownError, re.error, RecursionError):
        return Bounds()
    literal, whole = ("", False) if pattern.flags & re.IGNORECASE else _beginning(tree)
    margin = _lazy_margin(tree, walk) if math.isinf(width) else math.inf
    steady = bool(literal) and not walk.special and _is_steady(tree, pattern.flags)
    return Bounds(literal, whole, width, newlines, max(1, walk.behind), margin, steady)


class _UnknownError(Exception):
    """A part of a pattern that later Pythons have and we don't know."""


_Extent = tuple[float, float]


class _Walk:
    """Adds up a parsed pattern."""

    def __init__(self) -> None:
        self.behind: float = 1
        self.unbounded = 0
        self.special = False
        self._groups: dict[int, _Extent] = {}

    def sequence(self, nodes: Iterable[tuple[Any, Any]], dotall: bool) -> _Extent:
        width = newlines = 0.0
        for op, argument in nodes:
            more = self._node(op.name, argument, dotall)
            width += more[0]
            newlines += more[1]
        return width, newlines

    def _node(self, name: str, argument: Any, dotall: bool) -> _Extent:
        if name in _SINGLE:
            return 1, _takes(name, argument, "\n", dotall)
        if name in _REPEATS:
            _, high, body = argument
            return self._repeated(self.sequence(body, dotall), high)
        if name == "SUBPATTERN":
            group, added, removed, body = argument
            dotall = (dotall or bool(added & re.DOTALL)) and not removed & re.DOTALL
            if added or removed:
                self.special = True
            extent = self.sequence(body, dotall)
            if group is not None:
                self._groups[group] = extent
            return extent
        if name == "ATOMIC_GROUP":
            return self.sequence(argument, dotall)
        if name == "BRANCH":
            return _widest(self.sequence(branch, dotall) for branch in argument[1])
        return self._rest(name, argument, dotall)

    def _rest(self, name: str, argument: Any, dotall: bool) -> _Extent:
        if name == "AT":
            return _AT.get(argument.name, (0, 0))
        self.special = True
        if name == "GROUPREF":
            return self._groups.get(argument, (math.inf, math.inf))
        if name == "GROUPREF_EXISTS":
            _, there, absent = argument
            return _widest([self.sequence(there, dotall), self.sequence(absent or [], dotall)])
        if name in ("ASSERT", "ASSERT_NOT"):
            direction, body = argument
            extent = self.sequence(body, dotall)
            if direction >= 0:
                # What it looks at counts as much as what it takes.
                return extent
            self.behind = max(self.behind, extent[0] + 1)
            return 2, 1  # It may hold something that looks at what follows.
        if name == "FAILURE":
            return 0, 0
        raise _UnknownError(name)

    def _repeated(self, once: _Extent, times: Any) -> _Extent:
        endless = int(times) >= int(_parser.MAXREPEAT)
        if endless:
            self.unbounded += 1
        count = math.inf if endless else int(times)
        return _times(once[0], count), _times(once[1], count)


# ``$`` looks at a last newline, and whether anything follows it; the others at one character.
_AT = {
    "AT_END": (2, 1),
    "AT_END_STRING": (1, 0),
    "AT_BOUNDARY": (1, 0),
    "AT_NON_BOUNDARY": (1, 0),
    "AT_UNI_BOUNDARY": (1, 0),
    "AT_UNI_NON_BOUNDARY": (1, 0),
}


def _times(value: float, count: float) -> float:
    return value * count if value and count else 0


def _widest(extents: Iterable[_Extent]) -> _Extent:
    widths, newlines = zip(*extents, strict=True)
    return max(widths), max(newlines)


def _takes(name: str, argument: Any, character: str, dotall: bool) -> bool:
    """Whether a part that takes one character takes this one; case is minded."""
    number = ord(character)
    if name == "LITERAL":
        return bool(argument == number)
    if name == "NOT_LITERAL":
        return bool(argument != number)
    if name == "ANY":
        return dotall or number != _NEWLINE
    negated = False
    for op, value in argument:
        if op.name == "NEGATE":
            negated = True
        elif (
            (op.name == "LITERAL" and value == number)
            or (op.name == "RANGE" and value[0] <= number <= value[1])
            or (op.name == "CATEGORY" and _in_category(value.name, character))
        ):
            return not negated
    return negated


def _in_category(name: str, character: str) -> bool:
    name = name.replace("UNI_", "")
    if name.endswith("DIGIT"):
        found = character.isdecimal()
    elif name.endswith("SPACE"):
        found = character.isspace()
    elif name.endswith("WORD"):
        found = character.isalnum() or character == "_"
    else:
        raise _UnknownError(name)
    return found != ("_NOT_" in name)


def _is_steady(tree: Any, flags: int) -> bool:
    """See ``Bounds``: characters, and repeats of some, each ended by one that it does not take."""
    parts = list(_flat(tree))
    for (name, argument), (following, wanted) in zip(parts, [*parts[1:], ("", None)], strict=True):
        if name in _SINGLE:
            continue
        if name not in _REPEATS or following != "LITERAL":
            return False
        body = list(_flat(argument[2]))
        if len(body) != 1 or body[0][0] not in _SINGLE:
            return False
        if _takes(*body[0], chr(wanted), bool(flags & re.DOTALL)):
            return False
    return True


def _beginning(nodes: Iterable[tuple[Any, Any]]) -> tuple[str, bool]:
    """The literal text that a sequence begins with, and whether it is all of it."""
    text = ""
    for op, argument in nodes:
        if op.name == "LITERAL":
            text += chr(argument)
        elif op.name == "SUBPATTERN" and not argument[1] and not argument[2]:
            more, whole = _beginning(argument[3])
            text += more
            if not whole:
                return text, False
        else:
            return text, False
    return text, True


def _flat(nodes: Iterable[tuple[Any, Any]]) -> Iterable[tuple[str, Any]]:
    for op, argument in nodes:
        if op.name == "SUBPATTERN":
            yield from _flat(argument[3])
        else:
            yield op.name, argument


def _lazy_margin(tree: Any, walk: _Walk) -> float:
    """See ``Bounds``; finite for shapes such as ``abc(.*?)\\r\\n`` alone.

    Before the lazy part stands what can match in one way only: nothing else could still turn out
    to match by text that has not come yet.
    """
    if walk.unbounded != 1 or walk.special:
        return math.inf
    parts = iter(_flat(tree))
    for name, argument in parts:
        if name == "MIN_REPEAT":
            body = list(_flat(argument[2]))
            if len(body) != 1 or body[0][0] not in _SINGLE:
                return math.inf
            return _Walk().sequence(((_Named(rest), more) for rest, more in parts), True)[0]
        if name not in _SINGLE:
            return math.inf
    return math.inf


@dataclass(frozen=True)
class _Named:
    name: str
