"""The same conversations with a real QEMU of each version and with the fake."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

pytestmark = pytest.mark.needs_qemu

VERSIONS = ("7.2", "10.0", "11.1")
UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "qemu"
BASE = ["-accel", "tcg", "-nodefaults", "-display", "none"]
Q35 = ["-M", "q35", "-m", "16", "-S"]


class Wait(NamedTuple):
    """Reads on until an event that has at least this data."""

    event: str
    data: dict[str, Any] = {}  # noqa: RUF012 - never changed


#: A command's name, with its arguments where it has any, or what to wait for.
Step = str | tuple[str, dict[str, Any]] | Wait


def job_ends(name: str) -> Wait:
    return Wait("JOB_STATUS_CHANGE", {"id": name, "status": "null"})


def null_node(name: str, size: int = 1 << 20) -> Step:
    return ("blockdev-add", {"driver": "null-co", "node-name": name, "size": size})


def bitmap_action(node: str, name: str) -> dict[str, Any]:
    return {"type": "block-dirty-bitmap-add", "data": {"node": node, "name": name}}


EVENTS = {"capability": "events", "state": True}
#: By name: QEMU's arguments, and what is said.
CONVERSATIONS: dict[str, tuple[list[str], list[Step]]] = {
    "run-states": (
        ["-M", "none", "-S"],
        [
            *("query-status", "stop", "cont", "cont", "query-status", "stop", "stop"),
            *("query-status", "system_reset", "query-status", "cont", "system_powerdown"),
            *("system_wakeup", "query-status", "quit"),
        ],
    ),
    "reset-while-paused": (
        Q35,
        ["cont", "stop", "query-status", "system_reset", "query-status", "cont", "query-status"],
    ),
    "set-action": (
        ["-M", "none"],
        [
            ("set-action", {"reboot": "shutdown", "shutdown": "pause"}),
            "system_reset",
            "query-status",
            "cont",
            "system_reset",
            "query-status",
            ("set-action", {"reboot": "never"}),
            "quit",
        ],
    ),
    "incoming": (
        ["-M", "none", "-incoming", "defer"],
        ["query-status", "cont", "query-status", "stop", "query-migrate", "quit"],
    ),
    "wrong-arguments": (
        ["-M", "none", "-S"],
        [
            ("query-status", {"x": 1}),
            "device_del",
            ("device_del", {"id": None}),
            ("blockdev-add", {"driver": "nosuch", "node-name": "a"}),
            ("blockdev-add", {"driver": "file", "node-name": "a"}),
            ("migrate-set-parameters", {"multifd-channels": 256}),
            ("migrate-set-parameters", {"downtime-limit": -1}),
            ("set-action", {"panic": "x"}),
            ("object-add", {"qom-type": "nosuch", "id": "a"}),
            ("human-monitor-command", {"command-line": 1}),
            ("query-nothing", {"x": 1}),
            "Query-Status",
        ],
    ),
    "devices": (
        Q35,
        [
            ("device_add", {"driver": "virtio-rng-pci", "id": "r0"}),
            ("device_add", {"driver": "virtio-rng-pci", "id": "r0"}),
            ("device_add", {"driver": "nosuch", "id": "r1"}),
            ("device_add", {"id": "r1"}),
            ("device_add", {"driver": "virtio-rng-pci", "id": "r1", "nosuch": 1}),
            ("device_add", {"driver": "virtio-rng-pci", "id": "r1", "bus": "nosuch"}),
            ("device_del", {"id": "nosuch"}),
            ("device_del", {"id": "r0"}),
        ],
    ),
    "unplug": (
        ["-M", "pc", "-m", "16", "-S"],
        [
            ("device_add", {"driver": "virtio-rng-pci", "id": "r0"}),
            ("qom-get", {"path": "/machine/peripheral/r0", "property": "type"}),
            ("device_del", {"id": "r0"}),
            ("device_del", {"id": "r0"}),
            "system_reset",
            Wait("DEVICE_DELETED", {"device": "r0"}),
            ("device_del", {"id": "r0"}),
            ("device_add", {"driver": "virtio-rng-pci", "id": "r0", "addr": "5"}),
            ("device_add", {"driver": "virtio-rng-pci", "id": "r1", "addr": "5"}),
            ("device_add", {"driver": "virtio-blk-pci", "id": "b0"}),
            ("device_add", {"driver": "virtio-blk-pci", "id": "b0", "drive": "nosuch"}),
            null_node("n0"),
            ("device_add", {"driver": "virtio-blk-pci", "id": "b0", "drive": "n0"}),
            ("blockdev-del", {"node-name": "n0"}),
            ("device_add", {"driver": "virtio-blk-pci", "id": "b1", "drive": "n0"}),
        ],
    ),
    "transaction": (
        ["-M", "none", "-S"],
        [
            null_node("a"),
            (
                "transaction",
                {"actions": [bitmap_action("a", "m"), bitmap_action("a", "m")]},
            ),
            ("transaction", {"actions": [bitmap_action("a", "m"), bitmap_action("b", "m")]}),
            ("transaction", {"actions": [bitmap_action("a", "m")]}),
            ("transaction", {"actions": [{"type": "nosuch", "data": {}}]}),
            ("transaction", {"actions": []}),
            ("block-dirty-bitmap-remove", {"node": "a", "name": "m"}),
        ],
    ),
    "job-control": (
        ["-M", "none", "-S"],
        [
            null_node("src", 1 << 30),
            null_node("dst", 1 << 30),
            (
                "blockdev-backup",
                {
                    "job-id": "b",
                    "device": "src",
                    "target": "dst",
                    "sync": "full",
                    "speed": 1,
                    "auto-dismiss": False,
                },
            ),
            ("blockdev-del", {"node-name": "src"}),
            ("job-complete", {"id": "b"}),
            ("job-dismiss", {"id": "b"}),
            ("block-job-set-speed", {"device": "b", "speed": -1}),
            ("job-cancel", {"id": "b"}),
            Wait("JOB_STATUS_CHANGE", {"id": "b", "status": "concluded"}),
            ("job-pause", {"id": "b"}),
            ("job-dismiss", {"id": "b"}),
            ("job-dismiss", {"id": "b"}),
        ],
    ),
    "keys-and-people": (
        Q35,
        [
            ("send-key", {"keys": [{"type": "qcode", "data": "a"}]}),
            ("send-key", {"keys": [{"type": "number", "data": 300}]}),
            ("human-monitor-command", {"command-line": "info status"}),
            ("human-monitor-command", {"command-line": "nosuch"}),
            ("screendump", {"filename": "/nosuch/x"}),
            "inject-nmi",
            ("balloon", {"value": 1}),
            "query-balloon",
            "query-iothreads",
            "query-vnc",
            "query-memory-size-summary",
            "query-target",
        ],
    ),
    "netdev": (
        Q35,
        [
            ("netdev_add", {"type": "hubport", "id": "n0", "hubid": 0}),
            ("netdev_add", {"type": "hubport", "id": "n0", "hubid": 0}),
            ("set_link", {"name": "n0", "up": False}),
            ("set_link", {"name": "nosuch", "up": False}),
            ("netdev_del", {"id": "n0"}),
            ("netdev_del", {"id": "n0"}),
        ],
    ),
    "objects": (
        ["-M", "none", "-S"],
        [
            ("object-add", {"qom-type": "iothread", "id": "io0"}),
            ("object-add", {"qom-type": "iothread", "id": "io0"}),
            ("object-add", {"qom-type": "secret", "id": "s0", "data": "x"}),
            ("object-add", {"qom-type": "secret", "id": "s1"}),
            ("qom-list", {"path": "/objects"}),
            ("qom-get", {"path": "/objects/io0", "property": "poll-max-ns"}),
            ("qom-set", {"path": "/objects/io0", "property": "poll-max-ns", "value": 7}),
            ("qom-get", {"path": "/objects/io0", "property": "poll-max-ns"}),
            ("qom-get", {"path": "/objects/io0", "property": "nosuch"}),
            ("qom-get", {"path": "/objects/nosuch", "property": "type"}),
            ("object-del", {"id": "io0"}),
            ("object-del", {"id": "io0"}),
        ],
    ),
    "chardevs": (
        ["-M", "none", "-S"],
        [
            ("chardev-add", {"id": "c0", "backend": {"type": "null", "data": {}}}),
            ("chardev-add", {"id": "c0", "backend": {"type": "null", "data": {}}}),
            ("chardev-add", {"id": "c1", "backend": {"type": "ringbuf", "data": {"size": 64}}}),
            ("chardev-add", {"id": "c2", "backend": {"type": "ringbuf", "data": {"size": 65}}}),
            ("ringbuf-write", {"device": "c1", "data": "hello"}),
            ("ringbuf-read", {"device": "c1", "size": 3}),
            ("ringbuf-read", {"device": "c0", "size": 3}),
            ("chardev-remove", {"id": "c0"}),
            ("chardev-remove", {"id": "c0"}),
        ],
    ),
    "block-nodes": (
        ["-M", "none", "-S"],
        [
            null_node("a"),
            null_node("a"),
            null_node("0bad"),
            ("blockdev-add", {"driver": "raw", "node-name": "b", "file": "a"}),
            ("blockdev-add", {"driver": "raw", "node-name": "c", "file": "nosuch"}),
            ("blockdev-add", {"driver": "raw", "node-name": "c", "file": "a", "size": 3 << 20}),
            ("blockdev-del", {"node-name": "a"}),
            ("blockdev-del", {"node-name": "b"}),
            ("blockdev-del", {"node-name": "a"}),
            ("blockdev-del", {"node-name": "a"}),
            "query-named-block-nodes",
            "query-block",
        ],
    ),
    "bitmaps": (
        ["-M", "none", "-S"],
        [
            null_node("a"),
            ("block-dirty-bitmap-add", {"node": "a", "name": "m"}),
            ("block-dirty-bitmap-add", {"node": "a", "name": "m"}),
            ("block-dirty-bitmap-add", {"node": "a", "name": "n", "granularity": 3}),
            ("block-dirty-bitmap-disable", {"node": "a", "name": "m"}),
            ("block-dirty-bitmap-clear", {"node": "a", "name": "m"}),
            ("block-dirty-bitmap-remove", {"node": "a", "name": "m"}),
            ("block-dirty-bitmap-remove", {"node": "a", "name": "m"}),
            ("block-dirty-bitmap-remove", {"node": "nosuch", "name": "m"}),
        ],
    ),
    "block-jobs": (
        ["-M", "none", "-S"],
        [
            null_node("src"),
            null_node("dst"),
            null_node("small", 1 << 16),
            ("blockdev-mirror", {"device": "src", "target": "small", "sync": "full"}),
            (
                "blockdev-mirror",
                {"job-id": "m", "device": "src", "target": "small", "sync": "full"},
            ),
            (
                "blockdev-backup",
                {"job-id": "b", "device": "src", "target": "dst", "sync": "full"},
            ),
            job_ends("b"),
            ("block-job-cancel", {"device": "b"}),
            ("job-cancel", {"id": "nosuch"}),
            "query-jobs",
            "query-block-jobs",
        ],
    ),
    "mirror-and-complete": (
        ["-M", "none", "-S"],
        [
            null_node("src"),
            null_node("dst"),
            ("blockdev-mirror", {"job-id": "m", "device": "src", "target": "dst", "sync": "full"}),
            Wait("BLOCK_JOB_READY", {"device": "m"}),
            ("job-pause", {"id": "m"}),
            ("job-pause", {"id": "m"}),
            ("job-resume", {"id": "m"}),
            ("job-finalize", {"id": "m"}),
            ("block-job-complete", {"device": "m"}),
            job_ends("m"),
            "query-jobs",
        ],
    ),
    "migration": (
        Q35,
        [
            "query-migrate",
            (
                "migrate-set-capabilities",
                {"capabilities": [{"capability": "events", "state": True}]},
            ),
            ("migrate-set-parameters", {"max-bandwidth": 1000000}),
            "migrate_cancel",
            "migrate-pause",
            ("migrate", {"uri": "nosuch"}),
            ("migrate", {"uri": "exec:cat >/dev/null", "blk": 1}),
            ("migrate-incoming", {"uri": "defer"}),
            "query-migrate",
        ],
    ),
    "descriptors": (
        ["-M", "none", "-S"],
        [
            ("getfd", {"fdname": "a"}),
            ("closefd", {"fdname": "a"}),
            "query-fdsets",
            ("remove-fd", {"fdset-id": 1}),
            "add-fd",
        ],
    ),
    "dump": (
        Q35,
        [
            ("dump-guest-memory", {"paging": False, "protocol": "nosuch:x"}),
            ("dump-guest-memory", {"paging": False, "protocol": "fd:nosuch"}),
            ("dump-guest-memory", {"paging": False, "protocol": "file:x", "begin": 0}),
            "query-dump",
        ],
    ),
}


def binary_of(version: str) -> str | None:
    """A QEMU of that version: the one on the PATH, or one that was unpacked."""
    unpacked = UNPACKED / version / "usr" / "bin" / "qemu-system-x86_64"
    for path in (shutil.which("qemu-system-x86_64"), str(unpacked)):
        if path is None or not os.access(path, os.X_OK):
            continue
        command = [path, "--version"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"version (\d+\.\d+)\.", shown)
        if found and found[1] == version:
            return path
    return None


@pytest.fixture(scope="module", params=VERSIONS)
def version_and_binary(request: pytest.FixtureRequest) -> tuple[str, str]:
    version = str(request.param)
    binary = binary_of(version)
    if binary is None:
        pytest.skip(f"there is no QEMU {version} here; scripts/unpack-qemu gets one")
    return version, binary


@pytest.fixture
def real(version_and_binary: tuple[str, str], tmp_path: Path) -> Iterator[Any]:
    processes: list[subprocess.Popen[bytes]] = []

    def connect(args: list[str]) -> socket.socket:
        ours, theirs = socket.socketpair()
        wiring = [f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"]
        argv = [version_and_binary[1], *BASE, *args, "-chardev", *wiring]
        processes.append(subprocess.Popen(argv, pass_fds=[theirs.fileno()], cwd=tmp_path, stdin=-3))
        theirs.close()
        return ours

    yield connect
    for process in processes:
        process.kill()
        process.wait()


def is_wanted(message: dict[str, Any], wait: Wait) -> bool:
    data = message.get("data", {})
    return message.get("event") == wait.event and wait.data.items() <= data.items()


def converse(sock: socket.socket, steps: list[Step]) -> list[str]:
    """All that was said, a line each, without what differs from run to run."""
    client = LineClient(sock)
    lines: list[str] = []
    steps = steps if steps[-1] == "quit" else [*steps, "query-name"]
    # A QEMU that ends with a command unread resets the connection.
    with suppress(ConnectionError):
        for number, (step, following) in enumerate(zip(steps, [*steps[1:], None], strict=True)):
            if isinstance(step, Wait):
                continue
            name, arguments = step if isinstance(step, tuple) else (step, None)
            request: dict[str, Any] = {"execute": name, "id": number}
            if arguments is not None:
                request["arguments"] = arguments
            client.send(request)
            wait = following if isinstance(following, Wait) else None
            lines.append(f"> {name} {arguments}")
            lines += answers(client, number, wait)
    client.close()
    return lines


def answers(client: LineClient, number: int, wait: Wait | None) -> list[str]:
    """What comes up to a reply; where something else is waited for, the reply stands last.

    A job may have done something before the reply to the command that started it, or not.
    """
    events: list[str] = []
    reply = ""
    while not reply or wait is not None:
        try:
            message = client.read()
        except TimeoutError:
            pytest.fail(f"{wait} did not come; what came is:\n" + "\n".join([*events, reply]))
        if message is None:
            return [*events, "EOF"]
        message.pop("timestamp", None)
        text = json.dumps(message, sort_keys=True)
        if message.get("id") == number:
            reply = text
            continue
        events.append(text)
        if wait is not None and is_wanted(message, wait):
            wait = None
    return [*events, reply]


@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_agree(version_and_binary: tuple[str, str], real: Any, name: str) -> None:
    args, steps = CONVERSATIONS[name]
    with FakeQMPServer(version_and_binary[0], args=[*BASE, *args]) as server:
        fake = converse(server.open_monitor(), steps)
    assert fake == converse(real(args), steps)
