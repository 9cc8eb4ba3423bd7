"""Progress in a terminal: one line below pytest's own, for as long as something takes long."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest

from pytest_qmp.text import printable
from pytest_qmp.vm.progress import set_progress_sink

__all__ = ["TerminalLine", "show_progress"]

_watched = pytest.StashKey[bool]()

# Down a line (which makes room at the bottom), and back to where pytest will write on: what is
# shown is never in the way of what comes, whoever writes it.
_BELOW = "\x1bD\x1b7\r"
_BACK = "\x1b[K\x1b8\x1b[A"
_DEFAULT_COLUMNS = 80


class TerminalLine:
    """Shows progress on the line below the cursor, which it leaves where it is.

    Args:
        fd: of the terminal; it is duplicated, as pytest's capturing will lay another on its number.
        encoding: of what is written to it.
    """

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self._fd = os.dup(fd)
        self._encoding = encoding

    def show(self, what: str, figures: str) -> None:
        """Shows this in place of what was shown before."""
        try:
            columns = os.get_terminal_size(self._fd).columns
        except OSError:
            columns = 0
        self._write(fitted(what, figures, (columns or _DEFAULT_COLUMNS) - 1))

    def clear(self) -> None:
        """Takes away what was shown."""
        self._write("")

    def close(self) -> None:
        """Lets go of the terminal. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, text: str) -> None:
        try:
            os.write(self._fd, f"{_BELOW}{text}{_BACK}".encode(self._encoding, "replace"))
        except OSError:
            return  # The terminal is gone: that is no reason for a test to fail.


def show_progress(config: pytest.Config) -> None:
    """Shows progress from now on, if this run has a terminal for it; call it outside capturing.

    There is none in CI, in a worker of xdist, and where the tests themselves write to the
    terminal (``-s``, live logs).
    """
    if config.stash.get(_watched, False):
        return
    config.stash[_watched] = True
    fd = _terminal(config)
    if fd is None:
        return
    line = TerminalLine(fd, sys.stdout.encoding)
    before = set_progress_sink(line)

    def end() -> None:
        set_progress_sink(before)
        line.close()

    config.add_cleanup(end)


def _terminal(config: pytest.Config) -> int | None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not getattr(reporter, "isatty", False) or hasattr(config, "workerinput"):
        return None
    if getattr(config.option, "capture", "no") not in ("fd", "sys") or _logs_live(config):
        return None
    environment = os.environ
    if environment.get("CI") or environment.get("BUILD_NUMBER"):
        return None
    if environment.get("TERM", "dumb") == "dumb":
        return None
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return None
    return fd if os.isatty(fd) else None


def _logs_live(config: pytest.Config) -> bool:
    if config.getoption("log_cli_level", None) is not None:
        return True
    return config.pluginmanager.hasplugin("logging") and bool(config.getini("log_cli"))


def fitted(what: str, figures: str, columns: int) -> str:
    """A line of at most so many columns; where there is not the room, ``what`` is cut first.

    >>> fitted("migrating vm0", "12 %, 3 s", 80)
    'migrating vm0: 12 %, 3 s'
    >>> fitted("migrating vm0", "12 %, 3 s", 18)
    'migrat…: 12 %, 3 s'
    """
    what, figures = (" ".join(printable(one).split()) for one in (what, figures))
    room = columns - _columns(figures) - 2
    return _cut(f"{_cut(what, max(room, 1))}: {figures}", columns)


def _cut(text: str, columns: int) -> str:
    if _columns(text) <= columns:
        return text
    while text and _columns(text) >= columns:
        text = text[:-1]
    return f"{text}…" if columns > 0 else ""


def _columns(text: str) -> int:
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
