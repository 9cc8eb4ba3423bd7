"""A client that takes nothing for granted: lines in, lines out."""

from __future__ import annotations

import json
import socket
from typing import Any

LIMIT = 10.0


class LineClient:
    """The client's end of a monitor; takes the greeting, and negotiates if told to."""

    def __init__(self, sock: socket.socket, *, negotiate: bool = True) -> None:
        self.sock = sock
        self.sock.settimeout(LIMIT)
        self._file = sock.makefile("rb")
        self.greeting: Any = self.read() if negotiate else None
        if negotiate:
            self.send({"execute": "qmp_capabilities"})
            assert self.read() == {"return": {}}

    def send(self, message: Any) -> None:
        self.sock.sendall(json.dumps(message).encode())

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read_raw(self) -> bytes:
        return self._file.readline()

    def read(self) -> Any:
        line = self.read_raw()
        return json.loads(line) if line else None

    def execute(self, command: str, **arguments: Any) -> Any:
        """The reply to a command; events before it are an error of the test."""
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.send(message)
        return self.read()

    def events_then_reply(self, command: str, **arguments: Any) -> tuple[list[str], Any]:
        """The names of the events before the reply, and the reply."""
        reply = self.execute(command, **arguments)
        events = []
        while "event" in reply:
            events.append(reply["event"])
            reply = self.read()
        return events, reply

    def status(self) -> str:
        return str(self.execute("query-status")["return"]["status"])

    def at_eof(self) -> bool:
        return self.read_raw() == b""

    def close(self) -> None:
        self._file.close()
        self.sock.close()
