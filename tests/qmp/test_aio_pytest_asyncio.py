"""The asynchronous client under pytest-asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pytest_qmp import AsyncQMPClient, FakeQMPServer

pytest_asyncio = pytest.importorskip("pytest_asyncio")


@pytest_asyncio.fixture  # type: ignore[untyped-decorator]
async def client() -> AsyncIterator[AsyncQMPClient]:
    with FakeQMPServer(emulate="7.2") as server:
        async with await AsyncQMPClient.connect(server.address) as client:
            yield client


@pytest.mark.asyncio
async def test_commands_and_events(client: AsyncQMPClient) -> None:
    async with client.expect_event("STOP"):
        await client.stop()
    assert (await client.query_status())["status"] == "paused"


@pytest.mark.asyncio
async def test_tasks_and_a_stream(client: AsyncQMPClient) -> None:
    stream = client.stream_events()
    states = await asyncio.gather(client.stop(), client.query_status(), client.cont())
    assert states[1]["status"] == "paused"
    await client.quit()
    assert [one.name async for one in stream] == ["STOP", "RESUME", "SHUTDOWN"]


@pytest.mark.asyncio
async def test_a_timeout_of_asyncio(client: AsyncQMPClient) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.wait_for_event("STOP", timeout=None), 0.02)
    assert (await client.query_status())["status"] == "running"
