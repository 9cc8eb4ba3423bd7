"""What happens to a machine ends every wait at once, unless the test wants it."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from pytest_qmp import (
    FakeQMPServer,
    QMPClient,
    QMPDisconnectedError,
    QMPError,
    QMPEvent,
    QMPTimeoutError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMGoneError,
    VMVerdictError,
)
from tests import guests

BACKENDS = ["fake", pytest.param("qemu", marks=pytest.mark.needs_qemu)]
real = pytest.mark.needs_qemu
#: Seconds: much more than a verdict takes, much less than the timeouts of the waits.
SOON = 5.0
TIMEOUT = 20.0

Act = Callable[[], object]
Start = Callable[..., tuple[VirtualMachine, Act]]


@pytest.fixture(params=BACKENDS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a machine whose guest does something on demand; gives both."""
    machines = []

    def start(behaviour: str, **fields: object) -> tuple[VirtualMachine, Act]:
        config = VMConfig(backend=request.param, accel="tcg", timeout=TIMEOUT, paused=True)
        if request.param == "qemu":
            config = config.replace(**guests.overrides(behaviour, tmp_path, banner="alive"))
        vm = VirtualMachine(config, **fields).start()
        machines.append(vm)

        def act() -> None:
            # Not on the test's monitor, where a verdict could be met.
            vm.ask_in_background("cont", TIMEOUT)
            if vm.backend == "fake":
                getattr(vm.fake.guest, behaviour)()

        return vm, act

    yield start
    for vm in machines:
        vm.close()


def soon(act: Act) -> None:
    """Does it in the background, in a moment."""
    threading.Timer(0.1, act).start()


def seen(vm: VirtualMachine) -> None:
    """Waits until there is a verdict."""
    deadline = time.monotonic() + TIMEOUT
    while vm.verdict is None:
        assert time.monotonic() < deadline, "nothing has happened to the machine"
        vm.ask_in_background("query-status")


@pytest.mark.parametrize(
    ("behaviour", "kind", "told"),
    [
        ("panic", "panic", "the guest panicked (GUEST_PANICKED, action poweroff)"),
        ("reset", "reset", "the machine was reset (RESET, reason guest-reset)"),
        ("poweroff", "shutdown", "the machine was shut down (SHUTDOWN, reason guest-shutdown)"),
    ],
)
def test_a_wait_for_an_event_ends_with_the_verdict(
    start: Start, behaviour: str, kind: str, told: str
) -> None:
    vm, act = start(behaviour)
    act()
    began = time.monotonic()
    with pytest.raises(VMVerdictError, match=re.escape(told)) as caught:
        vm.wait_for_event("DEVICE_DELETED")
    assert time.monotonic() - began < SOON
    assert "while the event DEVICE_DELETED was awaited" in str(caught.value)
    assert f"vm.allow({kind!r})" in str(caught.value)
    assert caught.value.kind == kind
    assert vm.verdict is not None
    assert vm.verdict.kind == kind


def test_every_kind_of_wait_ends(start: Start) -> None:
    vm, act = start("reset")
    soon(act)
    with pytest.raises(VMVerdictError, match="while the event STOP was awaited"):
        vm.wait_for_event("STOP")
    with pytest.raises(VMVerdictError, match=r"while the run state 'io-error' of .* was awaited"):
        vm.wait_for_status("io-error")
    with (
        pytest.raises(VMVerdictError, match="while the event STOP was awaited"),
        vm.expect_event("STOP"),
    ):
        pass
    # The test knows by now: what it asks QEMU is answered.
    assert vm.status == "running"


def test_a_command_after_what_nobody_has_seen_yet_ends_with_it(start: Start) -> None:
    vm, act = start("reset")
    with vm.allow("reset"):
        act()
        vm.wait_for_event("RESET")
    if vm.backend == "fake":
        assert vm.status == "running"  # the real one has reset again by now
        vm.fake.guest.reset()
    seen(vm)
    with pytest.raises(VMVerdictError, match="was reset"):
        vm.execute("query-name")


