"""The asynchronous client under anyio's asyncio backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytest_qmp import AsyncQMPClient, FakeQMPServer

from .aio_peer import AsyncPeer, connection

anyio = pytest.importorskip("anyio")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[AsyncQMPClient]:
    with FakeQMPServer(emulate="7.2") as server:
        async with await AsyncQMPClient.connect(server.address) as client:
            yield client


async def test_commands_and_events(client: AsyncQMPClient) -> None:
    async with client.expect_event("STOP"):
        await client.stop()
    assert (await client.query_status())["status"] == "paused"


async def test_a_task_group(client: AsyncQMPClient) -> None:
    states: list[str] = []

    async def ask() -> None:
        states.append((await client.query_status())["status"])

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(ask)
    assert states == ["running"] * 100


async def test_a_cancelled_scope_leaves_it_usable() -> None:
    # anyio cancels again at every await in the scope, so cleaning up may await nothing.
    async with connection() as (client, peer):
        for work in (client.execute("slow"), client.pipeline(["a", "b"])):
            with anyio.move_on_after(0.02) as scope:
                await work
            assert scope.cancelled_caught
        late = [await peer.receive() for _ in range(3)]
        async with anyio.create_task_group() as group:
            group.start_soon(_answer_all, peer, late)
            assert await client.execute("quick") == "quick"


async def _answer_all(peer: AsyncPeer, late: list[dict[str, Any]]) -> None:
    late.append(await peer.receive())
    for command in late:
        await peer.reply(command, command["execute"])


async def test_it_closes_in_a_cancelled_scope() -> None:
    async with connection() as (client, _):
        with anyio.CancelScope() as scope:
            async with client:
                scope.cancel()
                await client.wait_for_event("STOP")
        assert not client.connected


async def test_fail_after(client: AsyncQMPClient) -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(0.02):
        await client.wait_for_event("STOP", timeout=None)
    assert (await client.query_status())["status"] == "running"
