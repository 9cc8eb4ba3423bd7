"""Recordings of a client and a QEMU: the file, and the conversations in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from pytest_qmp.errors import FakeQMPServerError

from .json_parser import JSONReader, ParseFault

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Conversation", "Exchange", "Recording", "RecordingWriter", "read_recording"]

_FORMAT = "pytest-qmp recording"
_VERSION = 1


@dataclass
class Exchange:
    """A command and what came of it.

    Attributes:
        command: as it was sent; None for what came before the first one.
        before: the messages between the reply before and this one.
        reply: None if there was none.
    """

    command: Any
    before: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] | None = None


@dataclass
class Conversation:
    """One connection of a client.

    Attributes:
        greeting: QEMU's first message, None if the connection ended before.
        exchanges: in the order of the commands.
        after: what came after the last reply.
    """

    greeting: dict[str, Any] | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Recording:
    """What a file holds.

    Attributes:
        path: of the file.
        argv: QEMU's command line.
        conversations: in the order of their beginnings.
        exit_status: QEMU's, None if it is not known.
    """

    path: Path
    argv: tuple[str, ...]
    conversations: list[Conversation]
    exit_status: int | None = None

    @property
    def version(self) -> str:
        """Of the QEMU that was recorded, ``"10.0"`` and the like; "" if it never said."""
        for conversation in self.conversations:
            if conversation.greeting:
                qemu = conversation.greeting["QMP"]["version"]["qemu"]
                return f"{qemu['major']}.{qemu['minor']}"
        return ""


class RecordingWriter:
    """Writes a recording while it happens, a line at a time.

    Args:
        file: an open text file; it is closed at the end.
        argv: QEMU's command line.
    """

    def __init__(self, file: TextIO, argv: Sequence[str]) -> None:
        self._file = file
        self._lock = Lock()
        self._begin = time.monotonic()
        self._write({"format": _FORMAT, "version": _VERSION, "argv": list(argv)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._file.close()

    def connected(self, connection: int, monitor: str) -> None:
        """A client has connected.

        Args:
            connection: its number.
            monitor: the name of the monitor's character device.
        """
        self._write({"connection": connection, "event": "connect", "monitor": monitor})

    def sent(self, connection: int, sender: str, data: bytes, descriptors: int = 0) -> None:
        """Somebody has sent something.

        Args:
            connection: its number.
            sender: ``client`` or ``qemu``.
            data: the bytes.
            descriptors: how many file descriptors came with them.
        """
        line: dict[str, Any] = {"connection": connection, "from": sender}
        try:
            line["data"] = data.decode()
        except UnicodeDecodeError:
            line["hex"] = data.hex()
        if descriptors:
            line["descriptors"] = descriptors
        self._write(line)

    def ended(self, connection: int, side: str) -> None:
        """One side, ``client`` or ``qemu``, has nothing more to say."""
        self._write({"connection": connection, "from": side, "event": "end"})

    def exited(self, status: int) -> None:
        """QEMU has ended, with that status (negative for a signal)."""
        self._write({"event": "exit", "status": status})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            if not self._file.closed:
                timed = {"time": round(time.monotonic() - self._begin, 6), **line}
                self._file.write(json.dumps(timed, ensure_ascii=False) + "\n")
                self._file.flush()


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Reads a recording.

    Raises:
        OSError: there is no such file.
        FakeQMPServerError: it is no recording.
    """
    path = Path(path)
    with path.open(encoding="utf-8") as lines:
        try:
            return _read(path, [json.loads(line) for line in lines if line.strip()])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FakeQMPServerError(
                f"{path} is no recording that `pytest-qmp record` made: {error!r}"
            ) from error


def _read(path: Path, lines: Sequence[Mapping[str, Any]]) -> Recording:
    if not lines:
        raise ValueError("it is empty")
    if lines[0]["format"] != _FORMAT or lines[0]["version"] != _VERSION:
        raise ValueError(f"its first line says {dict(lines[0])}")
    streams: dict[int, _Stream] = {}
    recording = Recording(path, tuple(lines[0]["argv"]), [])
    for line in lines[1:]:
        if line.get("event") == "exit":
            recording.exit_status = line["status"]
        elif line.get("event") == "connect":
            streams[line["connection"]] = _Stream()
            recording.conversations.append(streams[line["connection"]].conversation)
        elif "from" in line and line.get("event") != "end":
            data = bytes.fromhex(line["hex"]) if "hex" in line else line["data"].encode()
            streams[line["connection"]].take(line["from"], data)
    return recording


class _Stream:
    """Puts the replies of a connection to their commands."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self._readers = {"client": JSONReader(False), "qemu": JSONReader(False)}
        self._open: list[Exchange] = []
        self._loose: list[dict[str, Any]] = []

    def take(self, sender: str, data: bytes) -> None:
        for message in self._readers[sender].feed(data):
            if sender == "client":
                exchange = Exchange(None if isinstance(message, ParseFault) else message)
                # What came since the reply before came before this command.
                if not self._open:
                    self._settle()
                self.conversation.exchanges.append(exchange)
                self._open.append(exchange)
            elif isinstance(message, dict):
                self._take_reply(message)

    def _take_reply(self, message: dict[str, Any]) -> None:
        if "QMP" in message:
            self.conversation.greeting = message
        elif "event" in message or not self._open:
            self._loose.append(message)
            self.conversation.after = self._loose
        else:
            exchange = _answered(self._open, message)
            self._open.remove(exchange)
            exchange.before, exchange.reply = self._loose, message
            self._loose = self.conversation.after = []

    def _settle(self) -> None:
        """Events that came of themselves go with the command before them."""
        if self._loose and self.conversation.exchanges:
            last = Exchange(None, self._loose)
            self.conversation.exchanges.append(last)
            self._loose = self.conversation.after = []


def _answered(waiting: Iterable[Exchange], reply: Mapping[str, Any]) -> Exchange:
    """The command that a reply is for: that with its id, else the oldest."""
    waiting = list(waiting)
    for exchange in waiting:
        command = exchange.command
        if isinstance(command, dict) and "id" in command and command["id"] == reply.get("id"):
            return exchange
    return waiting[0]
