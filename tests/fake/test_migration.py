"""Migration, by a real QEMU and by the fake: to each other's kind, and what comes of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp.errors import UnmodelledCommandError
from pytest_qmp.fake import FakeQMPServer

from .client import LIMIT, LineClient

VERSIONS = ("7.2", "10.0", "11.1")
UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "qemu"
BASE = ["-accel", "tcg", "-nodefaults", "-display", "none"]
MACHINE = ["-M", "pc", "-m", "16"]
DISCARD = "exec:cat>/dev/null"


class Machine(LineClient):
    """A monitor that keeps the events that come between the replies."""

    def __init__(self, sock: socket.socket) -> None:
        self.events: list[str] = []
        super().__init__(sock)

    def ask(self, command: str, **arguments: Any) -> Any:
        """The reply to a command."""
        self.send({"execute": command, "arguments": arguments})
        while "event" in (message := self.read()):
            self._keep(message)
        return message.get("return", message.get("error", {}).get("desc"))

    def until(self, event: str) -> list[str]:
        """The events that came until one has come, that one included; they are taken."""
        while event not in self.events:
            message = self.read()
            if message is None:
                pytest.fail(f"QEMU ended before {event}, after {self.events}")
            self._keep(message)
        taken, self.events = self.events, []
        return taken

    def enable(self, *capabilities: str) -> Any:
        states = [{"capability": name, "state": True} for name in capabilities]
        return self.ask("migrate-set-capabilities", capabilities=states)

    def run_state(self) -> str:
        return str(self.ask("query-status")["status"])

    def wait_for_run_state(self, status: str) -> None:
        """Some states come a moment after the event that tells of them."""
        deadline = time.monotonic() + LIMIT
        while (seen := self.run_state()) != status:
            if time.monotonic() > deadline:
                pytest.fail(f"the run state is not {status} but {seen}")

    def wait_for_migration(self, status: str) -> dict[str, Any]:
        """What ``query-migrate`` says once the migration has a status."""
        deadline = time.monotonic() + LIMIT
        while (info := self.ask("query-migrate")).get("status") != status:
            if time.monotonic() > deadline:
                pytest.fail(f"the migration is not {status} but {info}")
        return dict(info)

    def _keep(self, message: dict[str, Any]) -> None:
        data = message.get("data", {})
        self.events.append(str(data.get("status") or data.get("pass") or message["event"]))


Start = Callable[..., Machine]


def binary_of(version: str) -> str | None:
    unpacked = UNPACKED / version / "usr" / "bin" / "qemu-system-x86_64"
    if unpacked.exists():
        return str(unpacked)
    installed = shutil.which("qemu-system-x86_64")
    if installed is None:
        return None
    shown = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
    return installed if f"version {version}." in shown.stdout else None


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.needs_qemu)])
def start(request: pytest.FixtureRequest, version: str) -> Iterator[Start]:
    """Starts machines of a version, real ones and fakes."""
    on_fake = request.param == "fake"
    binary = None if on_fake else binary_of(version)
    if not on_fake and binary is None:
        pytest.skip(f"there is no QEMU {version} here")
    servers: list[FakeQMPServer] = []
    processes: list[subprocess.Popen[bytes]] = []
    machines: list[Machine] = []

    def begin(*args: str) -> Machine:
        argv = [*BASE, *MACHINE, *args]
        if on_fake:
            servers.append(FakeQMPServer(version, args=argv).start())
            sock = servers[-1].open_monitor()
        else:
            sock, theirs = socket.socketpair()
            monitor = ["-chardev", f"socket,id=m,fd={theirs.fileno()}"]
            command = [str(binary), *argv, *monitor, "-mon", "chardev=m,mode=control"]
            processes.append(
                subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
            )
            theirs.close()
        machines.append(Machine(sock))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()
    for server in servers:
        server.close()
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def path() -> Iterator[str]:
    """The path of a socket or a file, short enough for both."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        yield os.path.join(folder, "m")


