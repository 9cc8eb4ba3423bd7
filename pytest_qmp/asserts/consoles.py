"""Asserting what a console shows."""

from __future__ import annotations

import difflib
import re
from typing import Any, Protocol

from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.text import last_lines, printable

__all__ = ["assert_console"]

_LOOKED_AT = 64 * 1024
_LIKE = 0.5
_LONGEST = 300


class WatchedConsole(Protocol):
    """A console."""

    name: str

    def seen(self, pattern: Any, timeout: float | Deadline | None = -1) -> Any:
        """A match in all that was written, or will be in time; None if there is none."""

    def raw_tail(self, size: int) -> str:
        """The end of what was written."""


def assert_console(console: WatchedConsole, pattern: Any, deadline: Deadline) -> Any:
    """Asserts that a console has shown a match of a pattern, or does in time.

    Args:
        console: which.
        pattern: a regular expression, compiled or not, or a list of them, of which any will do.
        deadline: of the wait.

    Returns:
        The match.

    Raises:
        AssertionError: it has not; the text shows the last lines, and the one most like it.
    """
    __tracebackhide__ = True
    match = console.seen(pattern, deadline)
    if match is not None:
        return match
    wanted = [
        one if isinstance(one, str) else str(one.pattern)
        for one in (pattern if isinstance(pattern, list) else [pattern])
    ]
    tail = console.raw_tail(_LOOKED_AT)
    lines = last_lines(tail, 500).split("\n")
    text = f"the console {console.name} does not show it (waited {deadline.words})\nexpected: "
    text += "\n      or: ".join(repr(one) for one in wanted)
    close = _most_like(wanted, lines)
    if close:
        text += f"\nmost like it: {close!r}"
    shown = [line for line in lines[-20:] if line]
    text += (
        "\nits last lines:\n" + "\n".join(f"  | {line}" for line in shown)
        if shown
        else ("\nThe guest has written nothing at it.")
    )
    raise AssertionError(text)


def _most_like(wanted: list[str], lines: list[str]) -> str:
    """The line that is most like one of the patterns; empty if none is."""
    best, nearest = _LIKE, ""
    for pattern in wanted:
        plain = re.sub(r"\\([^\w\s])|[\^$()*+?\[\]{}|]", r"\1", pattern)
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(printable(plain)[:_LONGEST])
        for line in reversed(lines):
            matcher.set_seq1(line[:_LONGEST])
            if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best:
                ratio = matcher.ratio()
                if ratio > best:
                    best, nearest = ratio, line
    return nearest