def test_a_command_and_the_background_do_not_wait_for_each_other() -> None:
    class Watcher:
        pending = True
        waits = True

        def ends(self, names: tuple[str, ...] | None) -> bool:
            return True

        def error(self, awaited: str, *, gone: bool) -> QMPError:
            background = threading.Thread(target=client.look_again)
            background.start()
            background.join(SOON)
            self.waits = background.is_alive()
            return QMPError(awaited)

        def wanted(self, event: QMPEvent) -> None: ...

    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        watcher = Watcher()
        client.watch(watcher)
        with pytest.raises(QMPError, match="the reply to 'stop'"):
            client.execute("stop")
        assert not watcher.waits
        client.watch(None)


def test_what_happens_in_the_start_is_met_by_the_first_wait() -> None:
    vm = VirtualMachine(backend="fake", console_watch={"Oops": "fatal"}, timeout=TIMEOUT)
    vm.fake.guest.write_console(b"Oops\n")
    with vm:
        seen(vm)
        with pytest.raises(VMVerdictError, match="Oops while the reply to 'query-name'"):
            vm.execute("query-name")


@real
def test_typing_ends_with_the_verdict(tmp_path: Path) -> None:
    fields = guests.overrides("panic", tmp_path, banner="alive")
    action = ("-action", "panic=pause")
    with VirtualMachine(accel="tcg", timeout=TIMEOUT, args=action, **fields) as vm:
        began = time.monotonic()
        with pytest.raises(VMVerdictError, match=r"panicked.* while room for \d+ bytes at the con"):
            vm.console.send("x" * 20_000_000)
        assert time.monotonic() - began < SOON


def test_the_console_ends_with_the_verdict(start: Start) -> None:
    vm, act = start("panic")
    if vm.backend == "fake":
        vm.fake.guest.write_console(b"alive")
    soon(act)
    with pytest.raises(VMVerdictError, match=r"panicked.* while 'login:' at the console") as caught:
        vm.console.expect("login:")
    assert isinstance(caught.value, pexpect.EOF)
    assert "alive" in str(caught.value)


def test_what_a_console_has_written_before_still_counts(start: Start) -> None:
    vm, act = start("poweroff")
    if vm.backend == "fake":
        vm.fake.guest.write_console(b"alive")
    act()
    vm.console.expect("alive")
    vm.console.expect(pexpect.EOF)
    assert vm.wait() == 0


@pytest.mark.parametrize(
    ("behaviour", "event"),
    [("panic", "GUEST_PANICKED"), ("reset", "RESET"), ("poweroff", "SHUTDOWN")],
)
def test_a_wait_for_the_very_thing_wants_it(start: Start, behaviour: str, event: str) -> None:
    vm, act = start(behaviour)
    soon(act)
    assert vm.wait_for_event(event).name == event
    if behaviour == "reset":
        vm.stop() if vm.backend == "fake" else vm.kill()
        return
    assert vm.wait() == 0
    vm.close()
    vm.check()


def test_waiting_for_the_end_wants_it(start: Start) -> None:
    vm, act = start("poweroff")
    soon(act)
    assert vm.wait() == 0
    vm.close()
    vm.check()


def test_waiting_for_the_end_does_not_want_a_panic(start: Start) -> None:
    vm, act = start("panic")
    soon(act)
    with pytest.raises(VMVerdictError, match="panicked"):
        vm.wait()
    assert vm.wait() == 0


def test_waiting_for_a_status_wants_what_leads_there(start: Start) -> None:
    vm, act = start("poweroff", args=("-no-shutdown",))
    soon(act)
    assert vm.wait_for_status("shutdown") == "shutdown"
    assert vm.execute("query-name") == {}
    vm.close()
    vm.check()


