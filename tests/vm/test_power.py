"""Power and time: paused, crashed, woken, rebooted, and repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import (
    QMPCommandError,
    QMPTimeoutError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMError,
    VMVerdictError,
)
from pytest_qmp.vm.argv import build_argv
from pytest_qmp.vm.host import find_qemu
from tests import guests
from tests.guests import x86_power

UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "qemu"
BACKENDS = ["fake", pytest.param("qemu", marks=pytest.mark.needs_qemu)]

Start = Callable[..., VirtualMachine]


@pytest.fixture(params=BACKENDS)
def vm(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    """A machine without a guest, on each backend."""
    with VirtualMachine(backend=request.param, accel="tcg", timeout=20) as machine:
        yield machine


@pytest.fixture(params=["installed", "10.0", "11.1"], ids="qemu-{}".format)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a machine on each QEMU."""
    binary = find_qemu("x86_64")
    if request.param != "installed":
        place = UNPACKED / request.param
        if not (place / ".complete").exists():
            pytest.skip(f"QEMU {request.param} is not unpacked here: run scripts/unpack-qemu")
        binary = str(place / "usr" / "bin" / "qemu-system-x86_64")
    with ExitStack() as machines:

        def start(fields: dict[str, Any], **more: Any) -> VirtualMachine:
            fields = {"qemu": binary, "accel": "tcg", "timeout": 20, "memory": "64M", **fields}
            return machines.enter_context(VirtualMachine(**{**fields, **more}))

        yield start


def argv_of(config: VMConfig) -> tuple[str, ...]:
    return build_argv(config, "qemu", "tcg", {}, {})


# -- paused ----------------------------------------------------------------------------------------


def test_pause_and_resume_are_idempotent(vm: VirtualMachine) -> None:
    vm.pause()
    vm.pause()
    vm.assert_status("paused")
    vm.resume()
    vm.resume()
    vm.assert_status("running")
    vm.assert_events(["STOP", "RESUME"], exact=True)


def test_paused_for_a_while(vm: VirtualMachine) -> None:
    with vm.paused():
        vm.assert_status("paused")
        with vm.paused():
            vm.assert_status("paused")
        vm.assert_status("paused")
    vm.assert_status("running")
    with pytest.raises(KeyError), vm.paused():
        raise KeyError
    vm.assert_status("running")


def test_paused_from_the_start(vm: VirtualMachine) -> None:
    with VirtualMachine(vm.config, paused=True) as other:
        other.pause()
        other.assert_status("prelaunch")
        other.resume()
        other.assert_status("running")


def test_what_failed_inside_is_told_and_not_what_fails_then(vm: VirtualMachine) -> None:
    def fail() -> None:
        with vm.paused():
            vm.quit()
            raise KeyError

    with pytest.raises(KeyError):
        fail()


# -- asleep ----------------------------------------------------------------------------------------


def test_the_fake_s_guest_sleeps() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        vm.fake.guest.suspend()
        assert vm.wait_for_status("suspended") == "suspended"
        with pytest.raises(VMError, match=r"wakeup\(\) wakes it"):
            vm.resume()
        with pytest.raises(VMError, match="can't be paused: its run state is 'suspended'"):
            vm.pause()
        vm.wakeup()
        vm.assert_status("running")
        with vm.assert_error("GenericError", match="not in suspended state"):
            vm.wakeup()


@pytest.mark.needs_qemu
def test_a_guest_sleeps_and_is_woken(start: Start, tmp_path: Path) -> None:
    vm = start(x86_power.sleeps_on_key(tmp_path))
    vm.console.expect_exact("ready")
    vm.console.send("x")
    vm.wait_for_status("suspended")
    vm.wakeup()
    vm.console.expect_exact("ready")
    vm.assert_events(["SUSPEND", "WAKEUP"])


# -- crashed ---------------------------------------------------------------------------------------


@pytest.mark.needs_qemu
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_guest_is_crashed(start: Start, tmp_path: Path, machine: str) -> None:
    vm = start(x86_power.panics_on_nmi(tmp_path), machine=machine)
    vm.console.expect_exact("armed")
    vm.crash()
    vm.console.expect_exact("came")
    vm.wait_for_event("GUEST_PANICKED")
    shutdown = vm.wait_for_shutdown()
    assert shutdown is not None
    assert shutdown.data["reason"] == "guest-panic"
    assert vm.wait() == 0
    assert vm.verdict is None


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_a_machine_that_can_t_be_crashed_says_so(tmp_path: Path, arch: str) -> None:
    fields = guests.overrides("halt", tmp_path, arch=arch)
    with (
        VirtualMachine(accel="tcg", timeout=20, memory="64M", **fields) as vm,
        pytest.raises(QMPCommandError, match=r"without non-maskable(.|\n)*kill\(\)"),
    ):
        vm.crash()


