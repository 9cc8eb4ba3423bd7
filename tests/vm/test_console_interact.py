"""``interact()``: a person at a terminal, played by the test at its other end."""

from __future__ import annotations

import os
import pty
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pytest_qmp import VirtualMachine, VMError
from tests.leftovers import wait_until


@dataclass
class Person:
    """Somebody at a terminal: the other end of it, and what makes it the test's own."""

    end: int
    sit_down: Callable[[], object]


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    """The end of the terminal at which the person sits."""
    master, slave = pty.openpty()
    with open(slave) as keyboard, open(os.dup(slave), "w") as screen:
        # Not in place already: pytest's capture lays its own over them when the test begins.
        seat = {"stdin": keyboard, "stdout": screen}
        yield Person(master, lambda: [monkeypatch.setattr(sys, *one) for one in seat.items()])
        monkeypatch.undo()
    os.close(master)


def read_until(master: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += os.read(master, 4096)
    return seen


def test_a_person_talks_with_the_guest(person: Person) -> None:
    with VirtualMachine(backend="fake", timeout=5) as vm:
        guest = vm.fake.guest
        guest.write_console(b"hello\r\n# ")
        guest.on_console(rb"ls\r", b"ls\r\nfile\r\n# ")
        before = termios.tcgetattr(person.end)
        shown: list[bytes] = []

        def talk() -> None:
            shown.append(read_until(person.end, b"# "))
            os.write(person.end, b"ls\r")
            shown.append(read_until(person.end, b"file\r\n# "))
            os.write(person.end, b"typed last\x1dnot typed")

        talker = threading.Thread(target=talk)
        talker.start()
        person.sit_down()
        vm.console.interact()
        talker.join()
        assert b"Ctrl-] leaves it" in shown[0]
        assert b"hello\r\n# " in shown[0]
        assert b"left the console serial0" in read_until(person.end, b"left the console serial0")
        assert termios.tcgetattr(person.end) == before
        guest.write_console(b"more")
        vm.console.expect("more")
        assert vm.console.before == ""  # What the person saw is passed over.
        assert guest.console_input == b"ls\rtyped last"


def test_the_machines_end_ends_it(person: Person) -> None:
    with VirtualMachine(backend="fake", timeout=5) as vm:
        vm.fake.guest.write_console(b"hello")
        killer = threading.Timer(0.2, vm.kill)
        killer.start()
        person.sit_down()
        vm.console.interact(escape_character=None)
        killer.join()
        assert b"has closed" in read_until(person.end, b"has closed")


def test_echo_is_on_for_a_person(person: Person) -> None:
    with VirtualMachine(backend="fake", timeout=5) as vm:
        vm.fake.guest.play_shell({})
        vm.console.run("")
        person.sit_down()
        os.write(person.end, b"\x1d")
        vm.console.interact()
        wait_until(lambda: b"stty echo" in vm.fake.guest.console_input)
        assert vm.console.shell_state is None


def test_no_terminal() -> None:
    with VirtualMachine(backend="fake", timeout=5) as vm:
        vm.fake.guest.write_console(b"hello")
        with pytest.raises(VMError, match=r"needs a terminal.*-s"):
            vm.console.interact()
