"""The console: pexpect's own behaviour, on a guest's serial port."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from pytest_qmp import QMPDisconnectedError, QMPTimeoutError, VirtualMachine, VMError
from pytest_qmp.vm.console import ConsoleEOFError, ConsoleTimeoutError
from tests import guests


@pytest.fixture
def vm() -> Iterator[VirtualMachine]:
    """A fake whose console has said hello."""
    with VirtualMachine(backend="fake", timeout=10) as machine:
        machine.fake.guest.write_console(b"hello\r\n")
        yield machine


def test_expect_gives_what_pexpect_gives(vm: VirtualMachine) -> None:
    vm.fake.guest.write_console(b"one two three\r\n")
    assert vm.console.expect(["nothing", r"t(w)o"]) == 1
    assert vm.console.before == "hello\r\none "
    match = vm.console.match
    assert isinstance(match, re.Match)
    assert match[1] == "w"
    assert vm.console.after == "two"
    vm.console.expect_exact(" three")
    assert vm.console.before == ""


def test_text_that_comes_later_is_waited_for(vm: VirtualMachine) -> None:
    writer = threading.Timer(0.05, vm.fake.guest.write_console, (b"login: ",))
    writer.start()
    vm.console.expect("login: ")
    writer.join()


def test_a_failed_expect_shows_the_last_lines(vm: VirtualMachine) -> None:
    with pytest.raises(ConsoleTimeoutError) as caught:
        vm.console.expect(["login:", "Password:"], timeout=0.05)
    text = str(caught.value)
    assert "waited 0.05 s for 'login:' or 'Password:' at the console serial0, in vain" in text
    assert "  | hello" in text
    assert isinstance(caught.value, pexpect.TIMEOUT)
    assert isinstance(caught.value, QMPTimeoutError)


def test_what_a_failed_expect_looked_through_is_found_by_the_next(vm: VirtualMachine) -> None:
    with pytest.raises(pexpect.TIMEOUT):
        vm.console.expect("nothing", timeout=0)
    vm.console.expect("hello")


def test_timeout_and_eof_as_patterns(vm: VirtualMachine) -> None:
    assert vm.console.expect(["nothing", pexpect.TIMEOUT], timeout=0.01) == 1
    vm.kill()
    assert vm.console.expect([pexpect.EOF]) == 0


def test_a_guest_that_is_gone_ends_the_wait_with_the_reason(vm: VirtualMachine) -> None:
    killer = threading.Timer(0.05, vm.kill)
    killer.start()
    with pytest.raises(ConsoleEOFError, match=r"(?s)serial0 closed.*SIGKILL.*hello") as caught:
        vm.console.expect("login:")
    killer.join()
    assert isinstance(caught.value, pexpect.EOF)
    assert isinstance(caught.value, QMPDisconnectedError)
    with pytest.raises(ConsoleEOFError, match="can't type"):
        vm.console.sendline("root")


def test_escape_sequences_do_not_reach_the_terminal(vm: VirtualMachine) -> None:
    vm.fake.guest.write_console(b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x07\r\n")
    with pytest.raises(ConsoleTimeoutError) as caught:
        vm.console.expect("nothing", timeout=0.05)
    assert "\x1b" not in str(caught.value)
    assert "red" in vm.console_tail()
    assert "owned" not in vm.console_tail()


def test_bytes_that_are_no_utf8(vm: VirtualMachine) -> None:
    vm.fake.guest.write_console(b"a\xff\x00b\xc3")
    vm.fake.guest.write_console(b"\xa9\n")
    vm.console.expect_exact("a\ufffd\x00bé")


def test_log_has_everything_read_or_not(vm: VirtualMachine) -> None:
    vm.console.expect("hello")
    vm.fake.guest.write_console(b"more")
    vm.console.expect("more")
    assert vm.console.log == "hello\r\nmore"


def test_typing(vm: VirtualMachine) -> None:
    vm.fake.guest.on_console(rb"(\w+)\n", lambda found: b"<" + found[1] + b">")
    assert vm.console.sendline("uname") == 6
    vm.console.expect("<uname>")
    vm.console.write("a")
    vm.console.writelines(["b", "\n"])
    vm.console.expect("<ab>")


def test_a_wait_without_limit_is_ended_by_text(vm: VirtualMachine) -> None:
    vm.console.expect("hello", timeout=None)


def test_assert_console_shows_what_there_is_instead(vm: VirtualMachine) -> None:
    vm.fake.guest.write_console(b"Booting kernel 6.1\r\nguest login: ")
    vm.console.expect("login: ")
    # What was expected counts too.
    assert vm.assert_console(r"kernel (\d)\.")[1] == "6"
    assert vm.assert_console(["nothing", "hello"], timeout=0)[0] == "hello"
    with pytest.raises(AssertionError) as caught:
        vm.assert_console(r"Booting kernel 7\.\d", timeout=0.01)
    text = str(caught.value)
    assert "the console serial0 does not show it (waited 0.01 s)" in text
    assert r"expected: 'Booting kernel 7\\.\\d'" in text
    assert "most like it: 'Booting kernel 6.1'" in text
    assert text.endswith("  | guest login:")
    with pytest.raises(VMError, match="no console 'seral0'; it has serial0; did you mean"):
        vm.assert_console("x", console="seral0")
    vm.fake.guest.poweroff()
    with pytest.raises(ConsoleEOFError, match="'more'"):
        vm.assert_console("more")


def test_several_consoles_have_their_names() -> None:
    with VirtualMachine(backend="fake", consoles=("main", "debug")) as vm:
        vm.fake.guest.write_console(b"x")
        assert list(vm.consoles) == ["main", "debug"]
        assert vm.console is vm.consoles["main"]
        with pytest.raises(ConsoleTimeoutError, match="at the console debug"):
            vm.consoles["debug"].expect("x", timeout=0.01)


@pytest.mark.needs_qemu
def test_a_real_guest_answers(tmp_path: Path) -> None:
    fields = guests.overrides("echo", tmp_path, banner="hello")
    with VirtualMachine(accel="tcg", timeout=20, **fields) as vm:
        vm.console.expect_exact("hello")
        for word in ("first", "second"):
            vm.console.sendline(word)
            vm.console.expect_exact(word)


@pytest.mark.needs_qemu
def test_a_guest_that_floods_is_never_stalled_and_nothing_is_lost(tmp_path: Path) -> None:
    # More comes through than any socket's buffer holds, while nobody reads the console.
    fields = guests.overrides("flood", tmp_path, banner="hello")
    with VirtualMachine(accel="tcg", timeout=60, **fields) as vm:
        deadline = time.monotonic() + 60
        while len(vm.console.log) < 700_000:
            assert time.monotonic() < deadline
            vm.assert_no_event("STOP", within=0.1)
        vm.stop()
        lines = vm.console.log.split("\r\n")[1:-1]
    assert [int(line, 16) for line in lines] == list(range(len(lines)))
