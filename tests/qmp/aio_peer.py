"""A server in the test's own event loop, that does what the test says and nothing else."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from pytest_qmp import AsyncQMPClient

from .peer import GREETING, LIMIT, line, reply

P = ParamSpec("P")

GREETING_WITH_OOB = {"QMP": {**GREETING["QMP"], "capabilities": ["oob"]}}


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an asynchronous test in a loop of its own, with nothing but asyncio."""

    @functools.wraps(test)
    def run(*args: P.args, **keywords: P.kwargs) -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(*args, **keywords), LIMIT)

        asyncio.run(limited())

    return run


class AsyncPeer:
    """The server's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._unread = b""

    @classmethod
    def pair(cls) -> tuple[AsyncPeer, socket.socket]:
        """A peer, and the client's end."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    async def send(self, *messages: Any) -> None:
        """Sends messages a line each, in one write; bytes go as they are."""
        data = b"".join(one if isinstance(one, bytes) else line(one) for one in messages)
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self) -> dict[str, Any]:
        """The next command; the client ends none with a newline."""
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._unread.decode())
            except ValueError:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                if not data:
                    raise EOFError(f"the client left; unread: {self._unread!r}") from None
                self._unread += data
                continue
            self._unread = self._unread[end:]
            assert isinstance(message, dict)
            return message

    async def reply(self, command: dict[str, Any], value: Any = None) -> None:
        """Answers a command with a value, and with its id."""
        await self.send(reply(command, value))

    async def answer(self, value: Any = None) -> dict[str, Any]:
        """Takes a command and answers it; returns the command."""
        command = await self.receive()
        await self.reply(command, value)
        return command

    async def welcome(self) -> None:
        """Greets, and lets the client negotiate."""
        await self.send(GREETING_WITH_OOB)
        assert (await self.answer())["execute"] == "qmp_capabilities"

    def close(self) -> None:
        """Leaves."""
        self.sock.close()


class Listening:
    """A listening socket, and the peers that it takes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.listen(8)
        sock.setblocking(False)
        self.sock = sock

    async def accept(self) -> AsyncPeer:
        return AsyncPeer((await asyncio.get_running_loop().sock_accept(self.sock))[0])

    async def serve(self, script: Callable[[AsyncPeer], Awaitable[None]]) -> None:
        peer = await self.accept()
        await script(peer)
        peer.close()


@asynccontextmanager
async def connection(**options: Any) -> AsyncIterator[tuple[AsyncQMPClient, AsyncPeer]]:
    """A client and its peer, negotiated."""
    peer, theirs = AsyncPeer.pair()
    client, _ = await asyncio.gather(AsyncQMPClient.connect(theirs, **options), peer.welcome())
    try:
        yield client, peer
    finally:
        client.close()
        peer.close()


async def turns(condition: Callable[[], object]) -> None:
    """Lets the loop turn until something holds."""
    while not condition():
        await asyncio.sleep(0)


async def failure(work: Awaitable[Any]) -> str:
    """The text of the error that something raises."""
    try:
        await work
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")
