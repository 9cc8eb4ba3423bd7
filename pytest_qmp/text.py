"""Text for people: names that were nearly right, and a guest's output made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["last_lines", "nearest", "printable"]

# What a guest wrote must not drive the terminal that shows it: cursor movement, titles, answers.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|[PX^_][^\x1b\n]*\x1b\\|[ -/]*[0-OQ-WYZ\\`-~])"
)
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Text as a person would have seen it: escape sequences gone, other controls made visible.

    An escape sequence that does not end hides nothing: its beginning is made visible.

    >>> printable("\\x1b[2J\\x1b[1;31mpanic\\x1b[0m\\r\\n\\x07")
    'panic\\n\\\\x07'
    """
    text = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def last_lines(text: str, count: int = 20, width: int = 500) -> str:
    """The last lines of a guest's output, printable, without empty ones at the end."""
    lines = printable(text[-(count * width) :]).rstrip().split("\n")
    return "\n".join(line if len(line) <= width else f"{line[:width]}…" for line in lines[-count:])


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like this one, as the end of a message; nothing if none is.

    >>> nearest("staus", ["running", "status"])
    "; did you mean 'status'?"
    """
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
