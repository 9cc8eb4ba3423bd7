"""The asynchronous client: its end, and the event loop that it belongs to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import pytest

from pytest_qmp import (
    AsyncQMPClient,
    FakeQMPServer,
    QMPDisconnectedError,
    QMPError,
)

from .aio_peer import AsyncPeer, connection, failure, in_loop


@pytest.fixture
def server() -> Any:
    with FakeQMPServer(emulate="7.2") as server:
        yield server


@in_loop
async def test_a_closed_client_says_so() -> None:
    async with connection() as (client, _):
        client.close()
        client.close()
        await client.aclose()
        with pytest.raises(QMPDisconnectedError, match="was closed here"):
            await client.query_status()
        with pytest.raises(QMPDisconnectedError, match="was closed here"):
            client.stream_events()


@in_loop
async def test_close_in_another_task_ends_waits() -> None:
    async with connection() as (client, peer):
        waits = [
            asyncio.create_task(failure(work))
            for work in (client.execute("x", timeout=None), client.wait_for_event("STOP", None))
        ]
        await peer.receive()
        client.close()
        assert all("was closed here" in text for text in await asyncio.gather(*waits))


@in_loop
async def test_aclosing_closes_it(server: FakeQMPServer) -> None:
    async with aclosing(await AsyncQMPClient.connect(server.address)) as client:
        assert client.connected
    assert not client.connected


def test_another_loop_is_refused(server: FakeQMPServer) -> None:
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(AsyncQMPClient.connect(server.address))
    try:
        for work in (client.query_status, lambda: client.wait_for_event("STOP")):
            text = asyncio.run(failure(work()))
            assert "QMPError: the connection to QEMU at" in text
            assert "belongs to another event loop" in text
        assert loop.run_until_complete(client.query_status())["status"] == "running"
    finally:
        client.close()
        loop.close()


def test_no_loop_at_all_is_refused(server: FakeQMPServer) -> None:
    # As under trio: a coroutine that something else than asyncio drives.
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(AsyncQMPClient.connect(server.address))
    try:
        with pytest.raises(QMPError, match="belongs to another event loop"):
            client.query_status().send(None)
    finally:
        client.close()
        loop.close()


@in_loop
async def test_close_from_another_thread_is_refused() -> None:
    async with connection() as (client, _):
        text = await asyncio.to_thread(_failure_of_close, client)
        assert "call_soon_threadsafe(client.close)" in text
        assert client.connected


def _failure_of_close(client: AsyncQMPClient) -> str:
    with pytest.raises(QMPError) as error:
        client.close()
    return str(error.value)


def test_a_client_can_be_closed_after_its_loop(server: FakeQMPServer) -> None:
    client = asyncio.run(AsyncQMPClient.connect(server.address))
    client.close()
    assert not client.connected
    assert list(client.events) == []


def test_a_client_can_be_closed_after_a_loop_that_left_tasks_behind() -> None:
    async def begin() -> tuple[AsyncQMPClient, AsyncPeer, asyncio.Task[Any]]:
        peer, sock = AsyncPeer.pair()
        client, _ = await asyncio.gather(AsyncQMPClient.connect(sock), peer.welcome())
        task = asyncio.create_task(client.query_status())
        await peer.receive()
        return client, peer, task

    loop = asyncio.new_event_loop()
    client, peer, task = loop.run_until_complete(begin())
    loop.close()
    client.close()
    assert not client.connected
    peer.close()
    # Nobody is to be told that this task will not end.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


@in_loop
async def test_an_unconnected_client_says_what_to_do() -> None:
    client = AsyncQMPClient()
    with pytest.raises(QMPDisconnectedError, match="connect"):
        await client.query_status()
    with pytest.raises(QMPDisconnectedError, match="connect"):
        _ = client.version
    with pytest.raises(QMPError, match="listen"):
        await client.accept()
    with pytest.raises(AttributeError):
        _ = client._private
    assert not client.connected
    assert client.transcript == []
    client.close()


def test_asyncio_is_loaded_only_for_the_asynchronous_client() -> None:
    code = (
        "import sys, pytest_qmp, pytest_qmp.qmp.client; assert 'asyncio' not in sys.modules;"
        "pytest_qmp.AsyncQMPClient; assert 'asyncio' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
