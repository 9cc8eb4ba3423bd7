"""Framing without I/O: bytes in, whole messages out, however the stream was split."""

from __future__ import annotations

import re
from typing import Union

from pytest_qmp.errors import QMPProtocolError

__all__ = ["DEFAULT_MAX_MESSAGE_SIZE", "Checkpoint", "MessageReader", "show_bytes"]

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024

_EVENT_START = b'{"timestamp": {"seconds": '
_EVENT_END = b"}\r\n"
_SHORT = 65536
_LINE_END = len(b"\r\n")
_OUTSIDE_STRING = re.compile(rb'[{}\[\]"]')
# Quicker over a long stretch than a search for these bytes.
_has_two_on_a_line = re.compile(rb"\}[ \t\r]*\{").search
_INSIDE_STRING = re.compile(rb'["\\]')

_ScannerCheckpoint = tuple[int, bool, bool, list[bytes], int, int]
_PendingCheckpoint = tuple[
    list[bytes], int, int, int, Union["_BracketScanner", None], _ScannerCheckpoint | None
]
Checkpoint = _PendingCheckpoint | None


class MessageReader:
    """Cuts a stream into messages.

    A QMP server writes a message a line, so the quick way is to cut at newlines. A monitor with
    ``pretty=on`` spreads a message over lines: a line that can't be a whole object switches to
    counting brackets, until that message has ended. Both are linear in the size of the stream.

    Args:
        max_message_size: in bytes. A longer message is refused, so that a peer that never ends
            one can't take all memory.
    """

    __slots__ = (
        "_balance",
        "_chunks",
        "_error",
        "_limit",
        "_probe",
        "_probed",
        "_ready",
        "_scanner",
        "_size",
    )

    def __init__(self, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        self._limit = max_message_size
        self._ready: list[bytes] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._balance = 0
        self._scanner: _BracketScanner | None = None
        self._probe: _BracketScanner | None = None
        self._probed = 0
        self._error: QMPProtocolError | None = None

    @property
    def partial(self) -> bytes:
        """The beginning of a message whose end has not come yet."""
        pending = b"".join(self._chunks)
        return self._scanner.partial + pending if self._scanner else pending

    def feed(self, data: bytes) -> None:
        """Takes what the peer sent."""
        try:
            if self._scanner is not None:
                self._scan(data)
            else:
                self._cut_lines(data)
        except QMPProtocolError as error:
            # What came before it counts all the same: take() hands that out first.
            self._error = error

    def take(self) -> list[bytes]:
        """The messages that are whole by now, in order; each is handed out once.

        Raises:
            QMPProtocolError: if what follows them can't be QMP, or is longer than the limit.
        """
        ready = self._ready
        if ready:
            self._ready = []
        elif self._error is not None:
            raise self._error
        return ready

    def checkpoint(self) -> Checkpoint:
        """Where it stands, with every whole message handed out; for ``restore``."""
        scanner = self._scanner
        if scanner is None and not self._chunks:
            return None
        return (
            self._chunks,
            len(self._chunks),
            self._size,
            self._balance,
            scanner,
            scanner.checkpoint() if scanner is not None else None,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Forgets all that was fed since that checkpoint."""
        self._drop_pending()
        self._scanner = None
        if checkpoint is not None:
            self._chunks, kept, self._size, self._balance, self._scanner, state = checkpoint
            del self._chunks[kept:]
            if self._scanner is not None:
                self._scanner.restore(state)
        self._ready = []
        self._error = None

    def reframe(self, messages: list[bytes]) -> bool:
        """Takes back lines of which the first was not one message, to frame them by brackets.

        Returns:
            False if that can't help, because brackets frame it the same way.
        """
        whole, _ = _BracketScanner().feed(messages[0])
        if whole == [messages[0].strip()]:
            return False
        rest = b"".join([*(line + b"\n" for line in messages), self.partial])
        self._drop_pending()
        self._error = None
        self._scanner = _BracketScanner()
        self.feed(rest)
        return True

    def _cut_lines(self, data: bytes) -> None:
        if not self._chunks:
            self._refuse_garbage(data)
        if b"\n" not in data:
            self._keep(data)
            return
        if self._chunks:
            self._chunks.append(data)
            data = b"".join(self._chunks)
            self._drop_pending()
        lines = data.split(b"\n")
        tail = lines.pop()
        plain = len(data) <= self._limit and not _has_two_on_a_line(data)
        if plain and _all_closed(data[: len(data) - len(tail)], len(lines)):
            self._ready.extend(lines)
            lines = []
        for number, line in enumerate(lines):
            if (
                line[:1] == b"{"
                and (line[-2:] == b"}\r" or line[-1:] == b"}")
                and (plain or (len(line) <= self._limit and not _has_two_on_a_line(line)))
            ):
                self._ready.append(line)
            elif line.strip():
                self._scanner = _BracketScanner()
                self._scan(b"\n".join([*lines[number:], tail]))
                return
        if tail:
            self._cut_lines(tail)

    def _keep(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit + _LINE_END:
            raise self._oversize(self.partial)
        # A peer may leave out the newline: an object that is closed is whole all the same. The
        # braces in texts count here, too, so a short one is looked at in any case.
        self._balance += data.count(b"{") - data.count(b"}")
        if data.rstrip()[-1:] == b"}" and (self._balance == 0 or self._size <= _SHORT):
            if self._probe is None:
                self._probe, self._probed = _BracketScanner(), 0
            probe = self._probe
            # Nothing is looked at twice.
            whole, rest = probe.feed(b"".join(self._chunks[self._probed :]))
            self._probed = len(self._chunks)
            if whole:
                self._drop_pending()
                self._deliver(probe, whole, rest)

    def _scan(self, data: bytes) -> None:
        scanner = self._scanner
        if scanner is None:
            return
        self._deliver(scanner, *scanner.feed(data))

    def _deliver(self, scanner: _BracketScanner, whole: list[bytes], rest: bytes) -> None:
        for message in whole:
            if len(message) > self._limit:
                self._scanner = None
                self._chunks = [message]
                raise self._oversize(message)
            self._ready.append(message)
        if scanner.size > self._limit + _LINE_END:
            raise self._oversize(scanner.partial)
        if scanner.idle:
            self._scanner = None
            if rest.strip():
                self._cut_lines(rest)
        elif whole and b"\n" not in scanner.partial:
            # The message for which brackets were counted is over: lines are quicker.
            self._scanner = None
            self._keep(scanner.partial)
        else:
            self._scanner = scanner

    def _refuse_garbage(self, data: bytes) -> None:
        start = data.lstrip()[:1]
        if start and start != b"{":
            self._chunks = [data]
            raise QMPProtocolError(
                f"the peer does not speak QMP: a message begins with '{{', but it sent "
                f"{show_bytes(data)}.{_guess(data)}"
            )

    def _oversize(self, message: bytes) -> QMPProtocolError:
        return QMPProtocolError(
            f"a message is longer than the limit of {self._limit} bytes; it begins with "
            f"{message[:120]!r}. If such a reply is expected, raise max_message_size"
        )

    def _drop_pending(self) -> None:
        self._chunks = []
        self._size = 0
        self._balance = 0
        self._probe = None


class _BracketScanner:
    """Finds the end of one object by its brackets, at any split of the stream."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_parts", "size")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._parts: list[bytes] = []
        self.size = 0

    def checkpoint(self) -> _ScannerCheckpoint:
        return (
            self._depth,
            self._in_string,
            self._escaped,
            self._parts,
            len(self._parts),
            self.size,
        )

    def restore(self, state: _ScannerCheckpoint | None) -> None:
        if state is not None:
            self._depth, self._in_string, self._escaped, self._parts, kept, self.size = state
            del self._parts[kept:]

    @property
    def idle(self) -> bool:
        return self._depth == 0 and not self._parts

    @property
    def partial(self) -> bytes:
        return b"".join(self._parts)

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Returns the objects that ended, and what follows the last one if none has begun."""
        whole: list[bytes] = []
        start = position = 0
        if self._escaped and data:
            position, self._escaped = 1, False
        while True:
            if not self._in_string and self._depth == 0:
                begin = data.find(b"{", position)
                if begin < 0 or data[position:begin].strip():
                    return whole, data[position:]
                start = position = begin
            found = (_INSIDE_STRING if self._in_string else _OUTSIDE_STRING).search(data, position)
            if found is None:
                break
            position = found.end()
            byte = found[0]
            if self._in_string:
                if byte == b'"':
                    self._in_string = False
                elif position == len(data):
                    self._escaped = True
                else:
                    position += 1
            elif byte == b'"':
                self._in_string = True
            elif byte in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    self._parts.append(data[start:position])
                    whole.append(b"".join(self._parts))
                    self._parts = []
                    self.size = 0
        self._parts.append(data[start:])
        self.size += len(data) - start
        return whole, b""


def _all_closed(data: bytes, count: int) -> bool:
    """True if data is so many lines as QEMU writes events, found without a look at each."""
    return (
        data.startswith(_EVENT_START)
        and data.endswith(_EVENT_END)
        and data.count(_EVENT_END + _EVENT_START) == count - 1
    )


def show_bytes(data: bytes, limit: int = 120) -> str:
    """Bytes for a message: ``b'…'``, cut to a length that a person reads."""
    if len(data) <= limit:
        return repr(data)
    return f"{data[:limit]!r} and {len(data) - limit} bytes more"


def _guess(data: bytes) -> str:
    if data.startswith(b"QEMU ") or b"(qemu)" in data:
        return (
            " That is QEMU's human monitor: start QEMU with -qmp, or with -mon …,mode=control, "
            "instead of -monitor"
        )
    if data[:4] == b"SSH-" or data[:4] == b"HTTP":
        return " Another service listens there: check the address"
    return " Check the address, and that it is a QMP monitor (mode=control)"
