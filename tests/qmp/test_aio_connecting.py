"""The asynchronous client: how a connection begins, and how it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import (
    AsyncQMPClient,
    FakeQMPServer,
    QMPCapabilitiesError,
    QMPClient,
    QMPConnectError,
    QMPError,
    QMPProtocolError,
    QMPTimeoutError,
)

from .aio_peer import GREETING_WITH_OOB, AsyncPeer, Listening, failure, in_loop
from .peer import GREETING, GREETING_LINE, event


@pytest.fixture
def server() -> Iterator[FakeQMPServer]:
    with FakeQMPServer(emulate="7.2") as server:
        yield server


@pytest.fixture
def tcp() -> Iterator[Listening]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Listening(sock)


async def _until_it_leaves(peer: AsyncPeer) -> None:
    await peer.welcome()
    with pytest.raises(EOFError):
        await peer.receive()


@pytest.mark.parametrize("form", ["{}", "unix:{}", Path])
@in_loop
async def test_connects_to_a_unix_path(form: Any, server: FakeQMPServer) -> None:
    address = form.format(server.address) if isinstance(form, str) else form(server.address)
    async with await AsyncQMPClient.connect(address) as client:
        assert (await client.query_status())["status"] == "running"


@pytest.mark.parametrize("form", ["tuple", "127.0.0.1:{}", "localhost:{}", "tcp:127.0.0.1:{}"])
@in_loop
async def test_connects_over_tcp(form: str, tcp: Listening) -> None:
    port = tcp.sock.getsockname()[1]
    address = ("127.0.0.1", port) if form == "tuple" else form.format(port)
    serving = asyncio.create_task(tcp.serve(_until_it_leaves))
    async with await AsyncQMPClient.connect(address) as client:
        assert client.version == (7, 2, 22, "Debian")
        with pytest.raises(QMPError, match="unix socket only"):
            await client.execute("getfd", fdname="x", fds=[0])
        assert client.connected
    await serving


@in_loop
async def test_connects_to_a_socket(server: FakeQMPServer) -> None:
    async with await AsyncQMPClient.connect(server.open_monitor(), peer="the fake") as client:
        assert (await client.query_status())["status"] == "running"
        with pytest.raises(QMPError, match="no address to reconnect to"):
            await client.reconnect()
        assert repr(client) == "<AsyncQMPClient of the fake>"


@in_loop
async def test_a_socket_that_is_not_connected_is_refused() -> None:
    with pytest.raises(QMPConnectError, match="not connected"):
        await AsyncQMPClient.connect(socket.socket())


@in_loop
async def test_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "late.sock"
    connecting = asyncio.create_task(AsyncQMPClient.connect(path))
    await asyncio.sleep(0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        serving = asyncio.create_task(Listening(sock).serve(_until_it_leaves))
        async with await connecting as client:
            assert client.connected
        await serving


def _no_socket(folder: Path) -> Any:
    (folder / "file").write_text("")
    return folder / "file"


def _nobody_listens(folder: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "dead.sock"))
    return folder / "dead.sock"


def _closed_port(folder: Path) -> Any:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()


HOPELESS: dict[str, Callable[[Path], Any]] = {
    "a file": _no_socket,
    "a folder": lambda folder: folder,
    "a path that is too long": lambda folder: folder / ("x" * 120),
    "a file as a folder": lambda folder: _no_socket(folder) / "x.sock",
    "no address": lambda folder: "tcp:nonsense",
}
ABSENT: dict[str, Callable[[Path], Any]] = {
    "no such path": lambda folder: folder / "none.sock",
    "no such folder": lambda folder: folder / "none" / "none.sock",
    "a dead socket": _nobody_listens,
    "a closed port": _closed_port,
}


@pytest.mark.parametrize("case", [*HOPELESS, *ABSENT])
@in_loop
async def test_says_the_same_as_the_blocking_client(case: str, tmp_path: Path) -> None:
    # What is hopeless needs no deadline: with a retry this would not end.
    timeout = None if case in HOPELESS else 0.02
    address = (HOPELESS | ABSENT)[case](tmp_path)
    text = await failure(AsyncQMPClient.connect(address, timeout=timeout))
    with pytest.raises(QMPConnectError) as expected:
        QMPClient.connect(address, timeout=timeout)
    assert text == f"{type(expected.value).__name__}: {expected.value}"


@in_loop
async def test_a_full_queue_is_waited_for_and_named(tmp_path: Path) -> None:
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(QMPConnectError, match="its queue of waiting clients is full"):
                await AsyncQMPClient.connect(path, timeout=0.05)


@pytest.fixture
def deaf_port() -> Iterator[tuple[str, int]]:
    """A port where a connection is neither made nor refused."""
    with socket.socket() as sock, contextlib.ExitStack() as stack:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(sock.getsockname())
        yield sock.getsockname()


@in_loop
async def test_a_host_that_does_not_answer(deaf_port: tuple[str, int]) -> None:
    with pytest.raises(QMPConnectError, match=r"timed out.*waited 0\.05 s"):
        await AsyncQMPClient.connect(deaf_port, timeout=0.05)
    before = len(os.listdir("/proc/self/fd"))
    connecting = asyncio.create_task(AsyncQMPClient.connect(deaf_port, timeout=None))
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert len(os.listdir("/proc/self/fd")) == before


@in_loop
async def test_a_slow_name_server_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    real = socket.getaddrinfo

    def slow(host: Any, *args: Any, **keywords: Any) -> Any:
        if keywords.get("flags") == socket.AI_NUMERICHOST:
            return real(host, *args, **keywords)
        answered.wait(20)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(QMPConnectError, match=r"was not resolved within 0\.05 s"):
        await AsyncQMPClient.connect("host.invalid:1", timeout=0.05)
    connecting = asyncio.create_task(AsyncQMPClient.connect("host.invalid:1"))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    answered.set()
    with pytest.raises(QMPConnectError, match="has no address"):
        await AsyncQMPClient.connect("host.invalid:1")


@in_loop
async def test_a_greeting_that_never_comes(tmp_path: Path) -> None:
    peer, sock = AsyncPeer.pair()
    with pytest.raises(QMPTimeoutError, match="serves one client at a time") as error:
        await AsyncQMPClient.connect(sock, timeout=0.05)
    assert "waited 0.05 s for the greeting from QEMU" in str(error.value)
    assert "not sent a byte" in str(error.value)
    assert sock.fileno() == -1
    peer.close()


@pytest.mark.parametrize("said", [b"", GREETING_LINE[:20], GREETING_LINE], ids=["", "half", "all"])
@in_loop
async def test_a_peer_that_leaves_around_the_greeting(said: bytes) -> None:
    peer, sock = AsyncPeer.pair()
    connecting = asyncio.create_task(failure(AsyncQMPClient.connect(sock, timeout=None)))
    await peer.send(said)
    if said == GREETING_LINE:
        await peer.receive()
    peer.close()
    awaited = "the reply to 'qmp_capabilities'" if said == GREETING_LINE else "the greeting"
    text = await connecting
    assert text == (f"QMPDisconnectedError: QEMU closed the connection while {awaited} was awaited")
    assert sock.fileno() == -1


@in_loop
async def test_a_peer_that_answers_before_it_greets() -> None:
    peer, sock = AsyncPeer.pair()
    await peer.send({"return": {}})
    with pytest.raises(QMPProtocolError, match="sent a reply before any greeting"):
        await AsyncQMPClient.connect(sock)
    peer.close()


@in_loop
async def test_another_service_is_named() -> None:
    peer, sock = AsyncPeer.pair()
    await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(QMPProtocolError, match="Another service"):
        await AsyncQMPClient.connect(sock)
    peer.close()


@in_loop
async def test_a_refused_negotiation() -> None:
    peer, sock = AsyncPeer.pair()
    connecting = asyncio.create_task(AsyncQMPClient.connect(sock))
    await peer.send(GREETING_WITH_OOB)
    command = await peer.receive()
    assert command == {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}
    await peer.send({"error": {"class": "GenericError", "desc": "not today"}})
    with pytest.raises(QMPCapabilitiesError, match="not today"):
        await connecting
    assert sock.fileno() == -1
    peer.close()


@in_loop
async def test_negotiation_can_wait_and_events_around_it_are_kept() -> None:
    peer, sock = AsyncPeer.pair()
    await peer.send(event("EARLY"), GREETING)
    async with await AsyncQMPClient.connect(sock, negotiate=False) as client:
        negotiating = asyncio.create_task(client.negotiate())
        assert await peer.receive() == {"execute": "qmp_capabilities"}
        await peer.send(event("BETWEEN"), {"return": {}}, event("AFTER"))
        await negotiating
        await client.wait_for_event("AFTER")
        assert client.events.names() == ["EARLY", "BETWEEN", "AFTER"]
    peer.close()


@pytest.mark.parametrize("said", [b"", GREETING_LINE], ids=["greeting", "negotiation"])
@in_loop
async def test_cancelling_a_connect_leaves_nothing_open(said: bytes) -> None:
    peer, sock = AsyncPeer.pair()
    connecting = asyncio.create_task(AsyncQMPClient.connect(sock))
    await peer.send(said)
    if said:
        await peer.receive()
    else:
        await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert sock.fileno() == -1
    peer.close()


@in_loop
async def test_cancelling_a_retry_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    connecting = asyncio.create_task(AsyncQMPClient.connect(tmp_path / "none.sock", timeout=None))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert len(os.listdir("/proc/self/fd")) == before
