"""The server's life: its sockets, its thread, its end."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_qmp.errors import FakeQMPServerError, UnmodelledCommandError
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.keeper import client as keeper

from .client import LineClient

Connect = Callable[..., LineClient]
MakeServer = Callable[..., FakeQMPServer]
FDS = Path("/proc/self/fd")


def dial(server: FakeQMPServer) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(server.address)
    return sock


@pytest.mark.parametrize(
    ("version", "micro", "package"),
    [("7.2", 22, "7.2+dfsg"), ("10.0", 13, "10.0.13"), ("11.1", 3, "11.1.3")],
)
def test_greets_and_answers_as_the_version_it_emulates(
    make_server: MakeServer, connect: Connect, version: str, micro: int, package: str
) -> None:
    client = connect(make_server(version))
    said = client.greeting["QMP"]["version"]
    assert said["qemu"]["micro"] == micro
    assert package in said["package"]
    assert client.execute("query-version") == {"return": said}


def test_a_version_that_it_does_not_know_is_refused_with_the_choices() -> None:
    with pytest.raises(FakeQMPServerError, match=r"'9\.0'.*'7\.2', '10\.0', '11\.1'"):
        FakeQMPServer("9.0")


@pytest.mark.skipif(not FDS.is_dir(), reason="needs /proc")
def test_nothing_is_left_after_close() -> None:
    keeper.mark()  # The keeper, and the socket to it, stay for the session.
    threads, fds = threading.active_count(), len(list(FDS.iterdir()))
    server = FakeQMPServer().start()
    clients = [server.open_monitor(), server.open_monitor(), server.open_console()]
    clients += [dial(server), dial(server)]
    directory = Path(server.address).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    server.close()
    server.close()
    for client in clients:
        client.close()
    assert threading.active_count() == threads
    assert len(list(FDS.iterdir())) == fds
    assert not directory.exists()


def test_a_server_that_was_never_started_leaves_nothing_either() -> None:
    threads = threading.active_count()
    server = FakeQMPServer()
    sock = server.open_monitor()
    path = server.address
    server.close()
    assert not os.path.exists(path)
    sock.settimeout(5)
    while sock.recv(4096):
        pass
    sock.close()
    assert threading.active_count() == threads


def test_what_is_connected_before_the_start_is_served_after_it(connect: Connect) -> None:
    server = FakeQMPServer()
    sock = server.open_monitor()
    with server:
        client = LineClient(sock)
        assert client.status() == "running"
        client.close()


def test_start_is_idempotent_and_not_after_close(server: FakeQMPServer) -> None:
    assert server.start() is server
    server.close()
    with pytest.raises(FakeQMPServerError, match="make a new one"):
        server.start()


def test_one_client_at_a_time_on_the_address(server: FakeQMPServer) -> None:
    first = LineClient(dial(server))
    second = dial(server)
    second.settimeout(0.05)
    with pytest.raises(TimeoutError):
        second.recv(1)
    first.close()
    assert LineClient(second).status() == "running"
    second.close()


def test_negotiation_is_for_each_connection_anew(server: FakeQMPServer) -> None:
    LineClient(dial(server)).close()
    client = LineClient(dial(server), negotiate=False)
    client.read()
    assert client.execute("query-name")["error"]["class"] == "CommandNotFound"
    client.close()


def test_every_monitor_that_has_negotiated_gets_the_events(
    server: FakeQMPServer, connect: Connect
) -> None:
    first, second = connect(server), connect(server)
    late = connect(server, negotiate=False)
    assert first.events_then_reply("stop") == (["STOP"], {"return": {}})
    assert second.read()["event"] == "STOP"
    assert "QMP" in late.read()
    late.send({"execute": "qmp_capabilities"})
    assert late.read() == {"return": {}}


def test_quit_says_so_answers_and_ends(server: FakeQMPServer, connect: Connect) -> None:
    client, other = connect(server), connect(server)
    console = server.open_console()
    console.settimeout(5)
    assert server.exit_status is None
    assert server.wait_exit(0) is None
    assert client.events_then_reply("quit") == (["SHUTDOWN"], {"return": {}})
    assert client.at_eof()
    assert server.exit_status == 0
    assert other.read()["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert other.at_eof()
    assert console.recv(1) == b""
    console.close()
    late = server.open_monitor()
    late.settimeout(5)
    assert late.recv(1) == b""
    late.close()
    assert server.wait_exit(5) == 0


def test_what_comes_behind_a_quit_is_not_answered(
    server: FakeQMPServer, client: LineClient
) -> None:
    client.send_raw(b'{"execute":"quit"}{"execute":"query-name"}')
    assert client.read()["event"] == "SHUTDOWN"
    assert client.read() == {"return": {}}
    assert client.at_eof()


def test_terminate_is_a_sigterm(server: FakeQMPServer, client: LineClient) -> None:
    server.terminate()
    assert client.read()["data"] == {"guest": False, "reason": "host-signal"}
    assert client.at_eof()
    assert server.wait_exit(5) == 0


def test_kill_ends_at_once(server: FakeQMPServer, client: LineClient) -> None:
    server.kill()
    assert client.at_eof()
    assert server.wait_exit(5) == -9


def test_the_socket_file_goes_with_qemu(server: FakeQMPServer, client: LineClient) -> None:
    path = server.address
    assert os.path.exists(path)
    client.events_then_reply("quit")
    assert client.at_eof()
    assert not os.path.exists(path)


def test_name_uuid_and_pause_come_from_the_arguments(
    make_server: MakeServer, connect: Connect
) -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    args = ["-S", "-name", "guest=a,,b,debug-threads=on", "-uuid", uuid, "-nodefaults", "-m", "1G"]
    client = connect(make_server(args=args))
    assert client.execute("query-name") == {"return": {"name": "a,b"}}
    assert client.execute("query-uuid") == {"return": {"UUID": uuid}}
    assert client.status() == "prelaunch"


def test_commands_and_schema_are_those_of_the_version(
    make_server: MakeServer, connect: Connect
) -> None:
    client = connect(make_server("7.2"))
    commands = [entry["name"] for entry in client.execute("query-commands")["return"]]
    assert commands[0] == "device_add"
    assert commands[-1] == "query-status"
    assert len(commands) == 216
    schema = client.execute("query-qmp-schema")["return"]
    in_schema = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    assert in_schema == set(commands)


def test_a_command_that_is_not_modelled_is_refused_and_remembered(
    connect: Connect, make_server: MakeServer
) -> None:
    server = make_server("11.1")
    client = connect(server)
    error = client.execute("x-query-jit")["error"]
    assert error["class"] == "GenericError"
    assert 'server.on("x-query-jit").reply({...})' in error["desc"]
    assert "fake QEMU 11.1 does not model x-query-jit" in error["desc"]
    client.execute("x-query-ramblock")
    with pytest.raises(UnmodelledCommandError) as caught:
        server.check()
    assert 'server.on("x-query-jit").reply({...})' in str(caught.value)
    assert 'server.on("x-query-ramblock").reply({...})' in str(caught.value)
    server.check()


def send_what_is_not_modelled(server: FakeQMPServer) -> None:
    client = LineClient(server.open_monitor())
    client.execute("x-query-jit")
    client.close()


def test_leaving_the_context_checks() -> None:
    server = FakeQMPServer()
    with server:
        send_what_is_not_modelled(server)
        with pytest.raises(UnmodelledCommandError, match="x-query-jit"):
            server.__exit__(None, None, None)


def test_leaving_the_context_hides_no_other_error() -> None:
    def fail() -> None:
        with FakeQMPServer() as server:
            send_what_is_not_modelled(server)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def test_a_command_that_qemu_does_not_have_gets_qemus_own_words(client: LineClient) -> None:
    assert client.execute("query-cpus") == {
        "error": {
            "class": "CommandNotFound",
            "desc": "The command query-cpus has not been found",
        }
    }


def test_wrong_arguments_get_qemus_own_words(client: LineClient) -> None:
    error = client.execute("blockdev-add", driver="raw", file={"driver": "file", "filename": 5})
    assert error["error"]["desc"] == (
        "Invalid parameter type for 'file.filename', expected: string"
    )


def test_many_commands_in_one_write_are_answered_in_order(client: LineClient) -> None:
    client.send_raw(b"".join(b'{"execute":"query-name","id":%d}' % n for n in range(200)))
    assert [client.read()["id"] for _ in range(200)] == list(range(200))


def test_a_client_that_does_not_read_keeps_nobody_else_waiting(
    server: FakeQMPServer, connect: Connect
) -> None:
    deaf, client = connect(server), connect(server)
    deaf.send_raw(b'{"execute":"query-qmp-schema"}' * 20)
    assert client.status() == "running"


def test_several_threads_may_use_the_server(server: FakeQMPServer, client: LineClient) -> None:
    def storm() -> None:
        for _ in range(50):
            server.emit("BALLOON_CHANGE", {"actual": 1})

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {client.read()["event"] for _ in range(200)} == {"BALLOON_CHANGE"}
