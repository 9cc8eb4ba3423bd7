"""A machine's second monitor: read in the background, for its events and a few questions."""

from __future__ import annotations

import json
import re
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from pytest_qmp.errors import QMPDisconnectedError, QMPProtocolError, QMPTimeoutError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.qmp.wire import MessageReader

__all__ = ["EventTap"]

_READ_SIZE = 65536
_EVENT_NAME = re.compile(rb'"event": "([A-Z0-9_]+)"')
_INTERESTING = frozenset(
    {
        b"BLOCK_IO_ERROR",
        b"GUEST_CRASHLOADED",
        b"GUEST_PANICKED",
        b"MEMORY_FAILURE",
        b"POWERDOWN",
        b"RESET",
        b"RESUME",
        b"SHUTDOWN",
        b"STOP",
        b"VSERPORT_CHANGE",
        b"WATCHDOG",
    }
)


class EventTap:
    """Reads a monitor of its own, so that no event waits until a test looks.

    Args:
        sock: our end of the monitor's socket.
        on_event: gets each event that can mean something, in the background.
        on_status: gets the run state after each STOP, in the background.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_event: Callable[[QMPEvent], None],
        on_status: Callable[[str], None],
    ) -> None:
        self.sock = sock
        self._on_event = on_event
        self._on_status = on_status
        self._reader = MessageReader()
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._asked = 0
        self._awaited: set[int] = set()
        self._answers: dict[int, Any] = {}
        self._ended = False
        sock.setblocking(False)
        # It lies in the socket by the time that QEMU first reads.
        self._greeting = self._send("qmp_capabilities")
        self._awaited.add(self._greeting)

    def negotiate(self, deadline: Deadline) -> None:
        """Reads the greeting and negotiates, in the caller's thread: from then on events come.

        Raises:
            QMPDisconnectedError: QEMU is gone.
            QMPTimeoutError: it did not answer in time.
        """
        __tracebackhide__ = True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while self._greeting not in self._answers:
            if not poll.poll(deadline.poll_milliseconds()):
                raise QMPTimeoutError("QEMU's second monitor did not answer in time")
            if not self.read():
                raise QMPDisconnectedError("QEMU closed its second monitor")

    def read(self) -> bool:
        """Takes what has come; False at the end of the connection."""
        try:
            data = self.sock.recv(_READ_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        try:
            if data:
                self._reader.feed(data)
                for raw in self._reader.take():
                    self._take(raw)
        except QMPProtocolError:
            # The test's own monitor tells the same, with the bytes.
            data = b""
        if not data:
            with self._answered:
                self._ended = True
                self._answered.notify_all()
        return bool(data)

    def read_all(self) -> None:
        """Takes all that has come, once its sender is gone."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while poll.poll(0) and self.read():
            continue

    def ask(self, command: str, deadline: Deadline) -> Any:
        """Executes a command on this monitor; for any thread but that of the background.

        Returns:
            What QEMU returned; None where it did not, in time.
        """
        with self._answered:
            if self._ended:
                return None
            number = self._send(command)
            self._awaited.add(number)
            self._answered.wait_for(
                lambda: self._ended or number in self._answers, deadline.remaining()
            )
            self._awaited.discard(number)
            return self._answers.pop(number, None)

    def _send(self, command: str) -> int:
        self._asked += 1
        message = {"execute": command, "id": self._asked}
        try:
            self.sock.send(json.dumps(message, separators=(",", ":")).encode(), socket.MSG_NOSIGNAL)
        except OSError:
            # QEMU is gone, or does not read: nobody answers, which the reader notices.
            return self._asked
        return self._asked

    def _take(self, raw: bytes) -> None:
        named = _EVENT_NAME.search(raw)
        if named is not None and named[1] not in _INTERESTING:
            return
        message = json.loads(raw)
        if "event" in message:
            event = QMPEvent(message)
            self._on_event(event)
            if event.name == "STOP":
                with self._lock:
                    self._send("query-status")
            return
        answer = message.get("return")
        if isinstance(answer, dict) and "status" in answer and "running" in answer:
            self._on_status(str(answer["status"]))
        number = message.get("id")
        with self._answered:
            if number in self._awaited:
                self._answers[number] = answer
                self._answered.notify_all()
