"""File descriptors that a client passes: who gets them, and that none is left."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

NONE = "No file descriptor supplied via SCM_RIGHTS"
Connect = Callable[[FakeQMPServer], LineClient]


def pass_fds(client: LineClient, command: str, fds: list[int], **arguments: object) -> object:
    message = json.dumps({"execute": command, "arguments": arguments}).encode()
    rights = array.array("i", fds)
    client.sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    reply = client.read()
    return reply.get("return", reply.get("error", {}).get("desc"))


def open_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def null() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_a_name_takes_the_first_and_the_others_are_closed(client: LineClient, null: int) -> None:
    assert pass_fds(client, "getfd", [null, null, null], fdname="a") == {}
    assert client.execute("getfd", fdname="b")["error"]["desc"] == NONE
    assert client.execute("closefd", fdname="a") == {"return": {}}
    assert "not found" in client.execute("closefd", fdname="a")["error"]["desc"]


def test_what_is_not_claimed_waits_for_a_later_command(client: LineClient, null: int) -> None:
    pass_fds(client, "query-name", [null])
    assert client.execute("getfd", fdname="a") == {"return": {}}


def test_sets_keep_order_and_opaque(client: LineClient, null: int) -> None:
    first = pass_fds(client, "add-fd", [null], opaque="x")
    second = pass_fds(client, "add-fd", [null])
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    third = pass_fds(client, "add-fd", [null], **{"fdset-id": 0})
    assert isinstance(third, dict)
    assert client.execute("query-fdsets")["return"] == [
        {"fdset-id": 1, "fds": [{"fd": second["fd"]}]},
        {"fdset-id": 0, "fds": [{"fd": first["fd"], "opaque": "x"}, {"fd": third["fd"]}]},
    ]
    assert client.execute("remove-fd", **{"fdset-id": 0}) == {"return": {}}
    assert [found["fdset-id"] for found in client.execute("query-fdsets")["return"]] == [1]


def test_an_old_qemu_removes_only_while_the_guest_runs(
    make_server: Callable[..., FakeQMPServer], connect: Connect, null: int
) -> None:
    client = connect(make_server("7.2", args=["-S"]))
    pass_fds(client, "add-fd", [null])
    client.execute("remove-fd", **{"fdset-id": 0})
    assert len(client.execute("query-fdsets")["return"]) == 1
    client.send({"execute": "cont"})
    assert client.read()["event"] == "RESUME"
    client.read()
    client.execute("remove-fd", **{"fdset-id": 0})
    assert client.execute("query-fdsets")["return"] == []


def test_a_set_is_opened_by_its_path(client: LineClient, tmp_path: Path, null: int) -> None:
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    pass_fds(client, "add-fd", [descriptor], **{"fdset-id": 5})
    os.close(descriptor)

    def add(label: str, out: str) -> dict[str, object]:
        backend = {"type": "file", "data": {"out": out}}
        reply: dict[str, object] = client.execute("chardev-add", id=label, backend=backend)
        return reply

    assert add("a", "/dev/fdset/5") == {"return": {}}
    assert "No such file" in str(add("b", "/dev/fdset/6"))
    pass_fds(client, "add-fd", [null], **{"fdset-id": 7})
    assert "Permission denied" in str(add("c", "/dev/fdset/7"))


def test_a_monitor_keeps_names_for_its_next_client(server: FakeQMPServer, null: int) -> None:
    for turn in ("first", "second"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(server.address)
        client = LineClient(sock)
        if turn == "first":
            assert pass_fds(client, "getfd", [null], fdname="a") == {}
        else:
            assert client.execute("closefd", fdname="a") == {"return": {}}
        client.close()


@pytest.mark.parametrize("command", ["query-name", "getfd", "add-fd"])
def test_nothing_leaks(command: str) -> None:
    reading, writing = os.pipe()
    before = open_count() - 1
    server = FakeQMPServer().start()
    client = LineClient(server.open_monitor())
    arguments = {"fdname": "a"} if command == "getfd" else {}
    pass_fds(client, command, [writing], **arguments)
    os.close(writing)
    client.close()
    server.close()
    assert open_count() == before
    # Nobody can write any more.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_what_comes_over_a_console_is_closed(server: FakeQMPServer, null: int) -> None:
    # The console sees the bytes, and nobody sees the descriptor.
    console = server.open_console()
    before = open_count()
    rights = array.array("i", [null])
    console.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    server.guest.on_console("y", b"z")
    console.sendall(b"y")
    console.settimeout(10)
    assert console.recv(1) == b"z"
    assert open_count() == before
    console.close()


@pytest.mark.parametrize(
    ("args", "number"),
    [
        ((), 11),
        (("-chardev", "file,id=f,path=/dev/null"), 12),
        (("-chardev", "null,id=f"), 11),
        (("-chardev", "socket,id=m,path=m,server=on,wait=off", "-mon", "m,mode=control"), 11),
        (("-object", "iothread,id=i"), 13),
        (("-blockdev", f"file,node-name=f,filename={__file__}"), 12),
    ],
)
def test_numbers_are_those_that_qemu_has_free(
    make_server: Callable[..., FakeQMPServer],
    connect: Connect,
    null: int,
    args: tuple[str, ...],
    number: int,
) -> None:
    client = connect(make_server("10.0", args=["-nodefaults", "-S", *args]))
    assert pass_fds(client, "add-fd", [null]) == {"fdset-id": 0, "fd": number}
    backend = {"type": "file", "data": {"out": os.devnull}}
    assert client.execute("chardev-add", id="c", backend=backend) == {"return": {}}
    assert pass_fds(client, "add-fd", [null]) == {"fdset-id": 1, "fd": number + 2}
    client.execute("chardev-remove", id="c")
    assert pass_fds(client, "add-fd", [null]) == {"fdset-id": 2, "fd": number + 1}


@pytest.mark.parametrize("version", ["7.2", "11.1"])
def test_a_block_node_uses_a_descriptor_of_a_set(version: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    writable, readable = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
    node = {"driver": "file", "node-name": "n", "filename": "/dev/fdset/7"}
    args = ["-add-fd", f"fd={readable},set=3,opaque=x"]
    open_before = open_count()
    with FakeQMPServer(version, args=args) as server:
        client = LineClient(server.open_monitor())
        sets = client.execute("query-fdsets")["return"]
        assert [(each["fdset-id"], each["fds"][0]["opaque"]) for each in sets] == [(3, "x")]
        client.execute("remove-fd", **{"fdset-id": 3})
        pass_fds(client, "add-fd", [readable], **{"fdset-id": 7})
        refused = client.execute("blockdev-add", **node)["error"]["desc"]
        assert "flags" in refused
        pass_fds(client, "add-fd", [writable], **{"fdset-id": 7})
        assert client.execute("blockdev-add", **node) == {"return": {}}
        assert client.execute("remove-fd", **{"fdset-id": 7}) == {"return": {}}
        # The copy that the node has keeps the set, and the file can still be read.
        assert client.execute("query-fdsets")["return"] == [{"fdset-id": 7, "fds": []}]
        found = client.execute("query-named-block-nodes")["return"][0]
        assert (found["file"], found["image"]["virtual-size"]) == ("/dev/fdset/7", 1 << 20)
        assert "actual-size" in found["image"]
        assert client.execute("blockdev-del", **{"node-name": "n"}) == {"return": {}}
        assert client.execute("query-fdsets")["return"] == []
        refused = client.execute("blockdev-add", **node)["error"]["desc"]
        assert "/dev/fdset/7" in refused
        client.close()
    assert open_count() == open_before
    os.close(writable)
    os.close(readable)


@pytest.mark.parametrize("version", ["10.0", "11.1"])
def test_what_is_written_goes_to_a_descriptor_of_a_set(version: str, tmp_path: Path) -> None:
    picture, state = tmp_path / "picture", tmp_path / "state"
    writable = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in (picture, state)]
    with FakeQMPServer(version) as server:
        client = LineClient(server.open_monitor())
        pass_fds(client, "add-fd", writable[:1], **{"fdset-id": 1})
        pass_fds(client, "add-fd", writable[1:], **{"fdset-id": 2})
        shot = {"filename": "/dev/fdset/1", "format": "png"}
        assert client.execute("screendump", **shot) == {"return": {}}
        assert client.execute("screendump", filename="/dev/fdset/x")["error"]
        for path, desc in {
            "/dev/fdset/9": "Failed to find fdset /dev/fdset/9",
            "/dev/fdset/x": "Could not parse fdset /dev/fdset/x",
        }.items():
            assert client.execute("migrate", uri=f"file:{path}")["error"]["desc"] == desc
        assert client.execute("migrate", uri="file:/dev/fdset/2") == {"return": {}}
        while client.events_then_reply("query-migrate")[1]["return"]["status"] != "completed":
            server.advance(0.1)
        client.close()
    assert picture.read_bytes().startswith(b"\x89PNG")
    readable = os.open(state, os.O_RDONLY)
    with FakeQMPServer(version, args=["-incoming", "defer"]) as server:
        client = LineClient(server.open_monitor())
        pass_fds(client, "add-fd", [readable], **{"fdset-id": 2})
        assert client.execute("migrate-incoming", uri="file:/dev/fdset/2") == {"return": {}}
        while client.events_then_reply("query-status")[1]["return"]["status"] == "inmigrate":
            server.advance(0.1)
        client.close()
    for descriptor in (*writable, readable):
        os.close(descriptor)
