"""``vm.guest``: the guest agent of a machine that has a port for it."""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import linux_guest
import pytest

from pytest_qmp import (
    Drive,
    FakeQMPServerError,
    GuestAgentClient,
    NeedsRealGuestError,
    QMPCommandError,
    QMPDisconnectedError,
    QMPTimeoutError,
    VirtualMachine,
    VMConfig,
    VMError,
    VMVerdictError,
)
from tests.guests import debian
from tests.vm.every_backend import EVERY_QEMU, config_of

LIMIT = 60

#: Debian's own would need its service manager.
SHUTDOWN = """\
#!/bin/sh
case "$*" in
    *-r*) exec reboot -f ;;
    *-H*) kill -9 $(pidof qemu-ga) ;;
    *) exec poweroff -f ;;
esac
"""


def linux(arch: str = "x86_64", **fields: Any) -> VMConfig:
    """The examples' Linux with Debian's agent in it."""
    try:
        guest = debian.linux_with("qemu-guest-agent", arch=arch)
    except debian.GuestBuildError as error:
        pytest.skip(str(error))
    return VMConfig(
        arch=arch,
        accel="tcg",
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        memory="256M",
        guest_agent=True,
        timeout=LIMIT,
    ).replace(**fields)


def start_agent(vm: VirtualMachine) -> None:
    """Types its command at the guest's shell, which has just asked for one."""
    vm.console.sendline("mkdir -p /run; qemu-ga -m virtio-serial -p /dev/vport0p1 -t /tmp &")
    vm.console.expect_exact(linux_guest.PROMPT)


def can_shut_down(vm: VirtualMachine) -> None:
    vm.guest.write_file("/sbin/shutdown", SHUTDOWN)
    vm.guest.exec(["chmod", "+x", "/sbin/shutdown"])


@pytest.fixture(scope="module")
def running() -> Iterator[VirtualMachine]:
    """Booted once, with an agent that runs and a disk with a file system on it."""
    with VirtualMachine(linux(drives=[Drive.empty("4M")], hotplug_slots=1)) as vm:
        vm.console.expect_exact(linux_guest.PROMPT)
        start_agent(vm)
        yield vm