def expected_events(version: str, *, stops: bool) -> list[str]:
    stop = ["STOP"] if stops else []
    return {
        "7.2": ["setup", "1", "active", *stop, "2", "completed"],
        "10.0": ["setup", "1", "active", *stop, "device", "2", "completed"],
        "11.1": ["setup", "active", "2", *stop, "device", "completed"],
    }[version]


def test_away_and_back_to_life(start: Start, version: str) -> None:
    machine = start("-S")
    machine.enable("events")
    assert machine.ask("migrate", uri=DISCARD) == {}
    assert machine.until("completed") == expected_events(version, stops=False)
    machine.wait_for_run_state("postmigrate")
    refusal = machine.ask("migrate", uri=DISCARD)
    assert refusal == "Can't migrate the vm that was paused due to previous migration"
    assert machine.ask("cont") == {}
    assert machine.run_state() == "running"


def test_what_is_said_of_the_memory(start: Start, version: str) -> None:
    machine = start("-S")
    machine.ask("migrate", uri=DISCARD)
    info = machine.wait_for_migration("completed")
    ram = info["ram"]
    assert set(info) == {"status", "ram", "setup-time", "total-time", "downtime"}
    assert ram["total"] == 17309696
    normal = {"7.2": 49, "10.0": 51, "11.1": 49}[version]
    assert (ram["normal"], ram["duplicate"]) == (normal, 4226 - normal)
    assert ram["transferred"] == {"7.2": 238781, "10.0": 358982, "11.1": 347930}[version]


@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize("paused", [True, False], ids=["paused", "autostart"])
def test_from_one_machine_to_another(
    start: Start, version: str, path: str, way: str, paused: bool
) -> None:
    destination = start("-incoming", "defer", *(["-S"] if paused else []))
    destination.enable("events")
    uri = f"unix:{path}" if way == "unix" else "tcp:127.0.0.1:0"
    assert destination.ask("migrate-incoming", uri=uri) == {}
    assert destination.events == ["setup"]
    if way == "tcp":
        (shown,) = destination.ask("query-migrate")["socket-address"]
        uri = f"tcp:{shown['host']}:{shown['port']}"
    source = start("-S")
    source.ask("cont")
    source.enable("events")
    source.events.clear()
    source.ask("migrate", uri=uri)
    events = source.until("completed")
    assert [event for event in events if not event.isdecimal()] == [
        event for event in expected_events(version, stops=True) if not event.isdecimal()
    ]
    resume = [] if paused else ["RESUME"]
    assert destination.until("completed") == ["setup", "active", *resume, "completed"]
    destination.wait_for_run_state("paused" if paused else "running")
    assert destination.ask("query-migrate") == {"status": "completed"}
    source.wait_for_run_state("postmigrate")


def test_the_state_of_a_stopped_source_comes_along(start: Start, path: str) -> None:
    destination = start("-incoming", f"unix:{path}")
    source = start("-S")
    source.ask("cont")
    source.ask("stop")
    source.ask("migrate", uri=f"unix:{path}")
    source.wait_for_migration("completed")
    destination.wait_for_migration("completed")
    destination.wait_for_run_state("paused")


def test_through_a_file(start: Start, version: str, path: str) -> None:
    source = start("-S")
    uri = f"exec:cat>{path}" if version == "7.2" else f"file:{path}"
    assert source.ask("migrate", uri=uri) == {}
    source.wait_for_migration("completed")
    destination = start("-incoming", "defer")
    again = f"exec:cat {path}" if version == "7.2" else f"file:{path}"
    assert destination.ask("migrate-incoming", uri=again) == {}
    destination.wait_for_migration("completed")
    destination.wait_for_run_state("prelaunch")


def test_a_pause_before_the_switchover(start: Start, path: str) -> None:
    destination = start("-incoming", f"unix:{path}", "-S")
    source = start("-S")
    source.enable("events", "pause-before-switchover")
    source.ask("migrate", uri=f"unix:{path}")
    source.until("pre-switchover")
    assert source.run_state() == "finish-migrate"
    assert source.ask("cont") == "Migration is not finalized yet"
    wrong = source.ask("migrate-continue", state="device")
    assert wrong == "Migration not in expected state: pre-switchover"
    assert source.ask("migrate-continue", state="pre-switchover") == {}
    assert "device" in source.until("completed")
    source.wait_for_run_state("postmigrate")
    destination.wait_for_migration("completed")


