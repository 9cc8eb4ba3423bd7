"""The state of one QMP connection without I/O: who is owed a reply, and which events came.

The blocking and the asynchronous client both drive a Session: they move bytes, it knows what the
bytes mean. It never raises for what the peer did: it ends, and keeps the reason.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any

from pytest_qmp.errors import QMPError, QMPProtocolError
from pytest_qmp.qmp.events import EVENT_PREFIX, EventLog, QMPEvent
from pytest_qmp.qmp.messages import Greeting, encode, encode_command
from pytest_qmp.qmp.wire import DEFAULT_MAX_MESSAGE_SIZE, Checkpoint, MessageReader, show_bytes

__all__ = ["Call", "Session", "TranscriptEntry"]

_MISSING = object()
_scan_json = json.JSONDecoder().raw_decode
_LARGE_READ = 4096
_TRANSCRIPT_BYTES = 1024 * 1024

TranscriptEntry = tuple[float, str, bytes]
SessionCheckpoint = tuple[
    Checkpoint,
    int,
    tuple["Call", ...],
    Greeting | None,
    bytes | None,
    bool,
    bool,
    QMPError | None,
]


def _size(entry: TranscriptEntry) -> int:
    return len(entry[2])


class Call:
    """A command that was sent, and its reply once there is one.

    Attributes:
        command: its name.
        arguments: as they were sent.
        id: as it was sent, or None.
        oob: True if it was sent out of band.
        reply: the whole reply, or None while it is owed.
        abandoned: True once nobody waits for the reply any more.
        data: the bytes of the command.
        fds: descriptors that go with them.
        sent: how many of the bytes each write took.
    """

    __slots__ = (
        "abandoned",
        "arguments",
        "command",
        "data",
        "fds",
        "id",
        "oob",
        "reply",
        "sent",
    )

    def __init__(
        self,
        command: str,
        arguments: Mapping[str, Any] | None,
        id: object,
        oob: bool,
        data: bytes,
    ) -> None:
        self.command = command
        self.arguments = arguments
        self.id = id
        self.oob = oob
        self.data = data
        self.reply: dict[str, Any] | None = None
        self.abandoned = False
        self.fds: tuple[int, ...] = ()
        self.sent: list[int] = []

    def __repr__(self) -> str:
        return f"<Call {self.command}{' (abandoned)' if self.abandoned else ''}>"


class Session:
    """What a connection has said and still owes.

    A reply is matched by its order, which QEMU guarantees for in-band commands, so that a command
    needs no ``id``: each byte of a request costs QEMU a system call. Once a reply is owed that
    nobody waits for (a timeout, an interrupt), ids are sent until the debt is settled, so that a
    late reply can't reach the next call.

    Args:
        events: where events go; may be shared by successive connections.
        max_message_size: bytes.
    """

    def __init__(self, events: EventLog, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        self.events = events
        self.greeting: Greeting | None = None
        self.failure: QMPError | None = None
        self.owed: deque[Call] = deque()
        self.transcript: deque[TranscriptEntry] = deque(maxlen=100)
        self.last_received: float | None = None
        self._reader = MessageReader(max_message_size)
        self.stray: bytes | None = None
        self._send_ids = False
        self._distrust = False
        self._next_id = 0

    @property
    def partial(self) -> bytes:
        """The beginning of a message whose end has not come."""
        return self._reader.partial

    def call(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, oob: bool = False
    ) -> Call:
        """Makes a command ready to be sent; ``expect`` it before it goes.

        Raises:
            TypeError, ValueError: if the arguments can't be JSON.
        """
        if self._send_ids and not self.owed and not self._distrust:
            self._send_ids = False
        id: object = None
        if oob or self._send_ids:
            self._next_id += 1
            id = self._next_id
        data = encode_command(command, arguments, id=id, oob=oob)
        return Call(command, arguments, id, oob, data)

    def raw_call(self, message: Mapping[str, Any]) -> Call:
        """The same for a whole message of the caller's own making."""
        oob = "exec-oob" in message
        name = str(message.get("exec-oob" if oob else "execute", "")) or "(no command)"
        arguments = message.get("arguments")
        return Call(
            name,
            arguments if isinstance(arguments, Mapping) else None,
            message.get("id"),
            oob,
            encode(dict(message)).encode(),
        )

    def expect(self, call: Call) -> None:
        """The command is about to be sent: its reply is owed after those owed already."""
        self.owed.append(call)
        self.transcript.append((monotonic(), ">", call.data))

    def abandon(self, call: Call) -> None:
        """Nobody waits for this reply any more; it will be recognised and dropped."""
        call.abandoned = True
        self._send_ids = True

    def withdraw(self, call: Call) -> None:
        """Takes back a command of which nothing was sent."""
        call.abandoned = True
        if call in self.owed:
            self.owed.remove(call)

    def checkpoint(self) -> SessionCheckpoint:
        """All that ``receive`` may change, for ``restore``."""
        return (
            self._reader.checkpoint(),
            self.events.total,
            tuple(self.owed),
            self.greeting,
            self.stray,
            self._send_ids,
            self._distrust,
            self.failure,
        )

    def restore(self, checkpoint: SessionCheckpoint) -> None:
        """Undoes a ``receive`` that an exception out of a signal handler cut short."""
        (
            reader,
            events,
            owed,
            self.greeting,
            self.stray,
            self._send_ids,
            self._distrust,
            failure,
        ) = checkpoint
        if isinstance(self.failure, QMPProtocolError):
            self.failure = failure
        self._reader.restore(reader)
        self.events.rewind(events)
        for call in owed:
            call.reply = None
        self.owed.clear()
        self.owed.extend(owed)

    def receive(self, data: bytes) -> None:
        """Takes bytes from the peer: resolves calls, keeps events, or ends with a failure."""
        if self.failure is not None:
            return
        self.last_received = monotonic()
        try:
            self._reader.feed(data)
            while messages := self._reader.take():
                self._receive_messages(messages)
        except QMPProtocolError as error:
            self.end(error)
        self._record(self.last_received, data)

    def _record(self, moment: float, data: bytes) -> None:
        transcript = self.transcript
        transcript.append((moment, "<", data))
        if len(data) > _LARGE_READ:
            # A flood is not worth its weight.
            while len(transcript) > 1 and sum(map(_size, transcript)) > _TRANSCRIPT_BYTES:
                transcript.popleft()

    def _receive_messages(self, messages: list[bytes]) -> None:
        if len(messages) > 1 and all([raw.startswith(EVENT_PREFIX) for raw in messages]):  # noqa: C419
            # A flood: one by one, or from a generator, they would take half as long again.
            self.events.extend(messages)
            return
        keep_event = self.events.append
        for number, raw in enumerate(messages):
            if raw.startswith(EVENT_PREFIX):
                keep_event(raw)
                continue
            try:
                text = raw.decode()
                message, end = _scan_json(text)
                if end != len(text) and text[end:].strip():
                    raise ValueError("more than one value on a line")
            except (ValueError, RecursionError) as error:
                if self._reader.reframe(messages[number:]):
                    return
                raise QMPProtocolError(
                    f"the peer sent what is not JSON: {error}: {show_bytes(raw)}. Nothing after "
                    "it can be trusted, so the connection was given up"
                ) from error
            self._receive_message(message, raw)

    def _receive_message(self, message: Any, raw: bytes) -> None:
        if isinstance(message, dict):
            if "return" in message or "error" in message:
                self._resolve(message, raw)
                return
            if "event" in message:
                self.events.append(QMPEvent(message))
                return
            if "QMP" in message:
                greeting = Greeting.parse(message)
                if greeting is not None:
                    self.greeting = greeting
                    return
        raise QMPProtocolError(
            "the peer sent JSON that is no greeting, reply, error or event of QMP: "
            f"{show_bytes(raw)}"
        )

    def _resolve(self, message: dict[str, Any], raw: bytes) -> None:
        ident = message.get("id", _MISSING)
        call = self._owner_by_order(message) if ident is _MISSING else self._owner_by_id(ident)
        if call is None:
            self.stray = raw
            if ident is _MISSING:
                # One more than was asked for: order alone tells nothing any more.
                self._distrust = self._send_ids = True
            return
        call.reply = message
        error = message.get("error")
        if ident is _MISSING and isinstance(error, dict):
            desc = error.get("desc")
            if isinstance(desc, str) and desc.startswith("JSON parse error"):
                # One command can bring several of these.
                self._distrust = self._send_ids = True

    def _owner_by_order(self, message: dict[str, Any]) -> Call | None:
        # In-band replies keep their order. A server that echoes ids would have echoed one to a
        # first call that had one, so a reply without comes from a server that echoes none.
        owed = self.owed
        for index, call in enumerate(owed):
            if not call.oob:
                if call.id is not None and self._distrust and "error" in message:
                    return None
                del owed[index]
                return call
        return None

    def _owner_by_id(self, ident: object) -> Call | None:
        owed = self.owed
        for index, call in enumerate(owed):
            if call.id == ident and type(call.id) is type(ident):
                del owed[index]
                if index and not call.oob:
                    self._drop_overtaken(index)
                return call
        return None

    def _drop_overtaken(self, count: int) -> None:
        # In-band replies keep their order: what is owed from before this one will not come.
        overtaken = [call for call in list(self.owed)[:count] if call.abandoned and not call.oob]
        for call in overtaken:
            self.owed.remove(call)

    def end(self, failure: QMPError) -> None:
        """The connection is over, for this reason; the first reason is kept."""
        if self.failure is None:
            self.failure = failure
