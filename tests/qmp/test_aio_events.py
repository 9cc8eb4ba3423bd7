"""The asynchronous client: waiting for events, and streams of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from pytest_qmp import (
    AsyncQMPClient,
    FakeQMPServer,
    QMPDisconnectedError,
    QMPError,
    QMPEvent,
    QMPProtocolError,
    QMPTimeoutError,
)
from pytest_qmp.qmp.aio_waiting import EventStream

from .aio_peer import connection, failure, in_loop, turns
from .peer import event


@pytest.fixture
def server() -> Iterator[FakeQMPServer]:
    with FakeQMPServer(emulate="7.2") as server:
        yield server


@in_loop
async def test_an_event_is_found_whether_it_came_already_or_comes(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        await client.stop()
        assert (await client.wait_for_event("STOP")).name == "STOP"
        waiting = asyncio.create_task(client.wait_for_event(["RESUME", "RESET"]))
        await asyncio.sleep(0)
        await client.cont()
        assert (await waiting).name == "RESUME"


@in_loop
async def test_a_wait_takes_the_first_that_fits_and_leaves_the_rest() -> None:
    async with connection() as (client, peer):
        await peer.send(*(event("JOB", {"id": n, "in": {"x": [n, 1]}}) for n in (1, 2, 3, 2)))
        two = {"data": {"in": {"x": [2, 1]}}}
        assert (await client.wait_for_event("JOB", two)).data["id"] == 2
        assert (await client.wait_for_event("JOB", lambda one: one.data["id"] > 1)).data["id"] == 3
        assert (await client.wait_for_event("JOB")).data["id"] == 1
        assert (await client.wait_for_event("JOB", two)).data["id"] == 2
        with pytest.raises(QMPTimeoutError):
            await client.wait_for_event("JOB", timeout=0)
        assert [one.data["id"] for one in client.events] == [1, 2, 3, 2]


@in_loop
async def test_a_wait_in_vain_lists_what_came() -> None:
    async with connection() as (client, peer):
        await peer.send(event("STOPPED"), event("RESET"))
        await turns(lambda: client.events.total == 2)
        text = await failure(client.wait_for_event("STOP", {"data": {"a": 1}}, timeout=0.05))
    assert text == (
        "QMPTimeoutError: waited 0.05 s for the event STOP matching {'data': {'a': 1}} from QEMU, "
        "in vain. events that came (nearest first): STOPPED, RESET"
    )


@in_loop
async def test_a_match_that_can_never_fit_is_refused() -> None:
    async with connection() as (client, _):
        with pytest.raises(ValueError, match="did you mean"):
            await client.wait_for_event("STOP", {"guest": True})
        with pytest.raises(ValueError, match="did you mean"):
            client.expect_event("STOP", {"guest": True})
        with pytest.raises(ValueError, match="name"):
            client.stream_events(match={"data": {}})


@in_loop
async def test_two_waits_for_the_same_event_get_one_each() -> None:
    async with connection() as (client, peer):
        waits = [asyncio.create_task(client.wait_for_event("JOB")) for _ in range(2)]
        await asyncio.sleep(0)
        await peer.send(event("JOB", {"n": 1}))
        await turns(lambda: any(wait.done() for wait in waits))
        assert not all(wait.done() for wait in waits)
        await peer.send(event("JOB", {"n": 2}))
        assert [(await wait).data["n"] for wait in waits] == [1, 2]


@in_loop
async def test_a_cancelled_wait_takes_no_event() -> None:
    async with connection() as (client, peer):
        waiting = asyncio.create_task(client.wait_for_event("JOB"))
        await asyncio.sleep(0)
        # Cancelled when it has been told that there is news, but has not run yet.
        await peer.send(event("JOB"))
        assert len(client.events) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await client.wait_for_event("JOB", timeout=0)).name == "JOB"


@in_loop
async def test_expect_event_counts_from_inside_the_block_only() -> None:
    async with connection() as (client, peer):
        await peer.send(event("STOP", {"n": 1}))
        await client.wait_for_event("STOP")
        await peer.send(event("STOP", {"n": 2}))
        async with client.expect_event("STOP") as stopped:
            with pytest.raises(QMPError, match="once the with block has ended"):
                _ = stopped.value
            await peer.send(event("STOP", {"n": 3}))
        assert stopped.value.data["n"] == 3
        assert stopped.event is stopped.value
        assert (await client.wait_for_event("STOP")).data["n"] == 2
        with pytest.raises(QMPTimeoutError):
            async with client.expect_event("STOP", timeout=0.02):
                pass


@in_loop
async def test_an_error_in_the_block_is_not_hidden_by_the_wait() -> None:
    async with connection() as (client, _):
        with pytest.raises(ZeroDivisionError):
            async with client.expect_event("STOP", timeout=None):
                _ = 1 / 0


@in_loop
async def test_assert_no_event() -> None:
    async with connection() as (client, peer):
        await client.assert_no_event("STOP")
        await client.assert_no_event("STOP", within=0.02)
        await peer.send(event("STOP", {"n": 1}))
        with pytest.raises(AssertionError, match="no event STOP was to come within 0 s"):
            await client.assert_no_event("STOP")
        watching = asyncio.create_task(client.assert_no_event("STOP", within=60))
        await asyncio.sleep(0)
        await peer.send(event("STOP", {"n": 2}))
        with pytest.raises(AssertionError, match=r'came STOP \{"n": 2\}'):
            await watching
        await peer.send(event("RESET"))
        peer.close()
        await client.assert_no_event("STOP")
        with pytest.raises(QMPDisconnectedError):
            await client.assert_no_event("STOP", within=60)
        with pytest.raises(AssertionError):
            await client.assert_no_event("RESET", within=60)


@in_loop
async def test_a_stream_has_every_event_from_its_start_on(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        await client.stop()
        everything = client.stream_events()
        resumed = client.stream_events("RESUME")
        await client.cont()
        # A wait takes an event from other waits, never from a stream.
        await client.wait_for_event("RESUME")
        await client.stop()
        later = client.stream_events()
        await client.quit()
        assert [one.name async for one in everything] == ["RESUME", "STOP", "SHUTDOWN"]
        assert [one.name async for one in resumed] == ["RESUME"]
        assert [one.name async for one in later] == ["SHUTDOWN"]


@in_loop
async def test_what_had_arrived_before_a_stream_began_is_not_in_it() -> None:
    async with connection() as (client, peer):
        await peer.send(event("BEFORE"))
        stream = client.stream_events()
        await peer.send(event("AFTER"))
        assert (await anext(stream)).name == "AFTER"


@in_loop
async def test_an_event_that_came_while_the_loop_was_busy_counts() -> None:
    async with connection() as (client, peer):
        waiting = asyncio.create_task(client.wait_for_event("LAST", timeout=0.05))
        await asyncio.sleep(0)
        await peer.send(*[event("STORM", {"fill": "x" * 900})] * 100, event("LAST"))
        # Nothing turns the loop until the deadline has passed.
        threading.Event().wait(0.1)
        assert (await waiting).name == "LAST"


@in_loop
async def test_streams_in_many_tasks_each_see_all() -> None:
    async with connection() as (client, peer):

        async def collect() -> list[int]:
            return [one.data["n"] async for one in client.stream_events()]

        tasks = [asyncio.create_task(collect()) for _ in range(10)]
        await asyncio.sleep(0)
        for n in range(200):
            await peer.send(event("JOB", {"n": n}))
        peer.close()
        assert await asyncio.gather(*tasks) == [list(range(200))] * 10


@in_loop
async def test_a_stream_can_be_left_and_gone_on_with() -> None:
    async with connection() as (client, peer):
        stream = client.stream_events(["A", "B"], lambda one: one.data["n"] % 2)
        await peer.send(*(event("A", {"n": n}) for n in range(6)))
        async for one in stream:
            assert one.data["n"] == 1
            break
        assert [(await anext(stream)).data["n"] for _ in range(2)] == [3, 5]
        waiting = asyncio.create_task(_step(stream))
        await asyncio.sleep(0)
        await peer.send(event("B", {"n": 7}), event("C", {"n": 9}))
        assert client.events.total == 8
        # Told that there is news, but cancelled before it ran.
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        client.close()
        assert [one.data["n"] async for one in stream] == [7]


async def _step(stream: EventStream) -> QMPEvent:
    return await stream.__anext__()


@in_loop
async def test_a_stream_ends_with_the_client_and_says_when_it_was_garbage() -> None:
    async with connection() as (client, peer):
        waiting = asyncio.create_task(_step(client.stream_events()))
        await asyncio.sleep(0)
        client.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
    async with connection() as (client, peer):
        stream = client.stream_events()
        await peer.send(event("A"), b"nonsense\n")
        assert (await anext(stream)).name == "A"
        with pytest.raises(QMPProtocolError, match="nonsense"):
            await anext(stream)


@in_loop
async def test_a_stream_has_one_deadline() -> None:
    async with connection() as (client, peer):
        stream = client.stream_events(timeout=0.05)
        await peer.send(event("A"))
        assert (await anext(stream)).name == "A"
        with pytest.raises(QMPTimeoutError, match=r"waited 0\.05 s for the next event"):
            await anext(stream)


@in_loop
async def test_a_stream_never_skips_in_silence() -> None:
    async with connection(max_events=3) as (client, peer):
        stream = client.stream_events()
        await peer.send(*(event("A", {"n": n}) for n in range(5)))
        assert client.events.total == 5
        with pytest.raises(QMPError, match=r"history of 3 events was full, and 2 were dropped"):
            await anext(stream)
        assert (await anext(stream)).data["n"] == 2


@in_loop
async def test_a_storm_of_events_in_the_middle_of_a_command() -> None:
    async with connection() as (client, peer):
        storm = b"".join(event("STORM", {"n": n, "fill": "x" * 80}) for n in range(50_000))
        call = asyncio.create_task(client.execute("x", timeout=20))
        last = asyncio.create_task(client.wait_for_event("STORM", {"data": {"n": 49_999}}))
        command = await peer.receive()
        await peer.send(storm)
        await peer.reply(command, "still here")
        assert await call == "still here"
        assert (await last).data["n"] == 49_999
        assert client.events.total == 50_000


@in_loop
async def test_the_history_is_there_after_the_end() -> None:
    async with connection() as (client, peer):
        await peer.send(event("A"), event("B"))
        peer.close()
        await turns(lambda: not client.connected)
        client.close()
        assert client.events.names() == ["A", "B"]
        assert (await client.wait_for_event("B")).name == "B"
        with pytest.raises(QMPDisconnectedError, match=r"A, B|B, A"):
            await client.wait_for_event("C")
