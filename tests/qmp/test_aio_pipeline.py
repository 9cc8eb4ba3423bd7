"""The asynchronous client: many commands at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_qmp import AsyncQMPClient, FakeQMPServer, QMPCommandError, QMPTimeoutError
from pytest_qmp.qmp.pipeline import PipelineItem

from .aio_peer import connection, in_loop


@pytest.fixture
def server() -> Iterator[FakeQMPServer]:
    with FakeQMPServer(emulate="7.2") as server:
        yield server


@in_loop
async def test_results_come_in_the_order_of_the_commands(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        results = await client.pipeline(
            [
                "query-name",
                ("stop", {}),
                {"execute": "query-status"},
                {"execute": "cont", "id": "mine"},
                "query-status",
            ]
        )
        assert await client.pipeline([]) == []
    assert [results[2]["status"], results[4]["status"]] == ["paused", "running"]
    assert results[1] == results[3] == {}


@in_loop
async def test_a_refused_command_is_raised_when_all_have_been_answered(
    server: FakeQMPServer,
) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        with pytest.raises(QMPCommandError, match="did you mean 'stop'"):
            await client.pipeline(["stopp", "nonsense", "stop"])
        found = await client.pipeline(["query-status", "nonsense"], return_exceptions=True)
        assert found[0]["status"] == "paused"
        assert isinstance(found[1], QMPCommandError)
        assert found[1].command == "nonsense"


@pytest.mark.parametrize(
    "commands",
    [
        ["stop", 7],
        ["stop", ("a", "b", "c")],
        ["stop", ("a", [1])],
        ["stop", {"command": "x"}],
        ["stop", {}],
        "stop",
    ],
    ids=repr,
)
@in_loop
async def test_one_wrong_item_sends_nothing(commands: Any, server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        with pytest.raises(TypeError, match="pipeline"):
            await client.pipeline(commands)
        assert (await client.query_status())["status"] == "running"
    server.assert_not_called("stop")


@in_loop
async def test_replies_out_of_order_are_gathered_by_id() -> None:
    async with connection() as (client, peer):
        commands: list[PipelineItem] = [
            {"exec-oob": "a"},
            {"exec-oob": "b", "arguments": {"n": 1}},
            "c",
        ]
        running = asyncio.create_task(client.pipeline(commands))
        first, second, third = [await peer.receive() for _ in range(3)]
        assert second["arguments"] == {"n": 1}
        await peer.reply(third, "third")
        await peer.reply(second, "second")
        await peer.reply(first, "first")
        assert await running == ["first", "second", "third"]


@in_loop
async def test_a_pipeline_has_one_deadline_and_drops_what_comes_late() -> None:
    async with connection() as (client, peer):
        running = asyncio.create_task(client.pipeline(["a", "b", "c"], timeout=0.05))
        late = [await peer.receive() for _ in range(3)]
        await peer.reply(late[0], "a")
        with pytest.raises(QMPTimeoutError, match=r"waited 0\.05 s for the reply to 'b'"):
            await running
        again = asyncio.create_task(client.pipeline(["d", "e"]))
        commands = [await peer.receive() for _ in range(2)]
        for command in (*late[1:], *commands):
            await peer.reply(command, command["execute"])
        assert await again == ["d", "e"]


@in_loop
async def test_a_thousand_commands_that_the_peer_reads_late() -> None:
    async with connection() as (client, peer):
        items = [("echo", {"n": n, "fill": "x" * 1000}) for n in range(1000)]
        running = asyncio.create_task(client.pipeline(items))
        await asyncio.sleep(0)
        for _ in range(1000):
            command = await peer.receive()
            await peer.reply(command, command["arguments"]["n"])
        assert await running == list(range(1000))
