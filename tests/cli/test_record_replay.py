"""Recordings: made beside a client and a QEMU, and played to either of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import FakeQMPServer, FakeQMPServerError, QMPClient, QMPCommandError

from .conftest import BASE, LIMIT, Client, Start

RECORD = [sys.executable, "-m", "pytest_qmp", "record"]
REPLAY = [sys.executable, "-m", "pytest_qmp", "replay"]


def talk(connect: Callable[[], Client]) -> list[Any]:
    """The conversations that the tests record: two connections, an event, an error, the end."""
    with connect() as client:
        client.negotiate()
        replies = [
            client.execute("query-status"),
            client.execute("cont"),
            client.execute("query-status"),
            client.execute("device_del", id="x"),
        ]
    with connect() as client:
        client.negotiate()
        replies += [client.execute("query-name"), client.execute("quit")]
        assert client.at_eof()
    return replies


@pytest.fixture
def recorder(qemu: list[str], run: Start, folder: Path) -> Start:
    """Starts a recorded QEMU; the recording is ``folder / "r"``."""

    def start(*args: str, **kwargs: Any) -> Any:
        return run(*RECORD, "-o", f"{folder}/r", "--", *qemu, *BASE, *args, **kwargs)

    return start


@pytest.fixture
def recording(run: Start, folder: Path, link: Path) -> Path:
    """A recording of :func:`talk` with the fake."""
    args = [os.fspath(link), *BASE, "-qmp", f"unix:{folder}/q,server=on,wait=off"]
    environment = {**os.environ, "PYTEST_QMP_EMULATE": "7.2"}
    program = run(*RECORD, "-o", f"{folder}/r", "--", *args, env=environment)
    talk(lambda: program.connect(folder / "q"))
    assert program.outcome()[0] == 0
    return folder / "r"


def connector(server: FakeQMPServer) -> Callable[[], Client]:
    def connect() -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(server.address)
        return Client(sock)

    return connect


def test_what_is_said_is_passed_on_and_written(recorder: Start, folder: Path) -> None:
    program = recorder("-qmp", f"unix:{folder}/q,server=on,wait=off")
    replies = talk(lambda: program.connect(folder / "q"))
    assert program.outcome() == (0, "", "")
    assert not (folder / "q").exists()
    assert replies[0]["return"]["status"] == "prelaunch"
    assert replies[2]["return"]["status"] == "running"
    assert replies[3]["error"]["class"] == "DeviceNotFound"
    head, *lines = map(json.loads, (folder / "r").read_text().splitlines())
    assert head["format"] == "pytest-qmp recording"
    assert head["argv"][-1] == f"unix:{folder}/q,server=on,wait=off"
    said = {"client": "", "qemu": ""}
    for line in lines:
        if "data" in line:
            said[line["from"]] += line["data"]
    assert said["client"].count('"execute"') == 8
    assert said["qemu"].count("\r\n") == 12
    assert lines[-1]["status"] == 0
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_a_monitor_on_a_chardev_that_is_waited_for(recorder: Start, folder: Path) -> None:
    chardev = f"socket,id=m,path={folder}/q,server=on"
    program = recorder("-chardev", chardev, "-mon", "chardev=m,mode=control,pretty=on")
    with program.connect(folder / "q") as client:
        assert client.sock.recv(1) == b"{"
        assert client.sock.recv(1) == b"\r"
        client.sock.sendall(b'{"execute":"qmp_capabilities"}{"execute":"quit"}')
        while client.sock.recv(65536):
            pass
    assert program.outcome()[0] == 0


def test_descriptors_are_passed_on(recorder: Start, folder: Path) -> None:
    program = recorder("-qmp", f"unix:{folder}/q,server=on,wait=off")
    client = program.connect(folder / "q").negotiate()
    with open(os.devnull, "rb") as file:
        message = b'{"execute": "getfd", "arguments": {"fdname": "f"}}'
        socket.send_fds(client.sock, [message], [file.fileno()])
    assert client.read() == {"return": {}}
    assert client.execute("closefd", fdname="f") == {"return": {}}
    lines = map(json.loads, (folder / "r").read_text().splitlines())
    assert [line["descriptors"] for line in lines if "descriptors" in line] == [1]


def test_ends_as_qemu_ends(recorder: Start, folder: Path) -> None:
    status, _, err = recorder("-qmp", f"unix:{folder}/q,server=on,wait=off", "-M", "x").outcome()
    assert status == 1
    assert "unsupported machine type" in err
    assert json.loads((folder / "r").read_text().splitlines()[-1])["status"] == 1


def test_signals_are_for_qemu(recorder: Start, folder: Path) -> None:
    program = recorder("-qmp", f"unix:{folder}/q,server=on,wait=off")
    client = program.connect(folder / "q").negotiate()
    program.process.send_signal(signal.SIGTERM)
    assert client.read()["data"]["reason"] == "host-signal"
    status, _, err = program.outcome()
    assert status == 0
    assert "terminating on signal 15" in err


def test_nothing_to_record(run: Start, folder: Path) -> None:
    status, _, err = run(*RECORD, "-o", f"{folder}/r", "--", "qemu", "-S").outcome()
    assert status == 2
    assert "no QMP monitor to record: give it a -qmp" in err


def test_replay_says_what_was_said(recording: Path) -> None:
    with FakeQMPServer.replay(recording) as server:
        replies = talk(connector(server))
        assert server.wait_exit(LIMIT) == 0
        server.assert_called("device_del", id="x")
    assert [next(iter(reply)) for reply in replies] == ["return"] * 3 + ["error"] + ["return"] * 2


def test_replay_sends_the_ids_of_the_present_client(recording: Path) -> None:
    server = FakeQMPServer.replay(recording, strict=False)
    with server, QMPClient.connect(server.address) as client:
        assert client.execute_raw({"execute": "query-name", "id": "mine"})["id"] == "mine"


def test_a_deviation_is_told_to_the_client_and_to_the_test(recording: Path) -> None:
    server = FakeQMPServer.replay(recording).start()
    with connector(server)() as client:
        client.negotiate()
        desc = client.execute("stop")["error"]["desc"]
        assert client.at_eof()
    assert 'expected {"execute": "query-status"' in desc
    assert 'got      {"execute": "stop"' in desc
    with pytest.raises(FakeQMPServerError, match="does not say what it said in"):
        server.check()
    server.close()


def test_commands_that_never_came_fail_the_test(recording: Path) -> None:
    server = FakeQMPServer.replay(recording).start()
    with connector(server)() as client:
        client.negotiate().execute("query-status")
    server.close()
    with pytest.raises(FakeQMPServerError, match=r'never came:\n  \{"execute": "cont"'):
        server.check()


def test_command_by_command(recording: Path) -> None:
    with FakeQMPServer.replay(recording, strict=False) as server, connector(server)() as client:
        client.negotiate()
        assert client.execute("query-name") == {"return": {}}
        states = [client.execute("query-status")["return"]["status"] for _ in range(3)]
        assert states == ["prelaunch", "running", "running"]


def test_command_by_command_knows_only_what_was_recorded(recording: Path) -> None:
    server = FakeQMPServer.replay(recording, strict=False).start()
    client = QMPClient.connect(server.address)
    with client, pytest.raises(QMPCommandError, match="no answer to"):
        client.execute("device_del", id="y")
    server.close()
    with pytest.raises(FakeQMPServerError, match='"id": "y"'):
        server.check()


def test_events_come_where_they_came(recording: Path) -> None:
    server = FakeQMPServer.replay(recording, strict=False)
    with server, connector(server)() as client:
        client.negotiate()
        client.sock.sendall(b'{"execute": "cont", "arguments": {}}' * 2)
        assert [list(client.read())[-1] for _ in range(3)] == ["event", "return", "return"]


def test_no_recording(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"format": "something else"}\n')
    with pytest.raises(FakeQMPServerError, match="is no recording"):
        FakeQMPServer.replay(tmp_path / "r")
    (tmp_path / "r").write_text("")
    with pytest.raises(FakeQMPServerError, match="it is empty"):
        FakeQMPServer.replay(tmp_path / "r")
    with pytest.raises(FileNotFoundError):
        FakeQMPServer.replay(tmp_path / "nothing")


def replay(recording: Path, against: str) -> tuple[int, str]:
    done = subprocess.run(
        [*REPLAY, recording, "--against", against],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT * 3,
    )
    return done.returncode, done.stdout


def test_the_same_qemu_does_the_same(recording: Path) -> None:
    assert replay(recording, "fake:7.2") == (0, "nothing differs\n")


@pytest.mark.needs_qemu
def test_a_real_qemu_does_what_the_fake_did(recording: Path) -> None:
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True)
    if b"version 7.2" not in version.stdout:
        pytest.skip("the QEMU on the PATH is not the one that the fake is here")
    assert replay(recording, "qemu-system-x86_64") == (0, "nothing differs\n")


def test_what_differs_on_another_qemu(recording: Path) -> None:
    status, out = replay(recording, "fake:10.0")
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == 'the reply to {"execute": "query-status", "arguments": {}} differs:'
    assert lines[1].startswith('- {"return": {')
    assert '"singlestep"' in lines[1]
    assert lines[2].startswith('+ {"return": {')
    assert '"singlestep"' not in lines[2]


def test_against_what_there_is_not(recording: Path) -> None:
    done = subprocess.run(
        [*REPLAY, recording, "--against", "fake:5.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the fake is 7.2, 10.0, 11.1" in done.stderr
