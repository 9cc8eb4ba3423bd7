"""QEMUMonitorProtocol: what old scripts call, without its old faults."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_qmp import (
    FakeQMPServer,
    QEMUMonitorProtocol,
    QMPAddressError,
    QMPCommandError,
    QMPConnectError,
    QMPDisconnectedError,
    QMPError,
    QMPTimeoutError,
    VirtualMachine,
)


@pytest.fixture
def server() -> Iterator[FakeQMPServer]:
    """A fake QEMU."""
    with FakeQMPServer() as fake:
        yield fake


@pytest.fixture
def qmp(server: FakeQMPServer) -> Iterator[QEMUMonitorProtocol]:
    """A connection to it."""
    with QEMUMonitorProtocol(server.address) as protocol:
        protocol.connect()
        yield protocol


def test_the_four_line_script(server: FakeQMPServer) -> None:
    qmp = QEMUMonitorProtocol(server.address)
    qmp.connect()
    assert qmp.command("query-status")["status"] == "running"
    qmp.close()


def test_connect_returns_the_greeting(server: FakeQMPServer) -> None:
    with QEMUMonitorProtocol(server.address) as qmp:
        greeting = qmp.connect()
        assert greeting is not None
        assert "version" in greeting["QMP"]


def test_connect_without_negotiation_waits_for_no_greeting(server: FakeQMPServer) -> None:
    with QEMUMonitorProtocol(server.address) as qmp:
        assert qmp.connect(negotiate=False) is None
        refused = qmp.cmd("query-status")
        assert refused["error"]["class"] == "CommandNotFound"
        assert qmp.cmd("qmp_capabilities") == {"return": {}}
        assert qmp.command("query-status")["status"] == "running"


def test_whole_replies(qmp: QEMUMonitorProtocol) -> None:
    assert qmp.cmd("query-name") == {"return": {}}
    assert qmp.cmd("query-name", cmd_id="mine") == {"return": {}, "id": "mine"}
    assert qmp.cmd_raw("query-name") == {"return": {}}
    assert qmp.cmd_obj({"execute": "query-name"}) == {"return": {}}
    assert qmp.cmd("query-nothing")["error"]["class"] == "CommandNotFound"
    assert "error" in qmp.cmd("query-name", {"x": 1})


def test_values_and_errors(qmp: QEMUMonitorProtocol, server: FakeQMPServer) -> None:
    with pytest.raises(QMPCommandError, match="has not been found"):
        qmp.command("query-nothing")
    server.on("device_add").reply({})
    assert qmp.command("device_add", driver="e1000", id="n0") == {}
    assert qmp.cmd("device_add", driver="e1000", id="n1") == {}
    server.assert_called("device_add", driver="e1000", id="n1")


def test_events_one_by_one(qmp: QEMUMonitorProtocol) -> None:
    assert qmp.pull_event() is None
    qmp.command("stop")
    qmp.command("cont")
    first = qmp.pull_event()
    assert first is not None
    assert first["event"] == "STOP"
    second = qmp.pull_event(wait=True)
    assert second is not None
    assert second["event"] == "RESUME"
    assert qmp.pull_event() is None


def test_events_all_at_once(qmp: QEMUMonitorProtocol) -> None:
    assert qmp.get_events() == []
    qmp.command("stop")
    qmp.command("cont")
    assert [event["event"] for event in qmp.get_events(wait=True)] == ["STOP", "RESUME"]
    assert qmp.get_events() == []
    qmp.command("stop")
    qmp.clear_events()
    assert qmp.get_events() == []


def test_an_event_that_comes_later_is_waited_for(
    qmp: QEMUMonitorProtocol, server: FakeQMPServer
) -> None:
    emitter = threading.Timer(0.05, server.emit, ("STOP",))
    emitter.start()
    event = qmp.pull_event(wait=10.0)
    emitter.join()
    assert event is not None
    assert event["event"] == "STOP"


@pytest.mark.parametrize("wait", [1, 0.05])
def test_wait_counts_seconds_and_leaves_the_connection_usable(
    qmp: QEMUMonitorProtocol, wait: float
) -> None:
    started = time.monotonic()
    with pytest.raises(QMPTimeoutError, match="no event came within"):
        qmp.pull_event(wait=wait)
    assert time.monotonic() - started >= wait
    with pytest.raises(QMPTimeoutError):
        qmp.get_events(wait=0.01)
    assert qmp.command("query-status")["status"] == "running"


def test_a_peer_that_is_gone_raises(qmp: QEMUMonitorProtocol, server: FakeQMPServer) -> None:
    server.kill()
    with pytest.raises(QMPDisconnectedError):
        qmp.pull_event(wait=True)
    with pytest.raises(QMPDisconnectedError):
        qmp.cmd("query-status")


def test_settimeout_bounds_a_command_and_the_late_reply_is_dropped(
    qmp: QEMUMonitorProtocol, server: FakeQMPServer
) -> None:
    server.on("query-name").reply({"name": "late"}).delay(0.2).once()
    qmp.settimeout(0.05)
    with pytest.raises(QMPTimeoutError):
        qmp.command("query-name")
    qmp.settimeout(None)
    assert qmp.command("query-uuid")["UUID"]
    with pytest.raises(ValueError, match="0 or more"):
        qmp.settimeout(-1)


def test_errors_at_connect_are_of_both_kinds_and_name_the_path(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    with pytest.raises(QMPError, match=r"qmp\.sock") as caught:
        QEMUMonitorProtocol(str(path)).connect()
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value, OSError)
    assert "-qmp unix:" in str(caught.value)


def test_connect_with_a_timeout_waits_for_the_server(server: FakeQMPServer) -> None:
    late = Path(server.address).with_name("late")
    linker = threading.Timer(0.05, late.symlink_to, (server.address,))
    linker.start()
    with QEMUMonitorProtocol(str(late)) as qmp:
        assert qmp.connect(timeout=10)
    linker.join()
    late.unlink()


def test_used_before_connect(server: FakeQMPServer) -> None:
    with pytest.raises(QMPDisconnectedError, match="connect"):
        QEMUMonitorProtocol(server.address).cmd("query-status")


def test_close_is_idempotent_and_connect_works_again(server: FakeQMPServer) -> None:
    qmp = QEMUMonitorProtocol(server.address)
    qmp.close()
    for _ in range(2):
        qmp.connect()
        assert qmp.command("query-name") == {}
        qmp.close()
        qmp.close()


def test_server_side(tmp_path: Path) -> None:
    path = str(tmp_path / "listen.sock")
    with QEMUMonitorProtocol(path, server=True, nickname="vm") as qmp, FakeQMPServer() as fake:
        with pytest.raises(QMPTimeoutError):
            qmp.accept(timeout=0.05)
        relay = _connect_to(path, fake)
        assert qmp.accept(timeout=10)
        assert qmp.command("query-status")["status"] == "running"
        relay.join(0)


def _connect_to(path: str, fake: FakeQMPServer) -> threading.Thread:
    """Makes the fake a QEMU that connects to us: bytes go both ways until one side ends."""
    monitor = fake.open_monitor()
    outside = socket.socket(socket.AF_UNIX)
    outside.connect(path)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with source, sink:
            while True:
                try:
                    data = source.recv(65536)
                    if not data:
                        return
                    sink.sendall(data)
                except OSError:
                    return

    for pair in ((monitor, outside), (outside.dup(), monitor.dup())):
        thread = threading.Thread(target=pump, args=pair, daemon=True)
        thread.start()
    return thread


def test_accept_without_server(server: FakeQMPServer) -> None:
    with pytest.raises(QMPConnectError, match="server=True"):
        QEMUMonitorProtocol(server.address).accept()


def test_the_socket_is_there_for_those_who_need_it(
    qmp: QEMUMonitorProtocol, server: FakeQMPServer
) -> None:
    assert os.fstat(qmp.get_sock_fd())
    assert qmp.is_scm_available()
    assert qmp.command("query-name") == {}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/tmp/qmp.sock", "/tmp/qmp.sock"),
        ("localhost:4444", ("localhost", 4444)),
        (":4444", ("localhost", 4444)),
        ("./a:1", "./a:1"),
    ],
)
def test_parse_address(address: str, expected: object) -> None:
    assert QEMUMonitorProtocol.parse_address(address) == expected


@pytest.mark.parametrize("address", ["localhost:http", "localhost:0"])
def test_parse_address_refuses_a_port_that_is_none(address: str) -> None:
    with pytest.raises(QMPAddressError):
        QEMUMonitorProtocol.parse_address(address)


@pytest.mark.needs_qemu
def test_a_descriptor_is_passed_to_a_real_qemu(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    arguments = ["-qmp", f"unix:{path},server=on,wait=off"]
    with (
        VirtualMachine(machine="none", accel="tcg", consoles=(), args=arguments),
        QEMUMonitorProtocol(str(path)) as qmp,
        (tmp_path / "file").open("wb") as file,
    ):
        qmp.connect()
        qmp.send_fd_scm(file.fileno())
        assert qmp.command("getfd", fdname="mine") == {}
        assert qmp.command("closefd", fdname="mine") == {}
