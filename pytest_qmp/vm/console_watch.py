"""Looks for declared patterns in what a console writes, and for the line that tells most."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pytest_qmp.text import printable
from pytest_qmp.vm.verdicts import Verdict

__all__ = ["ConsoleWatch", "telling_line"]

_LONGEST_LINE = 64 * 1024

# How systems say that they are at their end, the most telling first.
_TELLING = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"Kernel panic - not syncing.*",
        r"kernel BUG at .*",
        r"(?:BUG|Oops): .*",
        r"Unable to handle kernel .*",
        r"panicked at .*",
        r"^panic(?:\([^)]*\))?: .*",
        r"\*\*\* STOP: 0x.*",
        r"^ASSERT .*",
        r"!!!! .* Exception .* !!!!.*",
        r"^\s*(?:Unhandled|Uncaught) exception.*",
        r"\"Synchronous Abort\" handler.*",
        r"double fault.*",
    )
]
_SHOWN = 300


class ConsoleWatch:
    """Looks at each line of one console once, as it comes.

    Args:
        name: of the console.
        patterns: regular expressions, each with its severity.
        on_found: gets the verdict; called in the background.
    """

    def __init__(
        self,
        name: str,
        patterns: Mapping[str, str],
        on_found: Callable[[Verdict], None],
    ) -> None:
        self._name = name
        self._patterns = [
            (re.compile(one.encode()), severity) for one, severity in patterns.items()
        ]
        self._on_found = on_found
        self._line = b""
        self._found: set[int] = set()

    def feed(self, data: bytes) -> None:
        """Takes what the console wrote; ``b""`` is its end."""
        *lines, rest = (self._line + data).split(b"\n")
        # A match in a line that goes on is found at once, and not again when the line is whole.
        for line in lines:
            self._look(line)
            self._found.clear()
        self._line = rest[-_LONGEST_LINE:]
        if data:
            self._look(self._line)

    def _look(self, line: bytes) -> None:
        for number, (pattern, severity) in enumerate(self._patterns):
            if number in self._found or not pattern.search(line):
                continue
            self._found.add(number)
            text = printable(line.decode("utf-8", "replace")).strip()[:_SHOWN]
            self._on_found(
                Verdict(
                    "console",
                    f"the console {self._name} wrote what is {_AS_SAID[severity]}: {text}",
                    fatal=severity == "fatal",
                )
            )


_AS_SAID = {"fatal": "declared fatal", "error": "declared an error"}


def telling_line(text: str) -> str:
    """The line of a console's end that says what went wrong; empty if none does.

    >>> telling_line("[ 1.2] Kernel panic - not syncing: No init found.\\r\\n[ 1.3] CPU: 0\\r\\n")
    'Kernel panic - not syncing: No init found.'
    """
    text = printable(text)
    for pattern in _TELLING:
        found = pattern.search(text)
        if found:
            return found[0].strip()[:_SHOWN]
    return ""