def test_what_a_crash_leads_to_is_no_verdict() -> None:
    with VirtualMachine(backend="fake", timeout=20, args=["-action", "panic=none"]) as vm:
        vm.crash()
        vm.fake.guest.panic()
        vm.fake.guest.reset()
        vm.assert_events(["GUEST_PANICKED", "RESET"])
        assert vm.verdict is None
        # The next one is another's doing.
        vm.fake.guest.panic()
        with pytest.raises(VMVerdictError, match="panicked"):
            vm.wait()


def test_what_was_refused_has_crashed_nobody() -> None:
    with VirtualMachine(backend="fake", timeout=20, machine="none") as vm:
        with pytest.raises(QMPCommandError, match="without non-maskable"):
            vm.crash()
        vm.fake.guest.panic()
        with pytest.raises(VMVerdictError, match="panicked"):
            vm.wait_for_event("STOP")


# -- rebooted --------------------------------------------------------------------------------------


def test_reboot(vm: VirtualMachine) -> None:
    assert vm.reboot().data["guest"] is False
    assert vm.wait_for_event("RESET", timeout=0)


def failed_reboot(vm: VirtualMachine, during: Callable[[], object], guest: bool | None) -> str:
    def fail() -> None:
        with vm.expect_reboot(guest=guest, timeout=0.05):
            during()

    with pytest.raises(QMPTimeoutError) as caught:
        fail()
    return str(caught.value)


def test_a_reboot_of_the_guest_s_own() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        vm.reset()
        with vm.expect_reboot(guest=True) as reset:
            vm.reset()
            with pytest.raises(ValueError, match="once the with block has ended"):
                _ = reset.value
            vm.fake.guest.reset()
        assert reset.value.data["guest"] is True
        told = failed_reboot(vm, vm.reset, True)
        assert "to be reset by its guest, in vain. Other resets came: RESET {" in told
        assert "to be reset, in vain. events that came" in failed_reboot(vm, vm.cont, None)
        with pytest.raises(KeyError), vm.expect_reboot():
            raise KeyError


def test_outside_of_it_a_reset_is_a_verdict() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        with vm.expect_reboot():
            vm.fake.guest.reset()
        vm.fake.guest.reset()
        with pytest.raises(VMVerdictError, match="was reset"):
            vm.wait_for_event("STOP")


def test_something_else_ends_the_wait() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        started = time.monotonic()
        with pytest.raises(VMVerdictError, match="was shut down"), vm.expect_reboot():
            vm.fake.guest.poweroff()
        assert time.monotonic() - started < 10


def test_only_what_the_console_writes_after_it_counts() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        write = vm.fake.guest.write_console
        write(b"login: ")
        vm.console.expect("login: ")
        write(b"one login: ")
        with vm.expect_reboot("(one|two|three) login: "):
            write(b"two login: ")
            vm.consoles["serial0"]._stream.wait_beyond(28, 0, 20)
            vm.fake.guest.reset()
            write(b"three login: $ ")
        assert vm.console.after == "three login: "
        vm.console.expect_exact("$ ")
        with pytest.raises(QMPTimeoutError, match="for 'login: '"):
            vm.reboot("login: ", timeout=0.1)


def test_what_can_t_be_waited_for_is_refused_at_once() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        with pytest.raises(ValueError, match="until is a regular expression"):
            vm.expect_reboot("(")
        vm.fake.guest.write_console(b"x")
        with pytest.raises(VMError, match="no console 'serial'; did you mean 'serial0'"):
            vm.reboot("x", console="serial")


def await_own(vm: VirtualMachine) -> None:
    """Resets, and waits until SeaBIOS has made its own reset of that."""
    since = vm.events.total
    vm.reset()
    vm.assert_events([("RESET", {"guest": False}), ("RESET", {"guest": True})], since=since)


@pytest.mark.needs_qemu
def test_a_guest_reboots_itself(start: Start, tmp_path: Path) -> None:
    vm = start(guests.overrides("reset-on-key", tmp_path, form="boot-sector", banner="alive"))
    vm.console.expect_exact("alive")
    for _ in range(2):
        # SeaBIOS's own reset, a moment after, is not taken for the guest's next.
        with vm.expect_reboot("alive", guest=True):
            vm.console.send("x")
    vm.reboot("alive")
    assert "which the firmware made of the one before" in failed_reboot(
        vm, lambda: await_own(vm), True
    )


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_a_reboot_elsewhere(tmp_path: Path, arch: str) -> None:
    fields = guests.overrides("reset-on-key", tmp_path, arch=arch, banner="alive")
    with VirtualMachine(accel="tcg", timeout=20, memory="64M", **fields) as vm:
        vm.console.expect_exact("alive")
        with vm.expect_reboot("alive", guest=True):
            vm.console.send("x")
        vm.reboot("alive")


