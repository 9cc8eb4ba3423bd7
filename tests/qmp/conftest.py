"""Scripted peers, and clients that are closed again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_qmp.qmp.client import QMPClient

from .peer import LIMIT, Peer, PeerThread, Script, socket_pair


class Play(Protocol):
    """Starts a script; returns the client's end of its socket."""

    def __call__(self, script: Script) -> socket.socket: ...


class Connect(Protocol):
    """A client of a peer that greets, negotiates, plays the script, and sees the client leave."""

    def __call__(self, script: Script | None = None, **options: Any) -> QMPClient: ...


class InThread(Protocol):
    """Runs a function beside the test."""

    def __call__(self, function: Callable[[], Any]) -> Running: ...


class Serve(Protocol):
    """A server at a unix path, or on a TCP port of the loopback: a script a connection."""

    def __call__(self, *scripts: Script, tcp: bool = False) -> Any: ...


@pytest.fixture
def threads() -> Iterator[list[PeerThread]]:
    """Peers; the test fails if one was not followed to its end."""
    threads: list[PeerThread] = []
    yield threads
    for thread in threads:
        thread.finish()


@pytest.fixture
def play(threads: list[PeerThread]) -> Iterator[Play]:
    ends: list[socket.socket] = []

    def play(script: Script) -> socket.socket:
        ours, theirs = socket_pair()
        ends.append(ours)
        threads.append(PeerThread(theirs, script))
        threads[-1].start()
        return ours

    yield play
    for end in ends:
        end.close()


@pytest.fixture
def clients() -> Iterator[list[QMPClient]]:
    """Clients to be closed before the peers have to have ended."""
    clients: list[QMPClient] = []
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def connect(play: Play, clients: list[QMPClient]) -> Connect:
    def connect(script: Script | None = None, **options: Any) -> QMPClient:
        def whole(peer: Peer) -> None:
            peer.greet()
            if script is not None:
                script(peer)
            if peer.sock.fileno() >= 0:
                peer.wait_for_end()

        timeout = options.pop("timeout", LIMIT)
        clients.append(QMPClient.connect(play(whole), timeout=LIMIT, **options))
        clients[-1].timeout = timeout
        return clients[-1]

    return connect


@pytest.fixture
def serve(threads: list[PeerThread], tmp_path: Path) -> Serve:
    count = 0

    def serve(*scripts: Script, tcp: bool = False) -> Any:
        nonlocal count
        count += 1
        if tcp:
            sock = socket.create_server(("127.0.0.1", 0))
            address: Any = ("127.0.0.1", sock.getsockname()[1])
        else:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address = str(tmp_path / f"qmp-{count}.sock")
            sock.bind(address)
            sock.listen(4)
        threads.append(PeerThread(sock, *scripts, listening=True))
        threads[-1].start()
        return address

    return serve


class Running(threading.Thread):
    """A function in a thread, and what it returned or raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def result(self) -> Any:
        """What the function returned, once it has; or what it raised."""
        self.join(LIMIT)
        assert not self.is_alive(), "a thread of the test did not end"
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    """Runs a function beside the test; ``result()`` joins it."""
    started: list[Running] = []

    def run(function: Callable[[], Any]) -> Running:
        started.append(Running(function))
        started[-1].start()
        return started[-1]

    yield run
    for thread in started:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a thread of the test did not end"
