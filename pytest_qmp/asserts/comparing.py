"""Comparing what was wanted with what is there: exactly, in part, by pattern or by predicate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from pytest_qmp.text import printable

__all__ = ["describe", "differences", "fits", "is_list", "show"]

_SHOWN = 1000
_DIFFERENCES = 10


def fits(wanted: object, found: object, *, partial: bool = False) -> bool:
    """True if what is there is what was wanted.

    Args:
        wanted: a value, compared by ``==``, but that a boolean is no number; a compiled regular
            expression, searched for in a text; a class; a predicate; or a mapping or list of them.
        found: what is there.
        partial: True lets a mapping have more members than were wanted, at any depth.

    >>> fits({"file": re.compile("img$")}, {"file": "/a.img", "ro": True}, partial=True)
    True
    """
    return next(differences(wanted, found, partial=partial), None) is None


def differences(
    wanted: object, found: object, *, partial: bool = False, path: str = ""
) -> Iterator[tuple[str, str]]:
    """Where the two differ: paths, each with the expected beside the found."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            inner = _joined(path, key)
            if key in found:
                yield from differences(value, found[key], partial=partial, path=inner)
            else:
                yield inner, f"expected {describe(value)}, found no such member"
        for key in () if partial else found:
            if key not in wanted:
                yield _joined(path, key), f"expected no such member, found {brief(found[key])}"
    elif is_list(wanted) and is_list(found):
        if len(wanted) != len(found):
            yield path, f"expected {len(wanted)} items, found {len(found)}: {brief(found)}"
        else:
            for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
                inner = _joined(path, index)
                yield from differences(one, other, partial=partial, path=inner)
    elif not _same(wanted, found):
        yield path, f"expected {describe(wanted)}, found {brief(found)}"


def _same(wanted: object, found: object) -> bool:
    if isinstance(wanted, re.Pattern):
        return isinstance(found, str) and wanted.search(found) is not None
    # JSON tells true from 1, Python does not.
    if isinstance(found, bool) and isinstance(wanted, (bool, int, float)):
        return wanted is found
    if isinstance(wanted, bool):
        return False
    if bool(wanted == found):
        return True
    if isinstance(wanted, type):
        return isinstance(found, wanted) and (wanted is bool or not isinstance(found, bool))
    return callable(wanted) and bool(wanted(found))


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """True for what JSON calls an array."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def describe(wanted: object) -> str:
    """What was wanted, in words."""
    if isinstance(wanted, re.Pattern):
        return f"a text matching {wanted.pattern!r}"
    if isinstance(wanted, type):
        return f"something of type {wanted.__name__}"
    if callable(wanted):
        return f"something for which {getattr(wanted, '__name__', wanted)} holds"
    return brief(wanted)


def brief(value: object, limit: int = 300) -> str:
    """A value as Python writes it, cut."""
    text = printable(repr(value))
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def listed(wanted: object, found: object, *, partial: bool) -> str:
    """The differences, a line each."""
    lines = [
        f"  {path or '(the whole)'}: {text}"
        for path, text in differences(wanted, found, partial=partial)
    ]
    more = len(lines) - _DIFFERENCES
    return "\n".join(lines[:_DIFFERENCES] + ([f"  … and {more} more"] if more > 0 else []))


def show(value: object) -> str:
    """A value as JSON, cut."""
    text = printable(json.dumps(value, indent=2, default=str))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _joined(path: str, step: object) -> str:
    return f"{path}/{step}" if path else str(step)
