"""The client on a real QEMU."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_qmp.errors import QMPCommandError, QMPDisconnectedError, QMPTimeoutError
from pytest_qmp.qmp.client import QMPClient

from .conftest import InThread
from .peer import LIMIT

BINARY = "qemu-system-x86_64"

pytestmark = [
    pytest.mark.needs_qemu,
    pytest.mark.skipif(shutil.which(BINARY) is None, reason=f"{BINARY} is not installed"),
]

StartQEMU = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[StartQEMU]:
    """Starts a QEMU without a guest; ``fd`` is the server's end of its monitor."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*args: str, fd: int | None = None) -> subprocess.Popen[bytes]:
        argv = [BINARY, "-machine", "none", "-nodefaults", "-display", "none", *args]
        processes.append(subprocess.Popen(argv, pass_fds=[] if fd is None else [fd]))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def over_socketpair(start: StartQEMU) -> Iterator[Callable[..., QMPClient]]:
    """A client of a new QEMU, over an inherited descriptor."""
    clients: list[QMPClient] = []

    def connect(monitor: str = "", *args: str) -> QMPClient:
        ours, theirs = socket.socketpair()
        with theirs:
            start(
                "-chardev",
                f"socket,id=qmp,fd={theirs.fileno()}",
                "-mon",
                f"chardev=qmp,mode=control{monitor}",
                *args,
                fd=theirs.fileno(),
            )
        clients.append(QMPClient.connect(ours, timeout=LIMIT))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


OverSocketpair = Callable[..., QMPClient]


@pytest.mark.parametrize("pretty", ["", ",pretty=on"])
def test_a_session(over_socketpair: OverSocketpair, pretty: str) -> None:
    client = over_socketpair(pretty)
    assert client.version >= (5, 0)
    assert client.greeting.capabilities == ("oob",)
    assert client.query_status()["status"] == "running"
    with client.expect_event("STOP"):
        client.stop()
    client.cont()
    client.wait_for_event("RESUME")
    assert client.events.names() == ["STOP", "RESUME"]
    assert client.events[0].timestamp == pytest.approx(time.time(), abs=3600)
    with pytest.raises(QMPCommandError, match=r"DeviceNotFound.*x-none"):
        client.device_del(id="x-none")
    with pytest.raises(QMPCommandError, match="did you mean 'query-status'"):
        client.query_staus()


def test_a_late_reply(over_socketpair: OverSocketpair) -> None:
    client = over_socketpair()
    late = 0
    for _ in range(20):
        try:
            client.execute("query-qmp-schema", timeout=0)
        except QMPTimeoutError:
            late += 1
        assert client.query_status()["status"] == "running"
    assert late > 0


def test_the_schema_of_a_pretty_monitor_too(over_socketpair: OverSocketpair) -> None:
    plain = over_socketpair().query_qmp_schema()
    pretty = over_socketpair(",pretty=on").query_qmp_schema()
    assert plain == pretty
    assert len(plain) > 500


def test_out_of_band(over_socketpair: OverSocketpair) -> None:
    client = over_socketpair()
    reply = client.execute_raw({"exec-oob": "query-status", "id": "x"})
    assert "does not support OOB" in reply["error"]["desc"]
    with pytest.raises(QMPCommandError, match="migrate-pause"):
        # Refused, since nothing migrates; but as a command, out of band.
        client.execute("migrate-pause", oob=True)
    assert client.query_status()["status"] == "running"


def test_an_error_without_id(over_socketpair: OverSocketpair) -> None:
    client = over_socketpair()
    # What no method of the client sends. QEMU complains more than once, and to no command.
    os.write(client.fileno(), b"\x00{]")
    with pytest.raises(QMPCommandError, match="JSON parse error"):
        client.query_status()
    for _ in range(3):
        assert client.query_status()["status"] == "running"
    assert client.query_name() == {}


def test_getfd(over_socketpair: OverSocketpair, tmp_path: Path) -> None:
    client = over_socketpair()
    with open(tmp_path / "passed", "wb") as file:
        assert client.getfd(fdname="passed", fds=[file.fileno()]) == {}
    client.closefd(fdname="passed")
    with pytest.raises(QMPCommandError, match="passed"):
        client.closefd(fdname="passed")
    with open(os.devnull, "rb") as file:
        added = client.add_fd(fdset_id=7, fds=[file.fileno()])
    assert added["fdset-id"] == 7


@pytest.mark.parametrize("what", ["event", "command"])
def test_quit_while_another_waits(
    over_socketpair: OverSocketpair, in_thread: InThread, what: str
) -> None:
    client = over_socketpair()
    waiting = in_thread(lambda: client.wait_for_event("NEVER", timeout=LIMIT))
    began = time.monotonic()
    if what == "command":
        assert client.quit() == {}
    else:
        client.execute_raw({"execute": "quit"})
    with pytest.raises(QMPDisconnectedError, match="closed the connection") as caught:
        waiting.result()
    assert time.monotonic() - began < LIMIT / 2
    assert "SHUTDOWN" in str(caught.value)
    assert client.wait_for_event("SHUTDOWN").data["reason"] == "host-qmp-quit"


def test_a_killed_qemu_ends_a_command(start: StartQEMU, in_thread: InThread) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        qemu = start("-chardev", f"socket,id=q,fd={fd}", "-mon", "q,mode=control", fd=fd)
    with QMPClient.connect(ours, timeout=LIMIT) as client:
        waiting = in_thread(lambda: client.wait_for_event("NEVER", timeout=None))
        qemu.kill()
        with pytest.raises(QMPDisconnectedError):
            waiting.result()


@pytest.mark.parametrize("form", ["unix:{}", "{}"])
def test_a_path_that_appears_late_and_serves_one(
    start: StartQEMU, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "qmp.sock"
    start("-qmp", f"unix:{path},server=on,wait=off")
    with QMPClient.connect(form.format(path), timeout=LIMIT) as first:
        with pytest.raises(QMPTimeoutError, match="serves one client at a time"):
            QMPClient.connect(path, timeout=0.2)
        assert first.query_status()["status"] == "running"
        first.reconnect(timeout=LIMIT)
        assert first.query_status()["status"] == "running"


def test_qemu_connects_to_us(start: StartQEMU, tmp_path: Path) -> None:
    path = tmp_path / "ours.sock"
    with QMPClient.listen(path) as client:
        start("-qmp", f"unix:{path}")
        client.accept(timeout=LIMIT)
        assert client.query_status()["status"] == "running"


def test_the_human_monitor_is_told_apart(start: StartQEMU, tmp_path: Path) -> None:
    from pytest_qmp.errors import QMPProtocolError

    path = tmp_path / "hmp.sock"
    start("-monitor", f"unix:{path},server=on,wait=off")
    with pytest.raises(QMPProtocolError, match="human monitor"):
        QMPClient.connect(path, timeout=LIMIT)
