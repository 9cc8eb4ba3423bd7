"""Character devices: what they have open, and who is connected."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

MakeServer = Callable[..., FakeQMPServer]
Connect = Callable[[FakeQMPServer], LineClient]


def add(client: LineClient, label: str, kind: str, **data: Any) -> Any:
    reply = client.execute("chardev-add", id=label, backend={"type": kind, "data": data})
    return reply.get("return", reply.get("error", {}).get("desc"))


def listed(client: LineClient) -> dict[str, tuple[str, bool]]:
    chardevs = client.execute("query-chardev")["return"]
    return {one["label"]: (one["filename"], one["frontend-open"]) for one in chardevs}


def test_a_pty_can_be_opened(client: LineClient) -> None:
    path = add(client, "p", "pty")["pty"]
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    assert os.isatty(descriptor)
    os.close(descriptor)
    assert listed(client)["p"] == (f"pty:{path}", False)


def test_a_pty_has_a_link_while_it_lives(client: LineClient, tmp_path: Path) -> None:
    link = tmp_path / "link"
    path = add(client, "p", "pty", path=str(link))["pty"]
    assert os.readlink(link) == path
    client.execute("chardev-remove", id="p")
    assert not os.path.lexists(link)


def test_a_socket_tells_who_is_there(client: LineClient, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    address = {"type": "unix", "data": {"path": path}}
    assert add(client, "s", "socket", addr=address, wait=False) == {}
    assert listed(client)["s"] == (f"disconnected:unix:{path},server=on", False)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        assert listed(client)["s"] == (f"unix:{path},server=on", False)
    client.execute("chardev-remove", id="s")
    assert not os.path.exists(path)


def test_a_socket_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FakeQMPServer() as server:
        client = LineClient(server.open_monitor())
        address = {"type": "unix", "data": {"path": str(path)}}
        add(client, "s", "socket", addr=address, wait=False)
        assert path.exists()
        client.close()
    assert not path.exists()


def test_yank_knows_the_sockets(client: LineClient, tmp_path: Path) -> None:
    address = {"type": "unix", "data": {"path": str(tmp_path / "s")}}
    add(client, "s", "socket", addr=address, wait=False)
    instances = client.execute("query-yank")["return"]
    assert {"type": "chardev", "id": "s"} in instances
    assert client.execute("yank", instances=[{"type": "chardev", "id": "s"}]) == {"return": {}}
    error = client.execute("yank", instances=[{"type": "chardev", "id": "x"}])["error"]
    assert error == {"class": "DeviceNotFound", "desc": "Instance not found"}


def test_a_file_is_written_anew(client: LineClient, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    assert add(client, "f", "file", out=str(path), append=True) == {}
    assert path.read_text() == "old"
    assert add(client, "g", "file", out=str(path)) == {}
    assert path.read_text() == ""


def test_the_command_lines_chardevs_are_in_use(make_server: MakeServer, connect: Connect) -> None:
    args = [
        *("-nodefaults", "-serial", "null", "-monitor", "null", "-chardev", "null,id=free"),
        *("-chardev", "null,id=port", "-device", "virtio-serial"),
        *("-device", "virtserialport,chardev=port"),
        *("-chardev", "stdio,id=both,mux=on", "-mon", "both"),
    ]
    server = make_server("10.0", args=args)
    client = connect(server)
    shown = listed(client)
    assert shown["serial0"] == shown["compat_monitor0"] == ("null", True)
    assert shown["free"] == shown["port"] == ("null", False)
    assert shown["both"] == ("mux", True)
    assert shown["both-base"] == ("stdio", True)
    assert "compat_monitor1" in shown
    for label, busy in (("serial0", True), ("free", False), ("port", True), ("both-base", True)):
        assert ("error" in client.execute("chardev-remove", id=label)) is busy
    null = {"type": "null", "data": {}}
    assert client.execute("chardev-change", id="serial0", backend=null) == {"return": {}}
    assert listed(client)["serial0"] == ("null", True)


@pytest.mark.parametrize(
    ("args", "labels"),
    [
        ((), {"compat_monitor0", "serial0", "parallel0"}),
        (("-nodefaults",), {"compat_monitor0"}),
        (("-nodefaults", "-qmp", "null"), {"compat_monitor0"}),
        (("-M", "none"), {"compat_monitor0"}),
        (("-serial", "none", "-parallel", "none"), {"compat_monitor0"}),
        (("-device", "isa-serial,chardev=x", "-parallel", "none"), {"compat_monitor0"}),
    ],
)
def test_what_a_machine_has_by_itself(
    make_server: MakeServer, connect: Connect, args: tuple[str, ...], labels: set[str]
) -> None:
    assert set(listed(connect(make_server("11.1", args=args)))) == labels


def test_the_monitors_own_path(server: FakeQMPServer) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(server.address)
    client = LineClient(sock)
    assert listed(client)["compat_monitor0"] == (f"unix:{server.address},server=on", True)
    client.close()


def test_the_program_tells_who_is_connected(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("qmp", "serial")}
    command = [sys.executable, "-m", "pytest_qmp", "fake", "-nodefaults", "-serial", "pty"]
    command += ["-serial", f"unix:{paths['serial']},server=on,wait=off"]
    command += ["-qmp", f"unix:{paths['qmp']},server=on,wait=off"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        announced = program.stdout.readline().split()[4]
        wait_until(lambda: os.path.exists(paths["qmp"]))
        client = LineClient(connected_to(paths["qmp"]))
        console = connected_to(paths["serial"])
        shown = listed(client)
        assert shown["serial0"] == (f"pty:{announced}", True)
        assert shown["compat_monitor0"] == (f"unix:{paths['qmp']},server=on", True)
        address = (f"unix:{paths['serial']},server=on", True)
        wait_until(lambda: listed(client)["serial1"] == address)
        client.execute("quit")
        console.close()
        client.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connected_to(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def test_names_of_monitors_count_short_forms_only(
    make_server: MakeServer, connect: Connect
) -> None:
    args = ["-nodefaults", "-chardev", "null,id=x", "-mon", "x", "-monitor", "null"]
    assert set(listed(connect(make_server("11.1", args=args)))) == {
        *("x", "compat_monitor0", "compat_monitor1")
    }
