"""The first serial port of the emulated machine: its output, its input, scripted answers."""

from __future__ import annotations

import re
from collections.abc import Callable

from pytest_qmp.errors import FakeQMPServerError

from .shell import ScriptedShell

__all__ = ["Console"]

_BACKLOG = 1 << 20


class Console:
    """What the guest writes and reads; does no I/O.

    Args:
        send: gives bytes to whoever is connected.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.input = bytearray()
        self.used = False
        #: What was written while nobody was connected, for the first who is.
        self.backlog = bytearray()
        #: Takes the lines that no script answers.
        self.shell: ScriptedShell | None = None
        self._send = send
        self._scripts: list[
            tuple[re.Pattern[bytes], bytes | Callable[[re.Match[bytes]], bytes | None]]
        ] = []
        self._answered = 0

    def write(self, data: bytes) -> None:
        """The guest writes."""
        if not isinstance(data, (bytes, bytearray)):
            raise FakeQMPServerError(f"a console takes bytes, not {type(data).__name__}")
        self.used = True
        self._send(bytes(data))

    def keep(self, data: bytes) -> None:
        """Keeps what nobody is there to read; the oldest goes first when there is too much."""
        self.backlog += data
        del self.backlog[:-_BACKLOG]

    def script(
        self,
        pattern: bytes | str,
        reply: bytes | Callable[[re.Match[bytes]], bytes | None],
    ) -> None:
        """Answers what matches ``pattern`` from now on; FakeQMPServerError if nothing does."""
        compiled = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        if compiled.fullmatch(b""):
            raise FakeQMPServerError(f"{pattern!r} matches even when nothing is typed")
        self.used = True
        self._scripts.append((compiled, reply))

    def receive(self, data: bytes) -> None:
        """Somebody types."""
        self.input += data
        while True:
            found = self._next_match()
            if found is None:
                return
            match, reply = found
            self._answered = match.end()
            answer = reply(match) if callable(reply) else reply
            if answer:
                self.write(answer)

    def _next_match(
        self,
    ) -> tuple[re.Match[bytes], bytes | Callable[[re.Match[bytes]], bytes | None]] | None:
        """The earliest match in what is not answered yet; of several there, the latest script."""
        best = None
        for pattern, reply in reversed(self._scripts):
            match = pattern.search(self.input, self._answered)
            # An empty match would match for ever.
            if match and match.group() and (best is None or match.start() < best[0].start()):
                best = (match, reply)
        if self.shell is not None:
            line = self.shell.pattern.match(self.input, self._answered)
            if line and (best is None or best[0].start() >= line.end()):
                return line, self.shell.reply
        return best