@pytest.mark.needs_qemu
class TestARunningGuest:
    def test_programs_and_files(self, running: VirtualMachine) -> None:
        guest = running.guest
        assert isinstance(guest, GuestAgentClient)
        assert guest is running.guest
        guest.ping()
        assert guest.exec(["echo", "hello"]).output == b"hello\n"
        failed = guest.exec(["sh", "-c", "cat; echo no >&2; exit 3"], "yes", env={})
        assert (failed.status, failed.output, failed.error) == (3, b"yes", b"no\n")
        guest.write_file("/tmp/it", "dätä")
        assert guest.read_file("/tmp/it") == "dätä".encode()

    def test_what_it_is(self, running: VirtualMachine) -> None:
        guest = running.guest
        assert int(guest.info()["version"].split(".")[0]) >= 7
        commands = guest.supported_commands()
        assert commands == sorted(commands)
        assert {"guest-exec", "guest-ping"} <= set(commands)
        assert guest.hostname() == "guest"
        assert guest.os_info()["machine"] == "x86_64"
        (loopback,) = (one for one in guest.network_interfaces() if one["name"] == "lo")
        addresses = {one["ip-address"] for one in loopback["ip-addresses"]}
        assert "127.0.0.1" in addresses

    def test_snippet_of_the_documentation(self, running: VirtualMachine) -> None:
        snippet = Path(__file__).parents[2] / "docs" / "snippets" / "use_guest_agent.py"
        runpy.run_path(str(snippet))["look_into"](running)

    def test_its_clock(self, running: VirtualMachine) -> None:
        guest = running.guest
        guest.exec(["ln", "-sf", "/bin/busybox", "/sbin/hwclock"])
        guest.set_time(1e9)
        assert 0 <= guest.get_time() - 1e9 < LIMIT
        moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
        guest.set_time(moment)
        assert 0 <= guest.get_time() - moment.timestamp() < LIMIT
        before = time.time()
        guest.exec(["hwclock", "-s"])
        guest.set_time()
        assert guest.get_time() != pytest.approx(before, abs=1e6)  # the RTC was set with it

    def test_its_file_systems_freeze(self, running: VirtualMachine) -> None:
        guest = running.guest
        assert guest.exec(["mke2fs", "/dev/vda"]).status == 0
        assert guest.exec(["sh", "-c", "mkdir /disk; mount /dev/vda /disk"]).status == 0
        assert guest.fsfreeze_status() == "thawed"
        with guest.fsfreeze() as frozen:
            assert frozen.count == 1
            assert guest.fsfreeze_status() == "frozen"
            guest.ping()
            with pytest.raises(QMPCommandError, match="because the file systems are frozen"):
                guest.exec(["true"])
        assert guest.fsfreeze_status() == "thawed"

        frozen = guest.fsfreeze(["/disk"])
        assert (frozen.count, frozen.thaw()) == (1, 1)
        assert guest.fsthaw() == 0
        with pytest.raises(TypeError, match=r"as in \['/disk'\]"):
            guest.fsfreeze("/disk")
        with pytest.raises(ZeroDivisionError), guest.fsfreeze():
            _ = 1 / 0
        assert guest.fsfreeze_status() == "thawed"

    def test_a_disk_comes_and_goes(self, running: VirtualMachine) -> None:
        image = running.create_disk("1M", "raw")
        image.write_bytes(b"on the disk".ljust(1 << 20))
        with running.blockdev(image) as node:
            disk = running.hotplug("virtio-blk-pci", drive=node)
            read = "until [ -b /dev/vdb ]; do sleep 0.1; done; head -c 11 /dev/vdb"
            assert running.guest.exec(["sh", "-c", read]).output == b"on the disk"
            with pytest.raises(QMPCommandError, match="is in use"):
                node.remove()
            running.unplug(disk)

    def test_a_shutdown_that_it_refuses(self, running: VirtualMachine) -> None:
        with pytest.raises(QMPCommandError, match="refused 'guest-shutdown'"):
            running.guest.shutdown()
        with pytest.raises(ValueError, match="'powerdown', 'reboot' or 'halt', not 'off'"):
            running.guest.shutdown("off")  # type: ignore[arg-type]
        running.guest.ping()

    def test_an_agent_that_ends_and_comes_again(self, running: VirtualMachine) -> None:
        guest = running.guest
        kill = "(sleep 0.2; kill -9 $(pidof qemu-ga)) </dev/null >/dev/null 2>&1 &"
        guest.exec(["sh", "-c", kill])
        with pytest.raises(
            QMPDisconnectedError, match="closed the guest agent's port while the reply to 'guest-e"
        ):
            guest.exec(["sleep", "50"])
        with pytest.raises(QMPTimeoutError, match="to open the guest agent's port again, in vain"):
            guest.ping(timeout=0.1)
        start_agent(running)
        assert guest.exec(["echo", "again"]).output == b"again\n"

    def test_a_reboot(self, running: VirtualMachine) -> None:
        can_shut_down(running)
        event = running.guest.shutdown("reboot")
        assert event is not None
        assert event.data["guest"]
        assert running.wait_for_event("RESET").data == event.data
        running.console.expect_exact(linux_guest.PROMPT)
        start_agent(running)
        assert running.guest.exec(["echo", "after"]).output == b"after\n"

    def test_a_halt(self, running: VirtualMachine) -> None:
        can_shut_down(running)
        event = running.guest.shutdown("halt")
        assert event is not None
        assert event.data == {"open": False, "id": "guest-agent-port"}
        start_agent(running)

    def test_the_end_of_the_machine(self, running: VirtualMachine) -> None:
        # A wait for it ends with what happens to the machine, too.
        assert running.pid is not None
        running.guest.ping()
        threading.Timer(0.2, os.kill, (running.pid, signal.SIGKILL)).start()
        with pytest.raises(VMVerdictError, match=r"killed by SIGKILL.*'guest-exec"):
            running.guest.exec(["sleep", "50"])