# -- off -------------------------------------------------------------------------------------------


def test_wait_for_shutdown() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        vm.fake.guest.poweroff()
        shutdown = vm.wait_for_shutdown()
        assert shutdown is not None
        assert shutdown.data["guest"] is True
        assert vm.wait_for_event("SHUTDOWN") == shutdown
        assert vm.wait_for_shutdown() == shutdown


def test_one_that_does_not_shut_down(vm: VirtualMachine) -> None:
    with pytest.raises(QMPTimeoutError, match="SHUTDOWN"):
        vm.wait_for_shutdown(timeout=0.05)


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", guests.ARCHITECTURES)
def test_a_guest_shuts_down(tmp_path: Path, arch: str) -> None:
    fields = guests.overrides("poweroff", tmp_path, arch=arch)
    with VirtualMachine(accel="tcg", timeout=20, memory="64M", **fields) as vm:
        shutdown = vm.wait_for_shutdown()
        assert shutdown is not None or arch == "riscv64"
        assert vm.wait() == 0


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "argv"),
    [
        ({}, ""),
        ({"rtc": "2026-01-01T12:00:00"}, "-rtc base=2026-01-01T12:00:00"),
        ({"rtc": "2026-01-01T12:00:00Z"}, "-rtc base=2026-01-01T12:00:00"),
        ({"rtc": datetime(2026, 1, 1, 12, 0, 0, 5)}, "-rtc base=2026-01-01T12:00:00"),
        (
            {"rtc": datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))},
            "-rtc base=2026-01-01T10:00:00",
        ),
        ({"rtc": date(2026, 1, 1)}, "-rtc base=2026-01-01T00:00:00"),
        ({"rtc": "localtime", "rtc_clock": "vm"}, "-rtc base=localtime,clock=vm"),
        ({"icount": True}, "-rtc clock=vm -icount shift=3,sleep=off"),
        ({"icount": 0, "rtc_clock": "host"}, "-rtc clock=host -icount shift=0,sleep=off"),
        ({"icount": "shift=auto,align=on"}, "-rtc clock=vm -icount shift=auto,align=on"),
        ({"icount": False, "seed": 7}, "-seed 7"),
    ],
)
def test_arguments_of_time(fields: dict[str, Any], argv: str) -> None:
    config = VMConfig(**fields)
    assert argv in " ".join(argv_of(config))
    assert argv_of(config.replace(name=None)) == argv_of(config)
    if not argv:
        assert not {"-rtc", "-icount", "-seed"}.intersection(argv_of(config))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rtc": "yesterday"}, "as '2026-01-01T00:00:00' or a datetime"),
        ({"rtc": 2026}, "VMConfig.rtc is"),
        ({"rtc_clock": "guest"}, "'host'"),
        ({"icount": 11}, "a shift from 0 to 10"),
        ({"icount": "fast"}, "or QEMU's text"),
        ({"icount": True, "accel": "kvm"}, "only TCG does, and not kvm"),
        ({"icount": True, "accel": "tcg,thread=multi"}, "leave out thread=multi"),
        ({"seed": -1}, "from 0 to"),
        ({"seed": True}, "from 0 to"),
    ],
)
def test_time_that_can_t_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        VMConfig(**fields)


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", guests.ARCHITECTURES)
def test_counted_instructions_make_a_run_repeatable(tmp_path: Path, arch: str) -> None:
    fields = guests.overrides("cycles", tmp_path, arch=arch, banner="alive")
    seen = []
    for _ in range(2):
        # `auto` takes TCG for it, with no look at KVM.
        with VirtualMachine(accel="auto", timeout=20, memory="64M", icount=True, **fields) as vm:
            assert ", tcg)" in vm.description
            vm.console.expect(r"alive\s+(([0-9A-F]{8}\r\n){20})")
            seen.append(vm.console.match[1])
    assert seen[0] == seen[1]
    assert len(set(seen[0].split())) == 20


@pytest.mark.needs_qemu
def test_the_guest_s_clock(start: Start, tmp_path: Path) -> None:
    vm = start({}, machine="q35", rtc="2001-02-03T04:05:06", rtc_clock="vm", seed=1, paused=True)
    now = vm.execute("qom-get", path="/machine", property="rtc-time")
    assert (now["tm_year"], now["tm_mon"], now["tm_mday"]) == (101, 1, 3)
    assert (now["tm_hour"], now["tm_min"], now["tm_sec"]) == (4, 5, 6)