def test_cancelled_while_nobody_reads(start: Start) -> None:
    machine = start("-S")
    machine.enable("events")
    machine.ask("migrate", uri="exec:sleep 0.6")
    machine.until("active")
    assert machine.ask("migrate", uri=DISCARD) == "There's a migration process in progress"
    assert machine.enable("xbzrle") == "There's a migration process in progress"
    assert machine.ask("migrate_cancel") == {}
    assert machine.events == ["cancelling"]
    # QEMU's own thread may be done with it by now.
    assert machine.ask("query-migrate")["status"] in ("cancelling", "cancelled")
    assert machine.until("cancelled") == ["cancelling", "cancelled"]
    assert machine.ask("query-migrate") == {"status": "cancelled"}
    assert machine.run_state() == "prelaunch"
    assert machine.ask("migrate", uri=DISCARD) == {}
    machine.until("completed")


def test_a_command_that_ends_too_soon(start: Start, version: str) -> None:
    machine = start("-S")
    machine.enable("events")
    machine.ask("migrate", uri="exec:sleep 0.3")
    ending = ["failed"] if version != "11.1" else ["failing", "failed"]
    assert machine.until("failed")[-len(ending) :] == ending
    info = machine.ask("query-migrate")
    assert info == {"status": "failed", "error-desc": "Unable to write to command: Broken pipe"}
    assert machine.run_state() == "prelaunch"


def test_an_answer_that_a_command_does_not_give(start: Start, version: str) -> None:
    machine = start("-S")
    machine.enable("events", "return-path")
    machine.ask("migrate", uri=DISCARD)
    machine.until("device" if version != "7.2" else "2")
    machine.wait_for_run_state("finish-migrate")
    assert machine.ask("migrate_cancel") == {}
    assert machine.events[-1:] == ["cancelling"]
    # What is asked later a real QEMU may never answer: it waits for what does not come.
    assert machine.ask("query-migrate")["status"] == "cancelling"


def test_credentials_that_are_not_there(start: Start) -> None:
    machine = start("-S")
    machine.ask("migrate-set-parameters", **{"tls-creds": "nosuch"})
    assert machine.ask("migrate", uri=DISCARD) == {}
    info = machine.wait_for_migration("failed")
    assert info["error-desc"] == "No TLS credentials with id 'nosuch'"


def test_nobody_at_the_address(start: Start, path: str) -> None:
    machine = start("-S")
    assert machine.ask("migrate", uri=f"unix:{path}") == {}
    info = machine.wait_for_migration("failed")
    assert info["error-desc"] == f"Failed to connect to '{path}': No such file or directory"


def test_what_is_refused_to_a_destination(start: Start, path: str) -> None:
    machine = start("-incoming", "defer")
    refusal = machine.ask("migrate-incoming", uri="nosuch:x")
    assert refusal == "unknown migration protocol: nosuch:x"
    assert machine.ask("migrate-incoming", uri=f"unix:{path}") == {}
    again = machine.ask("migrate-incoming", uri=f"unix:{path}")
    assert again == "The incoming migration has already been started"
    assert machine.ask("migrate", uri=DISCARD) == "Guest is waiting for an incoming migration"
    assert machine.run_state() == "inmigrate"


def test_cont_at_the_destination_lets_it_start(start: Start, path: str) -> None:
    destination = start("-incoming", f"unix:{path}", "-S")
    assert destination.ask("cont") == {}
    assert destination.run_state() == "inmigrate"
    source = start("-S")
    source.ask("cont")
    source.ask("migrate", uri=f"unix:{path}")
    source.wait_for_migration("completed")
    assert destination.until("RESUME") == ["RESUME"]


def test_garbage_ends_a_destination(start: Start) -> None:
    machine = start("-incoming", "defer")
    machine.ask("migrate-incoming", uri="exec:echo garbage")
    assert machine.at_eof()


