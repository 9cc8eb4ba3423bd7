"""A QMP server that plays a script, and sees to it that the script was followed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = [
    "GREETING",
    "GREETING_LINE",
    "LIMIT",
    "Peer",
    "PeerThread",
    "Script",
    "event",
    "line",
    "socket_pair",
    "steps",
]

LIMIT = 20.0
"""Seconds after which a test that hangs fails; nothing waits so long where all is well."""

GREETING: dict[str, Any] = {
    "QMP": {
        "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"},
        "capabilities": [],
    }
}


def line(message: object) -> bytes:
    """A message as QEMU writes it."""
    return json.dumps(message).encode() + b"\r\n"


GREETING_LINE = line(GREETING)


def event(name: str, data: dict[str, Any] | None = None, *, seconds: int = 1700000000) -> bytes:
    """An event as QEMU writes it."""
    message: dict[str, Any] = {
        "timestamp": {"seconds": seconds, "microseconds": 250000},
        "event": name,
    }
    return line({**message, "data": data} if data is not None else message)


class Request(NamedTuple):
    """A command that came, and the descriptors that came with it."""

    message: dict[str, Any]
    fds: tuple[int, ...]

    @property
    def command(self) -> str:
        return str(self.message.get("execute", self.message.get("exec-oob")))


class Peer:
    """The server's side of one connection, for a script."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(LIMIT)
        self._received = b""
        self._fds: list[int] = []

    def send(self, *messages: bytes | dict[str, Any]) -> None:
        """Sends bytes as they are, and dicts a line each, all in one write."""
        self.sock.sendall(b"".join(m if isinstance(m, bytes) else line(m) for m in messages))

    def request(self) -> Request:
        """The next command, whole; clients end it with nothing."""
        while True:
            text = self._received.decode().lstrip()
            try:
                message, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                data, fds, _, _ = socket.recv_fds(self.sock, 65536, 16)
                assert data, f"the client left in the middle of {text!r}"
                self._received += data
                self._fds += fds
            else:
                self._received = text[end:].encode()
                taken, self._fds = tuple(self._fds), []
                return Request(message, taken)

    def request_without_fds(self, command: str) -> dict[str, Any]:
        """Expects a command that brings no descriptors, and answers it."""
        found = self.request()
        assert (found.command, found.fds) == (command, ())
        self.reply(found.message)
        return found.message

    def request_in_pieces(self) -> dict[str, Any]:
        """A large request, read a little at a time, so that the client has to send it so."""
        while not self._received.endswith(b"}}"):
            self._received += self.sock.recv(65536)
        return self.request().message

    def expect(self, command: str) -> dict[str, Any]:
        """The next command, which has to be this one."""
        found = self.request()
        assert found.command == command, f"{command} was to come, but {found.message} came"
        return found.message

    def reply(self, request: dict[str, Any], value: object = None, *, echo: bool = True) -> None:
        """Answers a command; ``echo=False`` as servers do that know no ids."""
        self.send(reply(request, value, echo=echo))

    def answer(self, command: str, value: object = None, *, echo: bool = True) -> dict[str, Any]:
        """Expects a command and answers it."""
        request = self.expect(command)
        self.reply(request, value, echo=echo)
        return request

    def greet(self, greeting: bytes = GREETING_LINE) -> None:
        """Greets and takes the negotiation."""
        self.send(greeting)
        self.answer("qmp_capabilities")

    def wait(self, moment: threading.Event) -> None:
        """Waits for the test to say go on."""
        assert moment.wait(LIMIT), "the test did not go on"

    def wait_for_end(self) -> None:
        """Waits for the client to leave; it may not say anything more."""
        assert self._received == b""
        try:
            rest = self.sock.recv(65536)
        except ConnectionResetError:  # it left with something unread
            return
        assert rest == b"", f"the client was to leave, but said {rest!r}"

    def close(self) -> None:
        self.sock.close()


def reply(request: dict[str, Any], value: object = None, *, echo: bool = True) -> dict[str, Any]:
    """A reply's message."""
    message: dict[str, Any] = {"return": {} if value is None else value}
    if echo and "id" in request:
        message["id"] = request["id"]
    return message


Script = Callable[[Peer], object]


def steps(*scripts: Script) -> Script:
    """One script after the other."""

    def script(peer: Peer) -> None:
        for one in scripts:
            one(peer)

    return script


class PeerThread(threading.Thread):
    """Plays scripts on a socket: one on a connected one, one a connection on a listening one."""

    def __init__(self, sock: socket.socket, *scripts: Script, listening: bool = False) -> None:
        super().__init__(name="scripted peer", daemon=True)
        self._sock = sock
        self._scripts = scripts
        self._listening = listening
        self.error: BaseException | None = None
        sock.settimeout(LIMIT)

    def run(self) -> None:
        try:
            for script in self._scripts:
                sock = self._sock.accept()[0] if self._listening else self._sock
                with sock:
                    script(Peer(sock))
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self.error = error
        finally:
            self._sock.close()

    def finish(self) -> None:
        """Waits for the script's end, and raises what was wrong with it."""
        self.join(LIMIT)
        assert not self.is_alive(), "the script did not come to its end"
        if self.error is not None:
            raise self.error


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets: the client's and the server's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
