"""Framing without I/O: bytes in, whole messages out, however the stream was split."""

from __future__ import annotations

import re

from pytest_qmp.errors import QMPProtocolError

__all__ = ["DEFAULT_MAX_MESSAGE_SIZE", "MessageReader", "show_bytes"]

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024

_OUTSIDE_STRING = re.compile(rb'[{}\[\]"]')
_INSIDE_STRING = re.compile(rb'["\\]')


class MessageReader:
    """Cuts a stream into messages.

    A QMP server writes a message a line, so the quick way is to cut at newlines. A monitor with
    ``pretty=on`` spreads a message over lines: a line that can't be a whole object switches to
    counting brackets, until that message has ended. Both are linear in the size of the stream.

    Args:
        max_message_size: in bytes. A longer message is refused, so that a peer that never ends
            one can't take all memory.
    """

    __slots__ = ("_balance", "_chunks", "_limit", "_ready", "_scanner", "_size")

    def __init__(self, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        self._limit = max_message_size
        self._ready: list[bytes] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._balance = 0
        self._scanner: _BracketScanner | None = None

    @property
    def partial(self) -> bytes:
        """The beginning of a message whose end has not come yet."""
        pending = b"".join(self._chunks)
        return self._scanner.partial + pending if self._scanner else pending

    def feed(self, data: bytes) -> None:
        """Takes what the peer sent.

        Raises:
            QMPProtocolError: if it can't be QMP, or is longer than the limit.
        """
        if self._scanner is not None:
            self._scan(data)
        else:
            self._cut_lines(data)

    def take(self) -> list[bytes]:
        """The messages that are whole by now, in order; each is handed out once."""
        ready = self._ready
        if ready:
            self._ready = []
        return ready

    def reframe(self, messages: list[bytes]) -> bool:
        """Takes back lines of which the first was no whole message, to frame them by brackets.

        Returns:
            False if that can't help, because they were framed so already.
        """
        whole, _ = _BracketScanner().feed(messages[0])
        if whole:
            return False
        rest = b"".join([*(line + b"\n" for line in messages), self.partial])
        self._drop_pending()
        self._scanner = _BracketScanner()
        self._scan(rest)
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
        if len(lines) == 1:
            # The usual read is one reply: no loop for it.
            line = lines[0]
            if line[:1] == b"{" and (line[-2:] == b"}\r" or line[-1:] == b"}"):
                self._ready.append(line)
                if tail:
                    self._cut_lines(tail)
                return
        for number, line in enumerate(lines):
            if line[:1] == b"{" and (line[-2:] == b"}\r" or line[-1:] == b"}"):
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
        self._refuse_oversize(self._size)
        # A peer may leave out the newline: an object that is closed is whole all the same.
        self._balance += data.count(b"{") - data.count(b"}")
        if self._balance == 0 and data.rstrip()[-1:] == b"}":
            scanner = _BracketScanner()
            pending = b"".join(self._chunks)
            whole, rest = scanner.feed(pending)
            if whole and not rest.strip() and not scanner.partial.strip():
                self._drop_pending()
                self._ready.extend(whole)

    def _scan(self, data: bytes) -> None:
        scanner = self._scanner
        if scanner is None:
            return
        whole, rest = scanner.feed(data)
        self._ready.extend(whole)
        self._refuse_oversize(scanner.size)
        if scanner.idle:
            self._scanner = None
            if rest.strip():
                self._cut_lines(rest)

    def _refuse_garbage(self, data: bytes) -> None:
        start = data.lstrip()[:1]
        if start and start != b"{":
            raise QMPProtocolError(
                f"the peer does not speak QMP: a message begins with '{{', but it sent "
                f"{show_bytes(data)}.{_guess(data)}"
            )

    def _refuse_oversize(self, size: int) -> None:
        if size > self._limit:
            raise QMPProtocolError(
                f"a message is longer than the limit of {self._limit} bytes, and its end has not "
                f"come; it begins with {show_bytes(self.partial)}. If such a reply is expected, "
                "raise max_message_size"
            )

    def _drop_pending(self) -> None:
        self._chunks = []
        self._size = 0
        self._balance = 0


class _BracketScanner:
    """Finds the end of one object by its brackets, at any split of the stream."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_parts", "size")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._parts: list[bytes] = []
        self.size = 0

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
