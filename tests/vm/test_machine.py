"""The machine's life and helpers: the same behaviour on the fake and on a real QEMU."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_qmp import (
    NeedsRealGuestError,
    QMPAddressError,
    QMPConnectError,
    QMPDisconnectedError,
    QMPTimeoutError,
    UnmodelledCommandError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMError,
    VMLaunchError,
)
from pytest_qmp.fake.server import FakeQMPServer
from pytest_qmp.fixtures import VMFactory
from tests import guests

BACKENDS = ["fake", pytest.param("qemu", marks=pytest.mark.needs_qemu)]


@pytest.fixture(params=BACKENDS)
def config(request: pytest.FixtureRequest) -> VMConfig:
    """A machine without a guest, on each backend."""
    return VMConfig(backend=request.param, accel="tcg", timeout=20)


@pytest.fixture
def vm(config: VMConfig) -> Iterator[VirtualMachine]:
    """A started one."""
    with VirtualMachine(config) as machine:
        yield machine


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[VirtualMachine]:
    """A real machine whose guest prints a banner and then spins."""
    fields = guests.overrides("spin", tmp_path, banner="alive")
    with VirtualMachine(accel="tcg", timeout=20, **fields) as machine:
        machine.console.expect_exact("alive")
        yield machine


# -- on both ---------------------------------------------------------------------------------------


def test_a_started_machine_runs(vm: VirtualMachine) -> None:
    assert vm.status == "running"
    vm.assert_status("running")
    assert vm.exit_status is None


def test_paused(config: VMConfig) -> None:
    with VirtualMachine(config, paused=True) as vm:
        vm.assert_status("prelaunch")
        vm.cont()
        assert vm.wait_for_status("running") == "running"


def test_a_machine_starts_without_a_history(vm: VirtualMachine) -> None:
    assert vm.events.names() == []
    vm.stop()
    with pytest.raises(QMPTimeoutError):
        vm.wait_for_event("RESUME", timeout=0.05)
    vm.cont()
    assert vm.wait_for_event("RESUME")
    assert vm.events.names() == ["STOP", "RESUME"]


@pytest.mark.parametrize("args", [["-S"], ["-incoming", "defer"]])
def test_arguments_that_say_how_it_begins_are_kept(config: VMConfig, args: list[str]) -> None:
    with VirtualMachine(config, args=args) as vm:
        vm.wait_for_status(["prelaunch", "inmigrate"])
        vm.assert_no_event("RESUME")


def test_stop_and_cont_leave_their_events_to_be_waited_for(vm: VirtualMachine) -> None:
    vm.stop()
    vm.assert_status("paused")
    vm.wait_for_event("STOP")
    with vm.expect_event("RESUME"):
        vm.cont()


def test_reset_leaves_its_event_to_be_waited_for(vm: VirtualMachine) -> None:
    vm.reset()
    assert vm.wait_for_event("RESET").data["guest"] is False


def test_name_and_uuid(config: VMConfig) -> None:
    uuid = "0a1b2c3d-0000-4000-8000-123456789abc"
    with VirtualMachine(config, name="web, first", uuid=uuid) as vm:
        vm.assert_qmp("query-name", "name", "web, first")
        vm.assert_qmp("query-uuid", "UUID", uuid)


def test_quit_returns_the_exit_status(vm: VirtualMachine) -> None:
    assert vm.quit() == 0
    assert vm.exit_status == 0


def test_kill_returns_the_signal(vm: VirtualMachine) -> None:
    assert vm.kill() == -signal.SIGKILL


def test_waiting_for_a_machine_that_runs_on(vm: VirtualMachine) -> None:
    with pytest.raises(
        QMPTimeoutError, match=r"waited 0.05 s for .* to end, but it runs on .*runn"
    ):
        vm.wait(0.05)


def test_close_is_idempotent_and_final(vm: VirtualMachine) -> None:
    vm.close()
    vm.close()
    assert vm.exit_status == 0
    with pytest.raises(VMError, match="has ended; make a new one"):
        vm.start()
    with pytest.raises(QMPDisconnectedError):
        vm.execute("query-status")


def test_a_wait_after_the_end_says_how_it_ended(vm: VirtualMachine) -> None:
    vm.kill()
    with pytest.raises(QMPDisconnectedError, match=r"(?s)event STOP.*was killed by SIGKILL"):
        vm.wait_for_event("STOP")


def test_wait_for_status_says_the_present_one(vm: VirtualMachine) -> None:
    vm.stop()
    with pytest.raises(QMPTimeoutError, match=r"state 'running' .* it is 'paused'.*STOP"):
        vm.wait_for_status("running", timeout=0.05)


def test_wait_for_status_is_woken_by_the_change(vm: VirtualMachine) -> None:
    vm.stop()
    changer = threading.Thread(target=vm.cont)
    started = time.monotonic()
    changer.start()
    assert vm.wait_for_status(["running", "debug"]) == "running"
    changer.join()
    assert time.monotonic() - started < 5


def test_assert_status_and_assert_qmp_say_what_is_there(vm: VirtualMachine) -> None:
    with pytest.raises(AssertionError, match="was to be 'paused', but query-status says 'running'"):
        vm.assert_status("paused")
    with pytest.raises(AssertionError, match="'status' was to be 'paused', but it is 'running'"):
        vm.assert_qmp("query-status", "status", "paused")
    with pytest.raises(AssertionError, match="no member 'stauts'; did you mean 'status'"):
        vm.assert_qmp("query-status", "stauts", "running")
    with pytest.raises(AssertionError, match=r"is a list of \d+, which has no item '9999'"):
        vm.assert_qmp("query-commands", "9999/name", "x")


def test_the_machine_was_not_started(config: VMConfig) -> None:
    vm = VirtualMachine(config)
    with pytest.raises(VMError, match="was not started"):
        vm.execute("query-status")
    vm.close()


def test_an_exception_in_the_block_ends_the_machine_all_the_same(config: VMConfig) -> None:
    with pytest.raises(ZeroDivisionError), VirtualMachine(config) as vm:
        raise ZeroDivisionError
    assert vm.exit_status == 0


def test_a_machine_without_console(config: VMConfig) -> None:
    with VirtualMachine(config, consoles=()) as vm, pytest.raises(VMError, match="no console"):
        _ = vm.console


def test_nothing_is_left(config: VMConfig) -> None:
    def held() -> tuple[int, int, int]:
        me = psutil.Process()
        return me.num_fds(), threading.active_count(), len(me.children(recursive=True))

    with VirtualMachine(config):
        pass
    before = held()
    for _ in range(5):
        with VirtualMachine(config) as vm:
            vm.stop()
    assert held() == before


# -- on the fake alone -----------------------------------------------------------------------------


def test_the_fake_has_no_process() -> None:
    with VirtualMachine(backend="fake") as vm:
        assert vm.pid is None
        assert vm.backend == "fake"
        assert vm.argv[0] == "qemu-system-x86_64"


def test_the_fake_plays_the_version_that_it_is_told() -> None:
    with VirtualMachine(backend="fake", emulate="7.2") as vm:
        assert vm.qmp.version[:2] == (7, 2)


def test_a_console_without_a_guest_is_said_to_need_one() -> None:
    with (
        VirtualMachine(backend="fake") as vm,
        pytest.raises(NeedsRealGuestError, match="write_console"),
    ):
        vm.console.expect("login:")


def test_a_console_with_a_script() -> None:
    with VirtualMachine(backend="fake") as vm:
        vm.fake.guest.write_console(b"login: ")
        vm.fake.guest.on_console(rb"root\n", b"# ")
        vm.console.expect("login: ")
        vm.console.sendline("root")
        vm.console.expect("# ")


def test_a_guest_that_powers_itself_off_ends_the_machine() -> None:
    with VirtualMachine(backend="fake") as vm:
        vm.fake.guest.poweroff()
        assert vm.wait_for_event("SHUTDOWN").data == {"guest": True, "reason": "guest-shutdown"}
        assert vm.wait() == 0
        assert vm.wait_for_status("shutdown") == "shutdown"


def test_a_command_that_the_fake_does_not_model_is_told_at_the_end() -> None:
    vm = VirtualMachine(backend="fake")
    with pytest.raises(UnmodelledCommandError, match='on\\("x-query-jit"\\)'), vm:
        vm.qmp.execute_raw({"execute": "x-query-jit"})


def test_a_real_machine_has_no_fake(tmp_path: Path) -> None:
    vm = VirtualMachine.attach(tmp_path / "sock")
    with pytest.raises(VMError, match="not on the fake"):
        _ = vm.fake


# -- attached to one that runs ---------------------------------------------------------------------


def test_a_running_qemu_is_used_and_left_running() -> None:
    with FakeQMPServer() as server:
        with VirtualMachine.attach(server.address) as vm:
            vm.stop()
            assert vm.description == f"the QEMU at unix:{server.address}"
            with pytest.raises(VMError, match="was started by somebody else"):
                vm.kill()
            with pytest.raises(VMError, match="exit status only for who started it"):
                vm.wait(1)
            with pytest.raises(VMError, match="no console"):
                _ = vm.console
        assert server.exit_status is None
        with VirtualMachine.attach(server.address) as vm:
            vm.assert_status("paused")


def test_nobody_runs_there(tmp_path: Path) -> None:
    vm = VirtualMachine.attach(tmp_path / "sock", timeout=0.1)
    with pytest.raises(QMPConnectError, match=r"no such socket .*-qmp unix:.*server=on"):
        vm.start()


def test_no_address() -> None:
    with pytest.raises(QMPAddressError, match="no port between"):
        VirtualMachine.attach("localhost:0")


# -- on a real QEMU alone --------------------------------------------------------------------------

real = pytest.mark.needs_qemu


@real
@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "riscv64"])
@pytest.mark.qmp(backend="qemu")
def test_every_architecture_starts(arch: str, qmp_vm_factory: VMFactory) -> None:
    vm = qmp_vm_factory(arch=arch, accel="tcg")
    vm.assert_status("running")
    assert f"qemu-system-{arch}" in vm.description


@real
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"machine": "no-such"}, "unsupported machine type"),
        ({"devices": ["no-such"]}, "'no-such' is not a valid device model name"),
        ({"args": ["-no-such-option"]}, "-no-such-option: invalid option"),
        ({"cpu": "no-such"}, "unable to find CPU model 'no-such'"),
    ],
)
def test_refused_arguments_fail_at_once_in_qemus_words(fields: dict[str, Any], words: str) -> None:
    started = time.monotonic()
    vm = VirtualMachine(accel="tcg", **fields)
    with pytest.raises(VMLaunchError) as caught:
        vm.start()
    assert time.monotonic() - started < 5
    error = caught.value
    assert words in str(error)
    assert words in error.stderr
    assert error.exit_status == 1
    assert "exited with status 1" in str(error)
    assert error.argv[0] in str(error)
    assert vm.pid is not None
    assert not psutil.pid_exists(vm.pid)


@real
def test_an_argument_that_makes_qemu_print_and_leave() -> None:
    with pytest.raises(VMLaunchError, match=r"status 0 \(an argument made it print"):
        VirtualMachine(accel="tcg", args=["-machine", "help"]).start()


def test_a_binary_that_can_not_be_executed(tmp_path: Path) -> None:
    binary = tmp_path / "qemu-system-x86_64"
    binary.write_bytes(b"\x7fELF no")
    binary.chmod(0o755)
    with pytest.raises(VMLaunchError, match=r"can't execute .*Exec format error"):
        VirtualMachine(qemu=binary, accel="tcg").start()


def test_a_binary_that_never_greets_is_ended(tmp_path: Path) -> None:
    binary = tmp_path / "qemu-system-x86_64"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o755)
    vm = VirtualMachine(qemu=binary, accel="tcg", timeout=0.5)
    with pytest.raises(VMLaunchError, match=r"(?s)did not get ready, and was ended.*greeting"):
        vm.start()
    assert vm.exit_status == -signal.SIGKILL


@real
def test_a_qemu_that_dies_in_a_wait_is_told_at_once(qemu: VirtualMachine) -> None:
    assert qemu.pid is not None
    killer = threading.Timer(0.1, os.kill, (qemu.pid, signal.SIGSEGV))
    killer.start()
    started = time.monotonic()
    with pytest.raises(QMPDisconnectedError, match=r"was killed by SIGSEGV .* event STOP"):
        qemu.wait_for_event("STOP", timeout=20)
    assert time.monotonic() - started < 5
    assert qemu.exit_status == -signal.SIGSEGV


@real
def test_a_stopped_qemu_is_ended(qemu: VirtualMachine) -> None:
    assert qemu.pid is not None
    os.kill(qemu.pid, signal.SIGSTOP)
    qemu.close()
    assert qemu.exit_status == -signal.SIGKILL
    assert not psutil.pid_exists(qemu.pid)


@real
def test_what_qemu_wrote_is_kept_after_its_end() -> None:
    vm = VirtualMachine(accel="tcg", args=["-d", "cpu_reset", "-D", "/dev/stderr"]).start()
    vm.close()
    assert "CPU Reset" in vm.stderr


@real
def test_a_guest_that_is_gone_at_once_leaves_its_events(tmp_path: Path) -> None:
    for _ in range(20):
        fields = guests.overrides("poweroff", tmp_path, banner="bye")
        with VirtualMachine(accel="tcg", timeout=20, **fields) as vm:
            assert vm.wait_for_event("SHUTDOWN").data["guest"] is True
            assert vm.wait() == 0
            assert vm.console.log == "bye\r\n"


@real
def test_powerdown_waits_for_the_guest(tmp_path: Path) -> None:
    fields = guests.overrides("halt", tmp_path, banner="deaf")
    with VirtualMachine(accel="tcg", **fields) as vm:
        vm.console.expect_exact("deaf")
        with pytest.raises(QMPTimeoutError, match="event SHUTDOWN"):
            vm.powerdown(timeout=0.1)


@real
def test_environment_reaches_qemu(tmp_path: Path) -> None:
    with VirtualMachine(accel="tcg", env={"PYTEST_QMP_MARK": "here"}) as vm:
        assert vm.pid is not None
        assert psutil.Process(vm.pid).environ()["PYTEST_QMP_MARK"] == "here"


@real
def test_a_path_with_a_comma_reaches_qemu_whole(tmp_path: Path) -> None:
    image = tmp_path / "disk,if=none,readonly=on.img"
    image.write_bytes(b"\0" * 65536)
    with VirtualMachine(accel="tcg", drives=[image]) as vm:
        vm.assert_qmp("query-block", "0/inserted/file", str(image))
        vm.assert_qmp("query-block", "0/inserted/ro", False)


@real
def test_no_port_is_open_and_no_socket_is_on_the_file_system(qemu: VirtualMachine) -> None:
    assert qemu.pid is not None
    process = psutil.Process(qemu.pid)
    assert process.net_connections("inet") == []
    assert [one.laddr for one in process.net_connections("unix") if one.laddr] == []


@real
def test_descriptors_are_inherited_under_their_numbers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        config = VMConfig(
            machine="none",
            accel="tcg",
            pass_fds=[theirs],
            args=["-chardev", f"socket,id=line,fd={number}", "-serial", "none"],
        )
        with VirtualMachine(config) as vm:
            vm.execute("chardev-remove", id="line")
        theirs.close()
        assert ours.recv(1) == b""


def test_a_descriptor_that_is_not_open_is_told_of() -> None:
    closed = socket.socket()
    closed.close()
    for bad in (closed, "serial", 99_999):
        with pytest.raises(VMConfigError, match="pass_fds holds open descriptors"):
            VMConfig(pass_fds=[bad]).passed_descriptors()  # type: ignore[list-item]