def test_the_power_button_asks_for_the_shutdown(start: Start) -> None:
    vm, _ = start("poweroff")
    vm.execute("system_powerdown")
    if vm.backend == "fake":
        vm.cont()
        vm.fake.guest.poweroff()
        assert vm.wait() == 0
    vm.close()
    vm.check()


def test_what_was_asked_for_over_qmp_is_no_verdict(start: Start) -> None:
    vm, _ = start("poweroff")
    vm.reset()
    vm.execute("query-status")
    vm.execute("quit")
    assert vm.wait() == 0
    vm.check()


def test_what_is_allowed_ends_no_wait(start: Start) -> None:
    vm, act = start("panic", args=("-action", "panic=pause"))
    with vm.allow("panic"):
        act()
        vm.wait_for_event("STOP")
    vm.assert_status("guest-panicked")
    vm.close()
    vm.check()


def test_what_is_always_allowed(start: Start) -> None:
    vm, act = start("poweroff", allow=["shutdown"])
    act()
    with pytest.raises(QMPDisconnectedError, match="exited with status 0") as caught:
        vm.wait_for_event("DEVICE_DELETED")
    assert not isinstance(caught.value, VMVerdictError)
    vm.close()
    vm.check()


def test_what_is_allowed_later_was_not_allowed_before(start: Start) -> None:
    vm, act = start("panic", args=("-action", "panic=pause"))
    act()
    seen(vm)
    with vm.allow("panic"), pytest.raises(VMVerdictError, match="panicked"):
        vm.wait_for_event("DEVICE_DELETED")


def test_another_kind_is_not_allowed_with_it(start: Start) -> None:
    vm, act = start("panic")
    with vm.allow("reset", "shutdown"):
        act()
        with pytest.raises(VMVerdictError, match="panicked"):
            vm.wait_for_event("DEVICE_DELETED")


def test_a_kind_that_there_is_not() -> None:
    with VirtualMachine(backend="fake") as vm:
        with pytest.raises(VMConfigError, match="did you mean 'panic'"), vm.allow("panics"):
            pass
        with pytest.raises(VMConfigError, match=r"VMConfig\.allow"):
            VMConfig(allow=["rest"])


def test_what_no_wait_has_met_is_told_at_the_end_once(start: Start) -> None:
    vm, act = start("reset")
    act()
    seen(vm)
    vm.close()
    with pytest.raises(VMVerdictError, match="and no wait of the test has met it"):
        vm.check()
    vm.check()


def test_our_own_end_of_qemu_is_no_part_of_a_verdict() -> None:
    with (
        pytest.raises(VMVerdictError, match="was reset") as caught,
        VirtualMachine(backend="fake") as vm,
    ):
        vm.fake.guest.reset()
    assert "exited" not in str(caught.value)


def test_a_failed_wait_is_told_once(start: Start) -> None:
    vm, act = start("reset")
    act()
    with pytest.raises(VMVerdictError):
        vm.wait_for_event("DEVICE_DELETED")
    vm.close()
    vm.check()


def test_a_wait_in_another_thread_ends_too(start: Start) -> None:
    vm, act = start("panic")
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            vm.wait_for_event("DEVICE_DELETED")
        except VMVerdictError as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    act()
    for thread in threads:
        thread.join(SOON)
    assert len(caught) == 4


# -- the process -----------------------------------------------------------------------------------


@real
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_is_gone(tmp_path: Path, number: signal.Signals) -> None:
    fields = guests.overrides("spin", tmp_path, banner="alive")
    with VirtualMachine(accel="tcg", timeout=TIMEOUT, **fields) as vm:
        vm.console.expect("alive")
        soon(lambda: os.kill(vm.pid or 0, number))
        with pytest.raises(
            VMGoneError, match=f"killed by {number.name}.*while the event"
        ) as caught:
            vm.wait_for_event("STOP")
    assert caught.value.kind == "exit"
    assert "alive" in str(caught.value)


