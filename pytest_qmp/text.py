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
    """The last lines of a guest's output as a person would have seen them, empty ones dropped.

    What a carriage return, a backspace or an escape sequence makes a terminal write over is gone,
    and so are the marks that ``Console.run()`` lays around a command's output.

    >>> last_lines("10%\\r 50%\\r100%\\nlogim\\bn:\\tx")
    '100%\\nlogin:  x'
    """
    text = _MARK.sub("", text[-(count * width) :])
    lines = printable("\n".join(map(_as_seen, text.split("\n")))).rstrip().split("\n")
    return "\n".join(line if len(line) <= width else f"{line[:width]}…" for line in lines[-count:])


_MARK = re.compile(
    r"^~qmp[0-9a-f]{12}:\d+:[0-9pz]+;\r?\n?|~qmp[0-9a-f]{12}:\d+:[0-9a-z]*;", re.MULTILINE
)
_DRAWN = re.compile(rf"{_ESCAPE.pattern}|[\r\b\t]|[^\x1b\r\b\t]+|\x1b")
_MOVE = re.compile(r"\x1b\[(\d*)([CDGKHfJ])")
_TAB = 8
# Where a shell's line editor goes on in the next row, as most terminals are.
_COLUMNS = 80
_FARTHEST = 500


def _as_seen(line: str) -> str:
    """A line as a terminal shows it in the end; where the screen is cleared, another one begins."""
    if not line.strip("\r").isprintable():
        rows: list[list[str]] = [[]]
        column = 0
        for found in _DRAWN.finditer(line):
            column = _draw(rows, column, found[0], found.end() == len(line))
        return "\n".join("".join(row) for row in rows)
    return line.strip("\r")


def _draw(rows: list[list[str]], column: int, piece: str, last: bool) -> int:
    row = rows[-1]
    if piece == "\r":
        wraps = column == len(row) > _COLUMNS and column % _COLUMNS == 1 and row[-1] == " "
        if wraps and not last:
            rows[-1] = row[:-1]
            rows.append([])
        return 0
    if piece == "\b":
        return max(0, column - 1)
    if piece == "\t":
        column += _TAB - column % _TAB
        row.extend(" " * (column - len(row)))
        return column
    move = _MOVE.fullmatch(piece)
    if move is not None:
        return _move(rows, column, move[2], move[1])
    if len(piece) > 1 and piece[0] == "\x1b":
        return column
    row.extend(" " * (column - len(row)))
    row[column : column + len(piece)] = piece
    return column + len(piece)


def _move(rows: list[list[str]], column: int, how: str, number: str) -> int:
    count = min(int(number[:4] or 0), _FARTHEST)
    if how == "K":
        if count == 0:
            del rows[-1][column:]
        else:
            rows[-1][: column if count == 1 else None] = " " * column
        return column
    if how in "CD":
        return max(0, column + (max(1, count) if how == "C" else -max(1, count)))
    if how == "G":
        return max(0, count - 1)
    if rows[-1]:
        rows.append([])
    return 0


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like this one, as the end of a message; nothing if none is.

    >>> nearest("staus", ["running", "status"])
    "; did you mean 'status'?"
    """
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
