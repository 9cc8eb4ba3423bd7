"""The asynchronous client: a wait that ends early, anywhere, leaves it usable."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pytest_qmp import AsyncQMPClient, QMPTimeoutError

from .aio_peer import AsyncPeer, connection, in_loop, turns
from .peer import event


@in_loop
async def test_a_cancelled_command_that_was_not_sent_never_is() -> None:
    async with connection() as (client, peer):
        big = asyncio.create_task(client.execute("big", text="x" * 2_000_000))
        unsent = asyncio.create_task(client.execute("unsent"))
        await asyncio.sleep(0)
        unsent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unsent
        after = asyncio.create_task(client.execute("after"))
        assert (await peer.answer("big"))["execute"] == "big"
        assert (await peer.answer("after"))["execute"] == "after"
        assert [await big, await after] == ["big", "after"]


@in_loop
async def test_a_cancelled_command_that_is_half_sent_is_sent_whole() -> None:
    async with connection() as (client, peer):
        text = "x" * 2_000_000
        big = asyncio.create_task(client.execute("big", text=text))
        await asyncio.sleep(0)
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        after = asyncio.create_task(client.execute("after"))
        command = await peer.receive()
        assert command["arguments"]["text"] == text
        await peer.reply(command, "late")
        await peer.answer("after")
        assert await after == "after"


@in_loop
async def test_a_cancellation_together_with_the_reply() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.execute("x"))
        await peer.answer("x")
        # Reads the reply, so that the task is due, then cancels it before it has run.
        assert list(client.events) == []
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        after = asyncio.create_task(client.execute("after"))
        assert "id" not in await peer.answer("after")
        assert await after == "after"


@in_loop
async def test_asyncios_own_timeout_leaves_it_usable() -> None:
    async with connection() as (client, peer):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.execute("slow", timeout=None), 0.02)
        slow = await peer.receive()
        quick = asyncio.create_task(client.execute("quick"))
        command = await peer.receive()
        await peer.reply(slow, "late")
        await peer.reply(command, "quick")
        assert await quick == "quick"


async def _echo(peer: AsyncPeer, rng: random.Random, ids: bool) -> None:
    """Answers each command with its own number, in order, between events, at random moments."""
    while True:
        command = await peer.receive()
        for _ in range(rng.choice((0, 0, 1, 3, 9))):
            await asyncio.sleep(0)
        if rng.random() < 0.3:
            await peer.send(event("NEWS", {"n": command["arguments"]["n"]}))
        if not ids:
            command.pop("id", None)
        data = b'{"return": %d%s}\r\n' % (
            command["arguments"]["n"],
            b', "id": %d' % command["id"] if "id" in command else b"",
        )
        cut = rng.randrange(len(data))
        await peer.send(data[:cut])
        await asyncio.sleep(0)
        await peer.send(data[cut:])


class _Caller:
    """Makes commands of all kinds, and checks that each gets its own reply."""

    def __init__(self, client: AsyncQMPClient, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.count = 0

    def _number(self) -> dict[str, Any]:
        self.count += 1
        return {"n": self.count}

    async def run(self) -> None:
        kind = self.rng.randrange(5)
        arguments = self._number()
        n = arguments["n"]
        if kind == 0:
            items = [("echo", arguments), *(("echo", self._number()) for _ in range(3))]
            expected = [item[1]["n"] for item in items]
            assert await self.client.pipeline(items) == expected
        elif kind == 1:
            text = "x" * self.rng.choice((1000, 300_000))
            assert await self.client.execute("echo", arguments, text=text) == n
        elif kind == 2:
            # Ends by its own deadline, mostly.
            found = await self.client.execute("echo", arguments, timeout=self.rng.random() / 1000)
            assert found == n
        elif kind == 3:
            await self.client.wait_for_event("NEWS", timeout=self.rng.random() / 100)
        else:
            assert await self.client.execute("echo", arguments) == n


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no ids"])
@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_cancelled_at_random_moments_it_stays_right(seed: int, ids: bool) -> None:
    rng = random.Random(seed)
    async with connection() as (client, peer):
        serving = asyncio.create_task(_echo(peer, rng, ids))
        caller = _Caller(client, rng)
        cancelled = completed = 0
        for _ in range(60):
            tasks = [asyncio.create_task(caller.run()) for _ in range(rng.randrange(1, 6))]
            victims = [task for task in tasks if rng.random() < 0.6]
            for task in victims:
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, asyncio.CancelledError):
                    cancelled += 1
                else:
                    # A wrong reply is an AssertionError, a lost one a timeout of 30 s.
                    assert result is None or isinstance(result, QMPTimeoutError), result
                    completed += 1
        assert await client.execute("echo", n=-1) == -1
        assert client.connected
        assert cancelled > 50
        assert completed > 50
        serving.cancel()


@in_loop
async def test_a_cancelled_wait_leaves_no_timer_or_future_behind() -> None:
    async with connection() as (client, peer):
        link = client._connection
        assert link is not None
        for _ in range(20):
            tasks = [
                asyncio.create_task(work)
                for work in (
                    client.execute("x"),
                    client.wait_for_event("STOP"),
                    client.pipeline(["a", "b"]),
                )
            ]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert not link._replies
        assert not link._watchers
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        # That of the test itself is the only one.
        assert len([timer for timer in timers if not timer.cancelled()]) <= 1
        for _ in range(60):
            await peer.answer()
        await turns(lambda: not link.session.owed)
