"""The same behaviour on the QEMU of this machine and on the fake of its version."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.versions import DIALECTS

from .client import LineClient

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [
    pytest.mark.needs_qemu,
    pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not on the PATH"),
]
BASE = ["-accel", "tcg", "-nodefaults", "-display", "none"]
#: What differs from run to run, from build to build.
VOLATILE = re.compile(rb'"(seconds|microseconds|micro)": \d+|"package": "[^"]*"')

Talk = Callable[[list[str], list[bytes]], list[bytes]]


def talk(sock: socket.socket, messages: list[bytes]) -> list[bytes]:
    """All that comes in answer to messages, each with a marker behind it."""
    client = LineClient(sock)
    lines = []
    # A QEMU that ends with the marker unread resets the connection.
    with suppress(ConnectionError):
        for message in messages:
            client.send_raw(message + b'\n{"execute":"query-name","id":"marker"}')
            while (line := client.read_raw()) and b'"id": "marker"' not in line:
                lines.append(VOLATILE.sub(rb'"\1": 0', line))
    client.close()
    return lines


@pytest.fixture(scope="module")
def version() -> str:
    if QEMU is None:
        pytest.skip("no QEMU")
    shown = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+\.\d+)", shown)
    name = found[1] if found else shown
    if name not in DIALECTS:
        pytest.skip(f"the fake does not emulate QEMU {name}")
    return name


@pytest.fixture
def on_qemu() -> Iterator[Talk]:
    processes: list[subprocess.Popen[bytes]] = []

    def run(args: list[str], messages: list[bytes]) -> list[bytes]:
        ours, theirs = socket.socketpair()
        monitor = [
            "-chardev",
            f"socket,id=m,fd={theirs.fileno()}",
            "-mon",
            "chardev=m,mode=control",
        ]
        argv = [str(QEMU), *BASE, *args, *monitor]
        processes.append(subprocess.Popen(argv, pass_fds=[theirs.fileno()]))
        theirs.close()
        return talk(ours, messages)

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def on_fake(version: str) -> Iterator[Talk]:
    servers: list[FakeQMPServer] = []

    def run(args: list[str], messages: list[bytes]) -> list[bytes]:
        servers.append(FakeQMPServer(version, args=[*BASE, *args]).start())
        return talk(servers[-1].open_monitor(), messages)

    yield run
    for server in servers:
        server.close()


def commands(*names: str) -> list[bytes]:
    return [json.dumps({"execute": name, "id": name}).encode() for name in names]


def with_arguments(command: str, arguments: Any) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode()


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        pytest.param(
            ["-S", "-M", "none"],
            commands("query-version", "query-name", "query-uuid", "query-commands", "query-status"),
            id="queries",
        ),
        pytest.param(
            [
                "-S",
                "-M",
                "none",
                "-name",
                "guest=a,,b",
                "-uuid",
                "1" * 8 + "-2222" * 3 + "-" + "3" * 12,
            ],
            commands("query-name", "query-uuid"),
            id="name-and-uuid",
        ),
        pytest.param(
            ["-S", "-M", "none"],
            commands(
                *("stop", "cont", "cont", "query-status", "stop", "stop", "query-status"),
                *("system_reset", "query-status", "cont", "system_powerdown", "quit"),
            ),
            id="run-states",
        ),
        pytest.param(
            ["-M", "none", "-no-reboot", "-no-shutdown"],
            commands(
                *("system_reset", "query-status", "cont", "stop", "system_reset"),
                *("query-status", "system_powerdown", "quit"),
            ),
            id="no-reboot-no-shutdown",
        ),
        pytest.param(
            ["-M", "none", "-no-reboot"], commands("system_reset"), id="reset-with-no-reboot"
        ),
        pytest.param(
            ["-S", "-M", "pc", "-m", "16"], commands("system_wakeup"), id="wakeup-when-awake"
        ),
        pytest.param(
            ["-S", "-M", "none"],
            [
                with_arguments("device_del", {"id": 1, "x": 2}),
                with_arguments("device_del", {"id": "a", "zeta": 1, "alpha": 2, "b": 3}),
                with_arguments("migrate-set-parameters", {"cpu-throttle-initial": 256}),
                with_arguments("migrate-set-parameters", {"max-bandwidth": 1.5}),
                with_arguments("object-add", {"qom-type": "memory-backend-ram", "id": "m"}),
                with_arguments("blockdev-add", {"driver": "raw", "file": []}),
                with_arguments("blockdev-add", {"driver": "nosuch"}),
                with_arguments("send-key", {"keys": [{"type": "number", "data": "x"}]}),
            ],
            id="arguments",
        ),
        pytest.param(
            ["-S", "-M", "none"],
            [
                b"{'execute':'query-name','id':[1e3,0.1,-0,18446744073709551616]}",
                b'{"execute":"query-name","id":{"a":1,"b":2,"return":3,"id":4}}',
                b'{"execute":"query-name","arguments":null}',
                b'{"zeta":1,"execute":"query-name","alpha":2}',
                b'{"execute":"query-name","id":"\\ud800"}',
                b'{"execute":"query-name","id":01,}',
                b"[{]}\xff",
                b"nonsense",
                b'"\xf8\x80\x80\x80\x80\xfe',
            ],
            id="wire",
        ),
    ],
)
def test_agrees(on_qemu: Talk, on_fake: Talk, args: list[str], messages: list[bytes]) -> None:
    assert on_fake(args, messages) == on_qemu(args, messages)


def test_the_schema_is_the_same(on_qemu: Talk, on_fake: Talk) -> None:
    messages = commands("query-qmp-schema")
    assert on_fake(["-S", "-M", "none"], messages) == on_qemu(["-S", "-M", "none"], messages)
