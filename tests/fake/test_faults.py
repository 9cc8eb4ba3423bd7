"""Faults of the connection: each is seen by a plain socket, and by our clients as documented."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_qmp import AsyncQMPClient, QMPClient
from pytest_qmp.errors import (
    FakeQMPServerError,
    QMPConnectError,
    QMPDisconnectedError,
    QMPError,
    QMPProtocolError,
    QMPTimeoutError,
)
from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

MakeServer = Callable[..., FakeQMPServer]
SHORT, LONG = 0.2, 10.0
BALLOON = {"actual": 1}


@pytest.fixture
def dial(server: FakeQMPServer) -> Iterator[Callable[[], socket.socket]]:
    sockets: list[socket.socket] = []

    def connect() -> socket.socket:
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].settimeout(LONG)
        sockets[-1].connect(server.address)
        return sockets[-1]

    yield connect
    for sock in sockets:
        sock.close()


def blocking(server: FakeQMPServer, timeout: float = LONG) -> Any:
    with QMPClient.connect(server.address, timeout=timeout) as client:
        return client.execute("query-name", timeout=timeout)


def asynchronous(server: FakeQMPServer, timeout: float = LONG) -> Any:
    async def talk() -> Any:
        async with await AsyncQMPClient.connect(server.address, timeout=timeout) as client:
            return await client.execute("query-name", timeout=timeout)

    return asyncio.run(talk())


Talk = Callable[..., Any]
both_clients = pytest.mark.parametrize("talk", [blocking, asynchronous])


@both_clients
@pytest.mark.parametrize(
    "misbehave",
    [
        lambda faults: faults.split_writes(),
        lambda faults: faults.split_writes(7),
        lambda faults: faults.split_writes(50, every=0.001),
        lambda faults: faults.join_writes(1),
        lambda faults: faults.event_before_greeting("STOP"),
        lambda faults: faults.event_in_handshake("SHUTDOWN", {"guest": True, "reason": "none"}),
        lambda faults: faults.refuse_connections(0.1),
    ],
)
def test_our_clients_take_no_notice(
    server: FakeQMPServer, talk: Talk, misbehave: Callable[[Any], None]
) -> None:
    misbehave(server.faults)
    assert talk(server) == {}


@both_clients
@pytest.mark.parametrize(
    ("misbehave", "error"),
    [
        (lambda faults: faults.no_greeting(), QMPTimeoutError),
        (lambda faults: faults.stop_answering(), QMPTimeoutError),
        (lambda faults: faults.stop_reading(), QMPTimeoutError),
        (lambda faults: faults.garbage_greeting(), QMPError),
        (lambda faults: faults.garbage_greeting(b'{"not": "QMP"}\r\n'), QMPError),
        (lambda faults: faults.eof_mid_line(), QMPConnectError),
        (lambda faults: faults.reset(5), QMPConnectError),
        (lambda faults: faults.close_after_accept(99), QMPConnectError),
        (lambda faults: faults.refuse_connections(), QMPConnectError),
        (lambda faults: faults.split_writes(1, every=60), QMPTimeoutError),
    ],
)
def test_our_clients_say_that_they_can_not_connect(
    server: FakeQMPServer, talk: Talk, misbehave: Callable[[Any], None], error: type[QMPError]
) -> None:
    misbehave(server.faults)
    start = time.monotonic()
    with pytest.raises(error):
        talk(server, timeout=SHORT)
    assert time.monotonic() - start < LONG / 2
    server.faults.heal()
    assert talk(server) == {}


@pytest.mark.parametrize(
    ("misbehave", "error"),
    [
        (lambda server: server.faults.stop_answering(), QMPTimeoutError),
        (lambda server: server.faults.stop_reading(), QMPTimeoutError),
        (lambda server: server.faults.join_writes(3), QMPTimeoutError),
        (lambda server: server.faults.eof_mid_line(), QMPDisconnectedError),
        (lambda server: server.faults.reset(), QMPDisconnectedError),
        (lambda server: server.on("query-name").eof_mid_line(), QMPDisconnectedError),
        (lambda server: server.on("query-name").wrong_id(), (QMPTimeoutError, QMPProtocolError)),
        (lambda server: server.on("query-name").drop_reply(), QMPTimeoutError),
    ],
)
def test_what_our_clients_say_in_the_middle(
    server: FakeQMPServer,
    misbehave: Callable[[FakeQMPServer], Any],
    error: type[QMPError] | tuple[type[QMPError], ...],
) -> None:
    async def talk() -> None:
        async with await AsyncQMPClient.connect(server.address, timeout=LONG) as client:
            misbehave(server)
            with pytest.raises(error):
                await client.execute("query-name", timeout=SHORT)

    with QMPClient.connect(server.address, timeout=LONG) as client:
        misbehave(server)
        with pytest.raises(error):
            client.execute("query-name", timeout=SHORT)
    server.faults.heal()
    asyncio.run(talk())


def test_a_duplicate_reply_is_not_taken_for_the_next_one(server: FakeQMPServer) -> None:
    server.on("query-balloon").reply({"actual": 1}).duplicate_reply()

    async def talk() -> Any:
        async with await AsyncQMPClient.connect(server.address, timeout=LONG) as client:
            assert await client.execute("query-balloon") == BALLOON
            return await client.execute("query-name")

    with QMPClient.connect(server.address, timeout=LONG) as client:
        assert client.execute("query-balloon") == BALLOON
        assert client.execute("query-name") == {}
    assert asyncio.run(talk()) == {}


def test_a_storm_is_counted_to_the_last_event(server: FakeQMPServer) -> None:
    async def talk() -> int:
        async with await AsyncQMPClient.connect(server.address, timeout=LONG) as client:
            server.faults.storm("BALLOON_CHANGE", BALLOON, count=3000)
            await client.execute("query-name")
            return len(client.events) + client.events.dropped

    with QMPClient.connect(server.address, timeout=LONG) as client:
        server.faults.storm("BALLOON_CHANGE", BALLOON, count=3000)
        client.execute("query-name")
        assert len(client.events) + client.events.dropped == 3000
    assert asyncio.run(talk()) == 3000


def test_pieces_come_at_the_machines_time(make_server: MakeServer) -> None:
    server = make_server(virtual_time=True)
    server.faults.split_writes(20, every=1)
    sock = server.open_monitor()
    sock.settimeout(LONG)
    assert sock.recv(4096) == b'{"QMP": {"version": '
    server.advance(2)
    assert sock.recv(4096).startswith(b'{"qemu": {"micro"')
    server.advance(60)
    sock.close()


def test_messages_are_joined(server: FakeQMPServer, client: LineClient) -> None:
    server.faults.join_writes(2)
    client.send({"execute": "query-name", "id": 1})
    client.sock.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    client.sock.settimeout(LONG)
    client.send({"execute": "query-name", "id": 2})
    replies = client.sock.recv(4096).splitlines()
    assert [json.loads(line)["id"] for line in replies] == [1, 2]


def test_the_last_words_are_not_held_back(server: FakeQMPServer, client: LineClient) -> None:
    server.faults.join_writes(50)
    assert client.events_then_reply("quit") == (["SHUTDOWN"], {"return": {}})
    assert client.at_eof()


def test_a_silent_server_ends_all_the_same(server: FakeQMPServer, client: LineClient) -> None:
    server.faults.stop_answering()
    client.send({"execute": "quit"})
    assert client.at_eof()
    assert server.wait_exit(LONG) == 0


def test_what_was_held_back_comes_when_it_heals(server: FakeQMPServer, client: LineClient) -> None:
    server.faults.stop_answering()
    client.send({"execute": "query-name", "id": 1})
    with QMPClient.connect(server.open_monitor(private=True), timeout=LONG) as other:
        other.execute("query-name")
    server.faults.heal()
    assert client.read() == {"return": {}, "id": 1}


def test_a_server_that_does_not_read_blocks_its_client(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.faults.stop_reading()
    client.sock.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        client.sock.sendall(b" " * (64 << 20))
    server.faults.heal()
    client.sock.settimeout(LONG)
    # What was sent of it is white space, for QEMU too.
    assert client.execute("query-name") == {"return": {}}


def test_a_reset_is_no_eof(server: FakeQMPServer, dial: Callable[[], socket.socket]) -> None:
    client = LineClient(dial())
    server.faults.reset()
    client.send({"execute": "query-name"})
    with pytest.raises(ConnectionResetError):
        client.read_raw()
    client.close()
    second = LineClient(dial())
    assert second.status() == "running"
    second.close()


def test_connections_are_closed_or_refused(
    server: FakeQMPServer, dial: Callable[[], socket.socket]
) -> None:
    server.faults.close_after_accept(2)
    assert [dial().recv(10) for _ in range(2)] == [b"", b""]
    client = LineClient(dial())
    server.faults.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert client.status() == "running"
    client.close()
    server.faults.heal()
    client = LineClient(dial())
    assert client.status() == "running"
    client.close()


def test_events_come_first_and_inside_of_the_handshake(
    server: FakeQMPServer, dial: Callable[[], socket.socket]
) -> None:
    server.faults.event_before_greeting("STOP")
    server.faults.event_in_handshake("RESUME")
    client = LineClient(dial(), negotiate=False)
    assert client.read()["event"] == "STOP"
    assert "QMP" in client.read()
    assert client.events_then_reply("qmp_capabilities") == (["RESUME"], {"return": {}})
    client.close()


def test_a_line_is_cut(server: FakeQMPServer, client: LineClient) -> None:
    server.faults.eof_mid_line(5)
    client.send({"execute": "query-name"})
    assert client.read_raw() == b'{"ret'
    assert client.at_eof()


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (lambda faults: faults.split_writes(0), "pieces of 0 bytes"),
        (lambda faults: faults.split_writes(1, every=-1), "every=-1"),
        (lambda faults: faults.join_writes(0), "0 messages"),
        (lambda faults: faults.eof_mid_line(-1), "after -1 bytes"),
        (lambda faults: faults.storm("STOPP"), "did you mean 'STOP'"),
        (lambda faults: faults.event_before_greeting("STOP", {"x": 1}), "'x' is unexpected"),
        (lambda faults: faults.event_in_handshake("STOPP"), "did you mean 'STOP'"),
        (lambda faults: faults.storm("STOP", count=0), "0 times"),
        (lambda faults: faults.close_after_accept(-1), "-1 times"),
        (lambda faults: faults.reset(0), "0 times"),
    ],
)
def test_what_makes_no_sense_is_refused(
    server: FakeQMPServer, misbehave: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(FakeQMPServerError, match=message):
        misbehave(server.faults)


def test_close_does_not_wait_for_what_is_held_back(make_server: MakeServer) -> None:
    threads = threading.active_count()
    server = make_server()
    server.faults.split_writes(1, every=60)
    sock = server.open_monitor()
    server.close()
    sock.close()
    assert threading.active_count() == threads
