"""How a connection begins: addresses, retries, greetings, negotiation, and every way to fail."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp.errors import (
    QMPCapabilitiesError,
    QMPConnectError,
    QMPDisconnectedError,
    QMPError,
    QMPProtocolError,
    QMPTimeoutError,
)
from pytest_qmp.qmp.client import QMPClient

from .conftest import Connect, InThread, Play, Serve
from .peer import GREETING, GREETING_LINE, LIMIT, Peer, event, line

SOON = 0.15
"""A timeout that is meant to be reached."""


def one_status(peer: Peer) -> None:
    peer.greet()
    peer.answer("query-status", {"status": "running"})
    peer.wait_for_end()


def assert_fails_at_once(address: Any, error: type[Exception], *told: str) -> None:
    began = time.monotonic()
    with pytest.raises(error) as caught:
        QMPClient.connect(address, timeout=LIMIT)
    assert time.monotonic() - began < LIMIT / 2
    for text in told:
        assert text in str(caught.value)


def assert_fails_at_the_deadline(address: Any, *told: str) -> None:
    began = time.monotonic()
    with pytest.raises(QMPConnectError) as caught:
        QMPClient.connect(address, timeout=SOON)
    assert SOON <= time.monotonic() - began < LIMIT / 2
    for text in (*told, "waited 0.15 s", "-qmp"):
        assert text in str(caught.value)


# -- the addresses that work -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{path}", "unix:{path}"])
def test_unix_paths(serve: Serve, form: str) -> None:
    with QMPClient.connect(form.format(path=serve(one_status))) as client:
        assert client.query_status() == {"status": "running"}


def test_a_path_object(serve: Serve) -> None:
    with QMPClient.connect(Path(serve(one_status))) as client:
        assert client.query_status() == {"status": "running"}


def test_a_relative_path(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(serve(one_status))
    monkeypatch.chdir(path.parent)
    with QMPClient.connect(path.name) as client:
        assert client.query_status() == {"status": "running"}


@pytest.mark.parametrize(
    "form", ["{host}:{port}", "tcp:{host}:{port}", "tcp:localhost:{port}", ":{port}"]
)
def test_tcp(serve: Serve, form: str) -> None:
    host, port = serve(one_status, tcp=True)
    with QMPClient.connect(form.format(host=host, port=port)) as client:
        assert client.query_status() == {"status": "running"}


def test_tcp_as_a_pair(serve: Serve) -> None:
    with QMPClient.connect(serve(one_status, tcp=True)) as client:
        assert client.query_status() == {"status": "running"}


def test_a_connected_socket(play: Play) -> None:
    with QMPClient.connect(play(one_status)) as client:
        assert client.query_status() == {"status": "running"}
        assert client.greeting.capabilities == ()
        assert client.version == (7, 2, 22, "Debian")


def test_a_socket_that_appears_late(tmp_path: Path, in_thread: InThread, threads: Any) -> None:
    from .peer import PeerThread

    path = str(tmp_path / "late.sock")
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting = in_thread(lambda: QMPClient.connect(path, timeout=LIMIT))
    stale.bind(path)  # there, but nobody listens yet
    stale.close()
    os.unlink(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()
    threads.append(PeerThread(server, one_status, listening=True))
    threads[-1].start()
    with waiting.result() as client:
        assert client.query_status() == {"status": "running"}


# -- those that don't ------------------------------------------------------------------------------


def test_no_such_path(tmp_path: Path) -> None:
    assert_fails_at_the_deadline(str(tmp_path / "none"), "no such socket", str(tmp_path / "none"))


def test_no_such_folder(tmp_path: Path) -> None:
    assert_fails_at_the_deadline(str(tmp_path / "no" / "qmp"), "nor its folder", "no/qmp")


def test_a_stale_socket_file(tmp_path: Path) -> None:
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
    assert_fails_at_the_deadline(path, "nobody listens")


def test_a_full_queue_of_clients(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(path)
            assert_fails_at_the_deadline(path, "serves one client at a time")


def test_a_refused_tcp_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert_fails_at_the_deadline(("127.0.0.1", port), "nobody listens", str(port))


def test_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert_fails_at_once(path, QMPConnectError, "a file, not a socket", str(path))


def test_a_folder(tmp_path: Path) -> None:
    assert_fails_at_once(tmp_path, QMPConnectError, "a folder")


def test_a_file_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_fails_at_once(tmp_path / "file" / "qmp", QMPConnectError, "is no folder")


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 150))
    assert_fails_at_once(path, QMPConnectError, f"{len(path)} bytes", "107", "mkdtemp")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_folder_without_permission(serve: Serve) -> None:
    path = Path(serve())
    path.parent.chmod(0)
    try:
        assert_fails_at_once(path, QMPConnectError, "permission denied")
    finally:
        path.parent.chmod(0o700)


def test_an_unknown_host() -> None:
    assert_fails_at_once("no-such-host.invalid:4444", QMPConnectError, "no-such-host.invalid")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("", "no QMP address"),
        ("unix:", "no path"),
        ("a\0b", "no QMP address"),
        (("127.0.0.1", 0), "no port"),
        (("127.0.0.1", 70000), "no port"),
        (("127.0.0.1",), "no QMP address"),
        (4444, "no QMP address"),
        (None, "no QMP address"),
        ("tcp:localhost", "HOST:PORT"),
        ("localhost:99999", "no port"),
        ("unix:/tmp/none,server=on,wait=off", "'unix:/tmp/none'"),
        ("unix:/tmp/none,server,nowait", "'unix:/tmp/none'"),
        ("/tmp/none,server=on", "'/tmp/none'"),
        ("tcp:localhost:4444,server=on,wait=off", "'tcp:localhost:4444'"),
        ("localhost:4444,server,nowait", "'localhost:4444'"),
    ],
)
def test_what_is_no_address(address: Any, told: str) -> None:
    assert_fails_at_once(address, QMPConnectError, told)
    assert_fails_at_once(address, ValueError)


def test_a_path_with_commas_that_is_there(tmp_path: Path, serve: Serve) -> None:
    plain = Path(serve(one_status))
    odd = tmp_path / "qmp,server=on"
    odd.symlink_to(plain)
    with QMPClient.connect(f"unix:{odd}") as client:
        client.query_status()


def test_sockets_that_are_no_connected_stream() -> None:
    closed = socket.socket()
    closed.close()
    assert_fails_at_once(closed, QMPConnectError, "closed")
    assert_fails_at_once(socket.socket(), QMPConnectError, "not connected")
    datagrams, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    assert_fails_at_once(datagrams, QMPConnectError, "no stream", "SOCK_DGRAM")
    other.close()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_none(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        QMPClient.connect("/nowhere", timeout=timeout)


# -- the greeting ----------------------------------------------------------------------------------


def test_the_greeting_never_comes(play: Play) -> None:
    began = time.monotonic()
    with pytest.raises(QMPTimeoutError) as caught:
        QMPClient.connect(play(lambda peer: peer.wait_for_end()), timeout=SOON)
    assert SOON <= time.monotonic() - began < LIMIT / 2
    for told in ("0.15 s for the greeting", "not sent a byte", "one client at a time"):
        assert told in str(caught.value)


def test_two_clients_on_one_socket(serve: Serve) -> None:
    # As with QEMU: the kernel accepts the second, which nobody serves while the first is there.
    path = serve(one_status)
    with QMPClient.connect(path) as first:
        with pytest.raises(QMPTimeoutError, match="serves one client at a time"):
            QMPClient.connect(path, timeout=SOON)
        assert first.query_status() == {"status": "running"}


@pytest.mark.parametrize("sent", [b"", GREETING_LINE[:30], event("RESUME")])
def test_the_peer_dies_before_it_has_greeted(play: Play, sent: bytes) -> None:
    with pytest.raises(QMPDisconnectedError, match="closed the connection while the greeting"):
        QMPClient.connect(play(lambda peer: peer.send(sent)), timeout=LIMIT)


def test_half_a_greeting_then_silence(play: Play) -> None:
    def half(peer: Peer) -> None:
        peer.send(GREETING_LINE[:12])
        peer.wait_for_end()

    with pytest.raises(QMPTimeoutError) as caught:
        QMPClient.connect(play(half), timeout=SOON)
    assert repr(GREETING_LINE[:12]) in str(caught.value)


def test_the_peer_dies_after_it_has_greeted(play: Play) -> None:
    with pytest.raises(QMPDisconnectedError, match="'qmp_capabilities'"):
        QMPClient.connect(play(lambda peer: peer.send(GREETING_LINE)), timeout=LIMIT)


def test_events_before_the_greeting_and_inside_the_handshake(play: Play) -> None:
    def script(peer: Peer) -> None:
        peer.send(event("RESET"), GREETING_LINE)
        request = peer.expect("qmp_capabilities")
        peer.send(event("NIC_RX_FILTER_CHANGED"))
        peer.reply(request)
        peer.send(event("RESUME"))
        peer.wait_for_end()

    with QMPClient.connect(play(script)) as client:
        client.wait_for_event("RESUME", timeout=LIMIT)
        assert client.events.names() == ["RESET", "NIC_RX_FILTER_CHANGED", "RESUME"]
        assert client.wait_for_event("RESET", timeout=0).name == "RESET"


def test_a_reply_instead_of_a_greeting(play: Play) -> None:
    with pytest.raises(QMPProtocolError, match="guest agent"):
        QMPClient.connect(play(lambda peer: peer.send({"return": {}})), timeout=LIMIT)


def test_another_protocol_instead_of_a_greeting(play: Play) -> None:
    with pytest.raises(QMPProtocolError, match="human monitor"):
        QMPClient.connect(play(lambda peer: peer.send(b"QEMU 7.2 monitor\n")), timeout=LIMIT)


def test_oob_is_taken_where_it_is_offered(play: Play) -> None:
    seen: list[dict[str, Any]] = []

    def script(peer: Peer) -> None:
        peer.send({"QMP": {**GREETING["QMP"], "capabilities": ["oob", "future"]}})
        # Kept before it is answered: the client looks as soon as it has the reply.
        request = peer.expect("qmp_capabilities")
        seen.append(request)
        peer.reply(request, {})

    client = QMPClient.connect(play(script), timeout=LIMIT)
    assert client.greeting.capabilities == ("oob", "future")
    assert seen == [{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}]
    client.close()


@pytest.mark.parametrize("error", [{"class": "GenericError", "desc": "not today"}, "odd"])
def test_a_refused_negotiation(play: Play, error: object) -> None:
    def script(peer: Peer) -> None:
        peer.send(GREETING_LINE)
        peer.expect("qmp_capabilities")
        peer.send({"error": error})
        peer.wait_for_end()

    with pytest.raises(QMPCapabilitiesError, match="refused the negotiation"):
        QMPClient.connect(play(script), timeout=LIMIT)


def test_negotiation_can_be_left_for_later(play: Play) -> None:
    def script(peer: Peer) -> None:
        peer.send(GREETING_LINE)
        peer.answer("query-version", {"first": True})
        peer.answer("qmp_capabilities")
        peer.wait_for_end()

    with QMPClient.connect(play(script), negotiate=False) as client:
        assert client.query_version() == {"first": True}
        client.negotiate()


# -- listening, reconnecting, closing --------------------------------------------------------------


def dial(address: Any, *scripts: Any) -> None:
    for script in scripts:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.connect(address)
            script(Peer(sock))


@pytest.mark.parametrize("tcp", [False, True])
def test_listen_and_accept(tmp_path: Path, in_thread: InThread, tcp: bool) -> None:
    address: Any = str(tmp_path / "here")
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = ("127.0.0.1", free.getsockname()[1])
    with QMPClient.listen(address) as client:
        assert not client.connected
        qemu = in_thread(lambda: dial(address, one_status))
        assert client.accept(timeout=LIMIT) is client
        assert client.query_status() == {"status": "running"}
    qemu.result()
    assert tcp or not os.path.exists(address)


def test_nobody_comes(tmp_path: Path) -> None:
    with (
        QMPClient.listen(tmp_path / "here") as client,
        pytest.raises(QMPTimeoutError, match=r"nobody connected to unix:.*here within 0\.15 s"),
    ):
        client.accept(timeout=SOON)


def test_a_wait_for_somebody_ends_when_the_client_is_closed(
    tmp_path: Path, in_thread: InThread
) -> None:
    client = QMPClient.listen(tmp_path / "here")
    waiting = in_thread(lambda: client.accept(timeout=LIMIT))
    began = time.monotonic()
    client.close()
    with pytest.raises(QMPDisconnectedError, match="closed here"):
        waiting.result()
    assert time.monotonic() - began < LIMIT / 2
    with pytest.raises(QMPDisconnectedError, match="closed here"):
        client.accept(timeout=LIMIT)


def test_listening_where_somebody_does(tmp_path: Path) -> None:
    with (
        QMPClient.listen(tmp_path / "here"),
        pytest.raises(QMPConnectError, match="can't listen"),
    ):
        QMPClient.listen(tmp_path / "here")


def test_accept_is_for_listeners(connect: Connect) -> None:
    with pytest.raises(QMPError, match="listen"):
        connect().accept()


def test_reconnect(serve: Serve) -> None:
    def first(peer: Peer) -> None:
        peer.greet()
        peer.send(event("STOP"))

    with QMPClient.connect(serve(first, one_status)) as client:
        client.wait_for_event("STOP", timeout=LIMIT)
        with pytest.raises(QMPDisconnectedError, match="closed the connection"):
            client.query_status()
        assert not client.connected
        client.reconnect(timeout=LIMIT)
        assert client.connected
        assert client.query_status() == {"status": "running"}
        assert client.events.names() == ["STOP"]


def test_accept_again_leaves_the_first_connection(tmp_path: Path, in_thread: InThread) -> None:
    def left(peer: Peer) -> None:
        peer.greet()
        peer.wait_for_end()

    path = str(tmp_path / "here")
    with QMPClient.listen(path) as client:
        first = in_thread(lambda: dial(path, left))
        client.accept(timeout=LIMIT)
        second = in_thread(lambda: dial(path, one_status))
        client.accept(timeout=LIMIT)
        first.result()
        client.query_status()
    second.result()


def test_a_socket_can_not_be_reconnected(connect: Connect) -> None:
    with pytest.raises(QMPError, match="no address"):
        connect().reconnect()


def test_close_is_idempotent_and_leaves_no_descriptor(serve: Serve) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    address = serve(*[one_status] * 5)
    before = descriptors()
    for _ in range(5):
        client = QMPClient.connect(address)
        client.query_status()
        client.close()
        client.close()
    # The server's thread may not have closed its end of the last one yet.
    assert descriptors() <= before + 1
    assert repr(client).endswith("not connected>")


def test_use_after_close(connect: Connect) -> None:
    client = connect()
    assert client.connected
    client.close()
    assert not client.connected
    for use in (
        lambda: client.execute("query-status"),
        lambda: client.execute_raw({"execute": "query-status"}),
        lambda: client.wait_for_event("STOP"),
        lambda: client.wait_for_news(0, client._deadline(1)),
    ):
        with pytest.raises(QMPDisconnectedError, match="closed here"):
            use()
    assert list(client.events) == []


def test_use_before_accept(tmp_path: Path) -> None:
    with QMPClient.listen(tmp_path / "here") as client:
        for use in (lambda: client.execute("stop"), lambda: client.wait_for_event("STOP")):
            with pytest.raises(QMPDisconnectedError, match=r"accept\(\)"):
                use()
        with pytest.raises(QMPDisconnectedError, match="greet"):
            assert client.version


def test_a_failed_connection_closes_the_socket(play: Play) -> None:
    left = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(line({"neither": "nor"}))
        peer.wait_for_end()
        left.set()

    with pytest.raises(QMPProtocolError):
        QMPClient.connect(play(script), timeout=LIMIT)
    assert left.wait(LIMIT)


def test_the_peer_has_the_name_that_it_was_given(play: Play) -> None:
    client = QMPClient.connect(play(lambda peer: peer.greet()), peer="the second QEMU")
    with pytest.raises(QMPDisconnectedError, match="the second QEMU closed the connection"):
        client.wait_for_event("STOP", timeout=LIMIT)
    client.close()


def test_a_loss_is_explained(play: Play) -> None:
    client = QMPClient.connect(play(lambda peer: peer.greet()))
    client.explain_loss = lambda: "it was killed by signal 9"
    with pytest.raises(QMPDisconnectedError, match="killed by signal 9"):
        client.wait_for_event("STOP", timeout=LIMIT)
    client.close()
