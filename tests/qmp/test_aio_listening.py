"""The asynchronous client: a QEMU that connects to us, and connecting again."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import (
    AsyncQMPClient,
    FakeQMPServer,
    QMPClient,
    QMPConnectError,
    QMPDisconnectedError,
    QMPTimeoutError,
)

from .aio_peer import AsyncPeer, Listening, failure, in_loop, turns


@pytest.fixture
def server() -> Iterator[FakeQMPServer]:
    with FakeQMPServer(emulate="7.2") as server:
        yield server


@pytest.mark.parametrize("family", ["unix", "tcp"])
@in_loop
async def test_a_qemu_that_connects_to_us(family: str, tmp_path: Path) -> None:
    if family == "unix":
        address: Any = str(tmp_path / "ours.sock")
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = free.getsockname()

    async def qemu() -> AsyncPeer:
        sock = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        peer = AsyncPeer(sock)
        await peer.welcome()
        return peer

    async with AsyncQMPClient.listen(address) as client:
        assert not client.connected
        accepting = asyncio.create_task(client.accept())
        await asyncio.sleep(0)
        peer = await qemu()
        assert await accepting is client
        assert client.connected
        assert "ours.sock" in repr(client) or str(address[1]) in repr(client)

        async def again() -> AsyncPeer:
            # A QEMU that reconnects does so when it has seen the end.
            with pytest.raises(EOFError):
                await peer.receive()
            return await qemu()

        reconnecting = asyncio.create_task(again())
        await client.reconnect()
        second = await reconnecting
        third = asyncio.create_task(qemu())
        await client.accept()
        # There is one connection at a time: the one before is given up.
        with pytest.raises(EOFError):
            await second.receive()
        for one in (peer, second, await third):
            one.close()
    if family == "unix":
        assert not os.path.exists(address)


@in_loop
async def test_nobody_comes(tmp_path: Path) -> None:
    path = tmp_path / "ours.sock"
    client = AsyncQMPClient.listen(path)
    text = await failure(client.accept(timeout=0.05))
    client.close()
    blocking = QMPClient.listen(path)
    with pytest.raises(QMPTimeoutError) as expected:
        blocking.accept(timeout=0.05)
    blocking.close()
    assert text == f"QMPTimeoutError: {expected.value}"


@in_loop
async def test_close_ends_accepts_and_cancelling_one_leaves_the_others(tmp_path: Path) -> None:
    client = AsyncQMPClient.listen(tmp_path / "ours.sock")
    accepting = [asyncio.create_task(client.accept(timeout=None)) for _ in range(3)]
    await asyncio.sleep(0)
    accepting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting[0]
    client.close()
    for task in accepting[1:]:
        with pytest.raises(QMPDisconnectedError, match="was closed here"):
            await task


@in_loop
async def test_a_cancelled_accept_does_not_deafen_the_others(tmp_path: Path) -> None:
    path = tmp_path / "ours.sock"
    async with AsyncQMPClient.listen(path) as client:
        first = asyncio.create_task(client.accept())
        second = asyncio.create_task(client.accept())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            peer = AsyncPeer(sock)
            await peer.welcome()
            assert await second is client


@in_loop
async def test_an_address_that_is_taken(tmp_path: Path, server: FakeQMPServer) -> None:
    with pytest.raises(QMPConnectError, match="can't listen at"):
        AsyncQMPClient.listen(server.address)


@in_loop
async def test_reconnecting_goes_on_with_the_history(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        await client.stop()
        stream = client.stream_events()
        await client.reconnect()
        await client.cont()
        await client.wait_for_event("RESUME")
        assert client.events.names() == ["STOP", "RESUME"]
        # The stream was one of the connection that has ended.
        assert [one.name async for one in stream] == []


@in_loop
async def test_a_client_connects_again_after_its_server(tmp_path: Path) -> None:
    path = str(tmp_path / "again.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        listening = Listening(sock)
        peers: list[AsyncPeer] = []

        async def serve() -> None:
            for _ in range(2):
                peers.append(await listening.accept())
                await peers[-1].welcome()

        serving = asyncio.create_task(serve())
        async with await AsyncQMPClient.connect(path) as client:
            peers[0].close()
            await turns(lambda: not client.connected)
            await client.reconnect()
            assert client.connected
        await serving
        peers[1].close()