def test_preconfig(start: Start) -> None:
    machine = start("--preconfig")
    assert machine.run_state() == "prelaunch"
    refusal = machine.ask("stop", nosuch=1)
    assert "'stop' is permitted only after machine initialization has completed" in refusal
    assert machine.ask("x-exit-preconfig") == {}
    assert machine.events == ["RESUME"]
    assert "only before machine initialization" in machine.ask("x-exit-preconfig")


def test_how_fast_the_memory_changes(start: Start, version: str) -> None:
    machine = start("-S")
    assert machine.ask("query-dirty-rate")["status"] == "unstarted"
    out_of_range = {
        "7.2": "calc-time is out of range[1, 60].",
        "10.0": "Calculation time is out of range [50ms, 60000ms].",
        "11.1": "Calculation time is out of range [50ms, 60000ms].",
    }[version]
    assert machine.ask("calc-dirty-rate", **{"calc-time": 61}) == out_of_range
    few = machine.ask("calc-dirty-rate", **{"calc-time": 1, "sample-pages": 1})
    assert few == "sample-pages is out of range[128, 16384]."
    assert machine.ask("calc-dirty-rate", **{"calc-time": 1}) == {}
    again = machine.ask("calc-dirty-rate", **{"calc-time": 1})
    # QEMU's own thread may not have begun by now.
    assert again in ({}, "the dirty rate is already being measured.")
    deadline = time.monotonic() + LIMIT
    while (info := machine.ask("query-dirty-rate"))["status"] != "measured":
        assert time.monotonic() < deadline
    assert (info["dirty-rate"], info["sample-pages"], info["calc-time"]) == (0, 512, 1)


# -- the fake alone --------------------------------------------------------------------------------


def opened(server: FakeQMPServer) -> AbstractContextManager[Machine]:
    return closing(Machine(server.open_monitor()))


def test_bandwidth_takes_the_machine_s_time(version: str) -> None:
    with (
        FakeQMPServer(version, args=["-S", *MACHINE], virtual_time=True) as server,
        opened(server) as machine,
    ):
        machine.ask("migrate-set-parameters", **{"max-bandwidth": 100000})
        machine.ask("migrate", uri=DISCARD)
        assert machine.ask("query-migrate")["status"] == "active"
        server.advance(1.0)
        info = machine.ask("query-migrate")
        assert info["status"] == "active"
        assert 0 < info["ram"]["remaining"] < info["ram"]["total"]
        server.advance(3.0)
        assert machine.wait_for_migration("completed")["total-time"] > 2000


def test_a_descriptor_that_was_passed(version: str) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        FakeQMPServer(version, args=["-S", *MACHINE]) as source,
        FakeQMPServer(version, args=["-S", *MACHINE, "-incoming", "defer"]) as destination,
        opened(source) as giver,
        opened(destination) as taker,
    ):
        for machine, end in ((giver, theirs), (taker, ours)):
            message = b'{"execute":"getfd","arguments":{"fdname":"m"}}'
            socket.send_fds(machine.sock, [message], [end.fileno()])
            assert machine.read() == {"return": {}}
        theirs.close()
        assert taker.ask("migrate-incoming", uri="fd:m") == {}
        assert giver.ask("migrate", uri="fd:m") == {}
        giver.wait_for_migration("completed")
        taker.wait_for_migration("completed")


def test_what_is_not_modelled_says_so() -> None:
    with FakeQMPServer("11.1", args=["-S", *MACHINE]) as server, opened(server) as machine:
        assert "vsock" in machine.ask("migrate", uri="vsock:1:2")
        with pytest.raises(UnmodelledCommandError, match="migrate"):
            server.check()


def test_a_command_of_a_migration_ends_with_the_server() -> None:
    with FakeQMPServer("11.1", args=["-S", *MACHINE]) as server, opened(server) as machine:
        machine.ask("migrate", uri="exec:exec sleep 60")
        assert machine.ask("query-migrate")["status"] == "active"
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT
