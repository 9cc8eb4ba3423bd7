"""The guests that we assemble do what their names say, on every machine that they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_qmp import VirtualMachine
from tests import guests
from tests.guests import Form
from tests.guests.code import Code

StartGuest = Callable[..., VirtualMachine]


class Home(NamedTuple):
    """A way to run a guest."""

    arch: str
    form: Form
    machine: str


HOMES = [
    pytest.param(Home("x86_64", "firmware", "q35"), id="q35-firmware"),
    pytest.param(Home("x86_64", "firmware", "pc"), id="pc-firmware"),
    pytest.param(Home("x86_64", "boot-sector", "q35"), id="q35-boot-sector"),
    pytest.param(Home("x86_64", "boot-sector", "pc"), id="pc-boot-sector"),
    pytest.param(Home("aarch64", "firmware", "virt"), id="aarch64"),
    pytest.param(Home("riscv64", "firmware", "virt"), id="riscv64"),
]

needs_qemu = pytest.mark.needs_qemu
real = pytest.mark.qmp(backend="qemu")


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest) -> Home:
    home: Home = request.param
    return home


@pytest.fixture
def start_guest(
    home: Home,
    qmp_vm_factory: Callable[..., VirtualMachine],
    tmp_path: Path,
) -> StartGuest:
    """Start a guest by its behaviour and wait for its banner."""

    def start(behaviour: str, **changes: Any) -> VirtualMachine:
        fields = guests.overrides(
            behaviour, tmp_path, arch=home.arch, form=home.form, banner=f"this is {behaviour}"
        )
        # Paused at first: some are gone before the monitor would be there to tell.
        fields |= {"machine": home.machine, "memory": "128M", "paused": True}
        vm = qmp_vm_factory(**{**fields, **changes})
        vm.cont()
        vm.console.expect_exact(f"this is {behaviour}\r\n")
        return vm

    return start


@needs_qemu
@real
@pytest.mark.parametrize("behaviour", ["halt", "spin"])
def test_stays(start_guest: StartGuest, behaviour: str) -> None:
    vm = start_guest(behaviour)
    vm.execute("system_powerdown")  # it does not listen
    vm.assert_no_event("SHUTDOWN", within=0.05)
    vm.assert_status("running")


@needs_qemu
@real
def test_powers_off(home: Home, start_guest: StartGuest) -> None:
    vm = start_guest("poweroff-on-key")
    vm.assert_status("running")
    vm.console.send("x")
    if home.arch != "riscv64":  # up to 7.2 its test device ends QEMU without a word
        event = vm.wait_for_event("SHUTDOWN", match={"data": {"guest": True}})
        assert event.data["reason"] == "guest-shutdown"
    assert vm.wait() == 0


@needs_qemu
@real
@pytest.mark.parametrize("home", [home for home in HOMES if home.id != "riscv64"], indirect=True)
def test_powers_off_at_once(start_guest: StartGuest) -> None:
    vm = start_guest("poweroff")
    vm.wait_for_event("SHUTDOWN", match={"data": {"guest": True}})
    assert vm.wait() == 0


@needs_qemu
@real
def test_resets(start_guest: StartGuest) -> None:
    vm = start_guest("reset-on-key")
    with vm.expect_event("RESET", match={"data": {"reason": "guest-reset"}}):
        vm.console.send("x")
    vm.console.expect_exact("this is reset-on-key\r\n")


@needs_qemu
@real
def test_resets_at_once(start_guest: StartGuest) -> None:
    vm = start_guest("reset", args=("-no-reboot",))
    assert vm.wait_for_event("SHUTDOWN").data["reason"] == "guest-reset"
    assert vm.wait() == 0


@needs_qemu
@real
@pytest.mark.parametrize("home", HOMES[:4], indirect=True)
def test_panics(start_guest: StartGuest) -> None:
    vm = start_guest("panic", args=("-action", "panic=pause"))
    event = vm.wait_for_event("GUEST_PANICKED")
    assert event.data["action"] == "pause"
    vm.wait_for_status("guest-panicked")


@needs_qemu
@real
def test_echoes(start_guest: StartGuest) -> None:
    vm = start_guest("echo")
    vm.console.sendline("hello there")
    vm.console.expect_exact("echo: hello there\r\n")
    vm.console.send("again\r\n")
    vm.console.expect_exact("echo: again\r\n")
    vm.console.send("\n\nlast\n")
    vm.console.expect_exact("echo: last\r\n")
    assert vm.console.before == ""  # an empty line gets no answer


@needs_qemu
@real
def test_echo_survives_a_line_too_long_for_it(start_guest: StartGuest) -> None:
    vm = start_guest("echo")
    vm.console.send("y" * 30_000 + "\n")
    vm.console.expect(r"echo: y+\r\n")
    vm.console.sendline("short")
    vm.console.expect_exact("echo: short\r\n")


@needs_qemu
@real
def test_floods_without_losing_a_byte(start_guest: StartGuest) -> None:
    vm = start_guest("flood")
    vm.console.expect_exact("00000800\r\n")
    assert vm.console.before == "".join(f"{number:08X}\r\n" for number in range(0x800))


def test_code_refuses_an_undefined_label() -> None:
    code = Code(0)
    code.reference("nowhere", 1, lambda _at, _to: b"\0")
    with pytest.raises(ValueError, match="'nowhere' is used but not defined"):
        code.link()


def test_code_refuses_a_label_defined_twice() -> None:
    code = Code(0)
    code.label("here")
    with pytest.raises(ValueError, match="'here' is defined twice"):
        code.label("here")


def test_code_refuses_to_pad_backwards() -> None:
    code = Code(0x7C00)
    code.data(bytes(512))
    with pytest.raises(ValueError, match="reaches 0x7e00, past 0x7dfe"):
        code.pad(0x7DFE)
