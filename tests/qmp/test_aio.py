"""The asynchronous client: commands and their replies."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import threading
from typing import Any

import pytest

from pytest_qmp import (
    AsyncQMPClient,
    FakeQMPServer,
    QMPClient,
    QMPCommandError,
    QMPDisconnectedError,
    QMPProtocolError,
    QMPTimeoutError,
)

from .aio_peer import AsyncPeer, connection, failure, in_loop, turns
from .peer import GREETING_LINE, event


@pytest.fixture
def server() -> Any:
    with FakeQMPServer(emulate="7.2") as server:
        yield server


@in_loop
async def test_any_command_is_a_method(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        assert (await client.execute("query-status"))["status"] == "running"
        assert await client.query_status() == await client.execute("query-status")
        assert client.query_status.__name__ == "query_status"
        server.on("migrate-set-parameters").reply()
        await client.migrate_set_parameters(downtime_limit=7)
    server.assert_called("migrate-set-parameters", downtime_limit=7)


@in_loop
async def test_keywords_join_the_arguments() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.blockdev_add({"driver": "file"}, node_name="n", from_=1))
        command = await peer.answer()
        await call
    arguments = {"driver": "file", "node-name": "n", "from": 1}
    assert command == {"execute": "blockdev-add", "arguments": arguments}


@in_loop
async def test_a_refused_command_says_what_was_asked_and_what_there_is(
    server: FakeQMPServer,
) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        with pytest.raises(QMPCommandError) as refused:
            await client.execute("query-statu", {"a": 1})
        assert refused.value.error_class == "CommandNotFound"
        assert refused.value.arguments == {"a": 1}
        assert "did you mean 'query-status'" in str(refused.value)
        assert (await client.query_status())["status"] == "running"


@in_loop
async def test_a_refused_argument_says_what_may_have_been_meant(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        with pytest.raises(QMPCommandError, match=r"did you mean 'size' by 'siz'\?"):
            await client.block_resize(device="a", siz=1)
        with pytest.raises(TypeError, match="are a dict, or keywords: not 7"):
            await client.execute("stop", 7)  # type: ignore[arg-type]
        assert await client.supports("blockdev-add", "file.filename")
        assert not await client.supports("blockdev-add", "file.nothing")
        assert (await client.schema()).has_event("STOP")
        assert (await client.query_status())["status"] == "running"


@in_loop
async def test_execute_raw_returns_the_whole_reply(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.address) as client:
        reply = await client.execute_raw({"execute": "query-status", "id": ["mine"]})
        assert reply["id"] == ["mine"]
        assert reply["return"]["status"] == "running"
        assert (await client.execute_raw({"execute": "nonsense"}))["error"]["class"]


@in_loop
async def test_the_greeting_the_version_and_the_transcript_are_there(
    server: FakeQMPServer,
) -> None:
    async with await AsyncQMPClient.connect(server.address, timeout=5) as client:
        assert client.version >= (7, 2)
        assert client.greeting.capabilities == ("oob",)
        assert client.connected
        assert client.fileno() >= 0
        assert client.timeout == 30.0
        assert server.address in repr(client)
        await client.query_status()
        sent = [data for _, way, data in client.transcript if way == ">"]
        assert sent[-1] == b'{"execute":"query-status"}'
    assert not client.connected
    assert repr(client).endswith(", not connected>")


@in_loop
async def test_a_hundred_tasks_at_once_get_their_own_replies() -> None:
    async with connection() as (client, peer):

        async def serve() -> None:
            for _ in range(100):
                command = await peer.receive()
                await peer.reply(command, command["arguments"]["n"])

        serving = asyncio.create_task(serve())
        found = await asyncio.gather(*(client.execute("echo", n=n) for n in range(100)))
        await serving
    assert found == list(range(100))


@in_loop
async def test_a_late_reply_never_reaches_the_next_call() -> None:
    async with connection() as (client, peer):
        with pytest.raises(QMPTimeoutError, match=r"waited 0\.05 s for the reply to 'slow'"):
            await client.execute("slow", timeout=0.05)
        slow = await peer.receive()
        quick = asyncio.create_task(client.execute("quick"))
        second = await peer.receive()
        await peer.reply(slow, "late")
        await peer.reply(second, "right")
        assert await quick == "right"


@in_loop
async def test_a_late_reply_is_dropped_too_where_the_server_echoes_no_id() -> None:
    async with connection() as (client, peer):
        with pytest.raises(QMPTimeoutError):
            await client.execute("slow", timeout=0.05)
        quick = asyncio.create_task(client.execute("quick"))
        await peer.receive()
        await peer.receive()
        await peer.send({"return": "late"}, {"return": "right"})
        assert await quick == "right"


@in_loop
async def test_a_reply_with_an_id_of_another_type_belongs_to_nobody() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.execute_raw({"execute": "x", "id": 1}))
        await peer.receive()
        await peer.send({"return": "wrong", "id": "1"}, {"return": "right", "id": 1})
        assert (await call)["return"] == "right"


@in_loop
async def test_traffic_never_moves_a_deadline() -> None:
    async with connection() as (client, peer):

        async def chatter() -> None:
            while True:
                await peer.send(event("RTC_CHANGE", {"offset": 0}))
                await asyncio.sleep(0.005)

        chatting = asyncio.create_task(chatter())
        started = asyncio.get_running_loop().time()
        with pytest.raises(QMPTimeoutError):
            await client.execute("slow", timeout=0.1)
        assert asyncio.get_running_loop().time() - started < 5
        chatting.cancel()


@in_loop
async def test_a_reply_that_came_while_the_loop_was_busy_counts() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.execute("big", timeout=0.05))
        command = await peer.receive()
        peer.sock.setblocking(True)
        peer.sock.sendall(b'{"return": "' + b"x" * 150_000 + b'"}\r\n')
        # Nothing turns the loop until the deadline has passed.
        threading.Event().wait(0.1)
        assert len(await call) == 150_000
        assert command == {"execute": "big"}


@in_loop
async def test_the_texts_of_timeouts_are_those_of_the_blocking_client() -> None:
    async with connection() as (client, peer):
        await peer.send(b'{"return": {"half')
        theirs = await failure(client.execute("x", timeout=0.05))
        unmet = await failure(client.wait_for_event("STOP", timeout=0.05))

    def blocking() -> list[str]:
        ours, sock = socket.socketpair()
        with ours:
            ours.sendall(GREETING_LINE)
            found = []
            with QMPClient.connect(sock, negotiate=False) as client:
                ours.sendall(b'{"return": {"half')
                for work in (
                    lambda: client.execute("x", timeout=0.05),
                    lambda: client.wait_for_event("STOP", timeout=0.05),
                ):
                    with pytest.raises(QMPTimeoutError) as error:
                        work()
                    found.append(f"QMPTimeoutError: {error.value}")
            return found

    assert [theirs, unmet] == await asyncio.to_thread(blocking)
    assert 'half a message came: b\'{"return": {"half\'' in theirs


@in_loop
async def test_the_end_of_the_peer_ends_every_wait_at_once() -> None:
    async with connection() as (client, peer):
        client.explain_loss = lambda: "it was told to"
        waits = [
            asyncio.create_task(failure(work))
            for work in (
                client.execute("query-status", timeout=None),
                client.wait_for_event("STOP", timeout=None),
                client.pipeline(["a", "b"], timeout=None),
            )
        ]
        for _ in range(3):
            await peer.receive()
        peer.close()
        texts = await asyncio.gather(*waits)
        assert all("QEMU closed the connection" in text for text in texts)
        assert all("it was told to" in text for text in texts)
        assert "while the reply to 'query-status' was awaited" in texts[0]
        assert "while the event STOP was awaited" in texts[1]
        assert not client.connected
        with pytest.raises(QMPDisconnectedError, match="closed the connection"):
            await client.execute("query-status")


@in_loop
async def test_what_the_peer_said_before_it_left_is_heard() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.quit())
        await peer.answer()
        await peer.send(event("SHUTDOWN", {"guest": False}))
        peer.close()
        assert await call == {}
        assert (await client.wait_for_event("SHUTDOWN")).data == {"guest": False}


@in_loop
async def test_garbage_ends_the_connection_and_is_shown() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.execute("x", timeout=None))
        await peer.receive()
        await peer.send(b"Segmentation fault\n")
        with pytest.raises(QMPProtocolError, match="Segmentation fault"):
            await call


@in_loop
async def test_a_reply_of_24_megabytes_comes_whole() -> None:
    async with connection() as (client, peer):
        call = asyncio.create_task(client.execute("big"))
        await peer.receive()
        text = "x" * 24_000_000
        await peer.send({"return": text})
        assert await call == text


@in_loop
async def test_a_reply_above_the_limit_is_refused() -> None:
    async with connection(max_message_size=100_000) as (client, peer):
        call = asyncio.create_task(client.execute("big", timeout=None))
        await peer.receive()
        sending = asyncio.create_task(peer.send({"return": "x" * 2_000_000}))
        with pytest.raises(QMPProtocolError, match="limit of 100000 bytes"):
            await call
        client.close()
        with pytest.raises(OSError, match=r"pipe|reset"):
            await sending


@in_loop
async def test_a_command_that_the_peer_does_not_read_is_sent_when_it_does() -> None:
    async with connection() as (client, peer):
        text = "x" * 2_000_000
        big = asyncio.create_task(client.execute("big", text=text))
        await asyncio.sleep(0)
        with pytest.raises(QMPTimeoutError, match="was not sent and is withdrawn"):
            await client.execute("never", timeout=0.05)
        command = await peer.receive()
        assert command["arguments"]["text"] == text
        await peer.reply(command, "read")
        assert await big == "read"
        next_one = asyncio.create_task(client.execute("next"))
        assert (await peer.answer("next"))["execute"] == "next"
        assert await next_one == "next"


@in_loop
async def test_a_reply_out_of_band_overtakes() -> None:
    async with connection() as (client, peer):
        slow = asyncio.create_task(client.execute("slow"))
        slow_command = await peer.receive()
        oob = asyncio.create_task(client.execute("migrate-pause", oob=True))
        command = await peer.receive()
        assert command["exec-oob"] == "migrate-pause"
        await peer.reply(command, "oob")
        assert await oob == "oob"
        await peer.reply(slow_command, "slow")
        assert await slow == "slow"


@in_loop
async def test_descriptors_go_with_a_command() -> None:
    async with connection() as (client, peer):
        read, write = os.pipe()
        call = asyncio.create_task(client.getfd(fdname="f", fds=[write]))
        await asyncio.sleep(0)
        size = array.array("i").itemsize
        peer.sock.setblocking(True)
        data, ancillary, _, _ = peer.sock.recvmsg(4096, socket.CMSG_SPACE(size))
        peer.sock.setblocking(False)
        assert data == b'{"execute":"getfd","arguments":{"fdname":"f"}}'
        passed = array.array("i", ancillary[0][2][:size])[0]
        os.write(passed, b"through")
        assert os.read(read, 16) == b"through"
        for fd in (read, write, passed):
            os.close(fd)
        await peer.send({"return": {}})
        await call
        with pytest.raises(OSError, match="Bad file descriptor"):
            await client.getfd(fdname="f", fds=[passed])
        after = asyncio.create_task(client.execute("after"))
        await peer.answer("after")
        assert await after == "after"


@in_loop
async def test_arguments_that_are_no_json_send_nothing() -> None:
    async with connection() as (client, peer):
        with pytest.raises(TypeError):
            await client.execute("x", a=object())
        call = asyncio.create_task(client.execute("y"))
        assert (await peer.answer("y"))["execute"] == "y"
        assert await call == "y"


@in_loop
async def test_many_tasks_wait_and_one_times_out() -> None:
    async with connection() as (client, peer):
        first = asyncio.create_task(client.execute("first"))
        await turns(lambda: client.transcript[-1][2].endswith(b'"first"}'))
        with pytest.raises(QMPTimeoutError):
            await client.execute("second", timeout=0.02)
        third = asyncio.create_task(client.execute("third"))
        for _ in range(3):
            await peer.answer("reply")
        assert await first == await third == "reply"


def test_a_peer_that_only_speaks_before_the_greeting() -> None:
    async def main() -> None:
        peer, sock = AsyncPeer.pair()
        connecting = asyncio.create_task(failure(AsyncQMPClient.connect(sock)))
        await peer.send({"return": {}})
        assert "sent a reply before any greeting" in await connecting
        peer.close()

    asyncio.run(main())