@real
def test_a_process_that_may_end(tmp_path: Path) -> None:
    with VirtualMachine(accel="tcg", machine="none", timeout=TIMEOUT) as vm:
        with vm.allow("exit"):
            os.kill(vm.pid or 0, signal.SIGKILL)
        assert vm.wait() == -signal.SIGKILL


@real
def test_a_signal_from_somebody_else_is_a_verdict() -> None:
    with VirtualMachine(accel="tcg", machine="none", timeout=TIMEOUT) as vm:
        os.kill(vm.pid or 0, signal.SIGTERM)
        with pytest.raises(VMGoneError, match="reason host-signal"):
            vm.wait_for_event("STOP")


def test_our_own_kill_is_none() -> None:
    with VirtualMachine(backend="fake") as vm:
        assert vm.kill() == -signal.SIGKILL
    vm.check()


def test_the_fake_that_is_killed() -> None:
    with VirtualMachine(backend="fake") as vm:
        vm.fake.kill()
        with pytest.raises(VMGoneError, match="killed by SIGKILL"):
            vm.wait_for_event("STOP")


# -- declared patterns -----------------------------------------------------------------------------


def test_a_pattern_that_is_declared_fatal() -> None:
    patterns = {r"Kernel panic.*": "fatal"}
    with VirtualMachine(backend="fake", console_watch=patterns, timeout=TIMEOUT) as vm:
        soon(lambda: vm.fake.guest.write_console(b"[1.0] Kernel pa"))
        soon(lambda: vm.fake.guest.write_console(b"[1.0] Kernel panic - not syncing\n"))
        with pytest.raises(VMVerdictError, match=r"wrote what is declared fatal: .*not syncing"):
            vm.wait_for_event("STOP")


def test_a_pattern_that_is_declared_an_error_waits_for_the_end() -> None:
    with VirtualMachine(backend="fake", console_watch={"WARNING": "error"}) as vm:
        vm.fake.guest.write_console(b"WARNING: x\n")
        vm.console.expect("WARNING")
        vm.execute("query-status")
        with pytest.raises(QMPTimeoutError):
            vm.wait_for_event("STOP", timeout=0.05)
        with pytest.raises(VMVerdictError, match="declared an error: WARNING: x"):
            vm.check()


def test_a_pattern_may_be_allowed() -> None:
    with VirtualMachine(backend="fake", console_watch={"WARNING": "fatal"}) as vm:
        with vm.allow("console"):
            vm.fake.guest.write_console(b"WARNING: x\n")
            vm.console.expect("x")
        assert vm.verdict is None


@pytest.mark.parametrize("wrong", [{"(": "fatal"}, {"x": "deadly"}, ["x"]])
def test_patterns_that_can_not_be(wrong: object) -> None:
    with pytest.raises(VMConfigError, match="console_watch"):
        VMConfig(console_watch=wrong)  # type: ignore[arg-type]


def test_the_line_that_tells_most_is_in_the_title() -> None:
    with VirtualMachine(backend="fake", timeout=TIMEOUT) as vm:
        vm.fake.guest.write_console(b"[1.0] Kernel panic - not syncing: no init\n[1.1] CPU: 0\n")
        vm.fake.guest.panic()
        with pytest.raises(VMVerdictError) as caught:
            vm.wait_for_event("STOP")
    title = str(caught.value).partition("\n")[0]
    assert "Kernel panic - not syncing: no init" in title


# -- what the background does not disturb ----------------------------------------------------------


def test_the_background_is_not_seen_by_the_test() -> None:
    with VirtualMachine(backend="fake") as vm:
        vm.fake.on("query-status").reply({"running": False, "status": "paused"}).once()
        vm.stop()
        vm.execute("query-status")
        assert [call.command for call in vm.fake.calls if call.command != "qmp_capabilities"] == [
            "cont",
            "stop",
            "query-status",
        ]


def test_a_machine_of_somebody_else_is_not_watched() -> None:
    with FakeQMPServer() as server, VirtualMachine.attach(server.address) as vm:
        server.guest.reset()
        assert vm.status == "running"
        assert vm.verdict is None