@pytest.mark.needs_qemu
def test_a_shutdown_on_the_newest_qemu() -> None:
    with VirtualMachine(linux(qemu=config_of("11.1").qemu)) as vm:
        vm.console.expect_exact(linux_guest.PROMPT)
        start_agent(vm)
        can_shut_down(vm)
        assert vm.guest.shutdown().data == {"guest": True, "reason": "guest-shutdown"}
        assert vm.wait() == 0
        with pytest.raises(QMPDisconnectedError):
            vm.guest.ping()


@pytest.mark.parametrize("name", EVERY_QEMU)
@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_each_machine_has_a_port(name: str, machine: str) -> None:
    config = config_of(name).replace(machine=machine, guest_agent=True, paused=True)
    with VirtualMachine(config) as vm:
        (port,) = (one for one in vm.execute("query-chardev") if one["label"] == "guest-agent")
        assert not port["frontend-open"]


@pytest.mark.needs_qemu
def test_a_guest_without_an_agent() -> None:
    config = VMConfig(accel="tcg", machine="pc", guest_agent=True, paused=True, timeout=3)
    with VirtualMachine(config) as vm:
        for _ in range(2):  # what was not there in time is waited for again
            with pytest.raises(
                QMPTimeoutError, match="that qemu-guest-agent is installed and runs"
            ):
                _ = vm.guest


@pytest.mark.needs_qemu
def test_a_machine_without_a_port() -> None:
    with (
        VirtualMachine(accel="tcg", machine="none") as vm,
        pytest.raises(VMError, match=r"VMConfig\(guest_agent=True\) gives it one"),
    ):
        _ = vm.guest


def test_an_agent_that_the_fake_plays() -> None:
    with VirtualMachine(backend="fake", guest_agent=True) as vm:
        agent = vm.fake.guest.agent
        agent.on("guest-get-host-name", {"host-name": "fake"})
        agent.on_exec(lambda argv, given: (3, given.upper()) if argv == ["tr"] else "done")
        agent.files["/etc/given"] = b"x" * 600_000
        assert vm.guest.hostname() == "fake"
        result = vm.guest.exec(["tr"], "yes")
        assert (result.status, result.output) == (3, b"YES")
        assert vm.guest.exec(["ls", "-l"]).output == b"done"
        assert agent.calls[-2] == (
            "guest-exec",
            {"path": "ls", "arg": ["-l"], "capture-output": True},
        )
        assert vm.guest.read_file("/etc/given") == agent.files["/etc/given"]
        vm.guest.write_file("/new", b"data" * 100_000)
        assert agent.files["/new"] == b"data" * 100_000
        with pytest.raises(QMPCommandError, match="No such file or directory"):
            vm.guest.read_file("/none")
        with pytest.raises(QMPCommandError, match="did you mean 'guest-get-host-name'"):
            vm.guest.guest_get_hostname()

        def refuse(arguments: dict[str, Any]) -> None:
            raise QMPCommandError("GenericError", "not now")

        agent.on("guest-fsfreeze-freeze", refuse)
        with pytest.raises(QMPCommandError, match="GenericError: not now"):
            vm.guest.fsfreeze()
        with pytest.raises(FakeQMPServerError, match="begins with guest-"):
            agent.on("query-status")

        agent.on("guest-shutdown", lambda arguments: vm.fake.guest.reset())
        event = vm.guest.shutdown("reboot")
        assert event is not None
        assert event.name == "RESET"
        vm.guest.ping()
        agent.on("guest-shutdown", lambda arguments: vm.fake.guest.poweroff())
        event = vm.guest.shutdown()
        assert event is not None
        assert event.name == "SHUTDOWN"
        assert vm.wait() == 0


def test_the_fake_has_no_agent() -> None:
    with VirtualMachine(backend="fake", guest_agent=True) as vm, pytest.raises(NeedsRealGuestError):
        _ = vm.guest
