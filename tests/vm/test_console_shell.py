"""``login()`` and ``run()`` at shells of this host: what real programs at a terminal do."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_qmp import (
    ConsoleCommandError,
    ConsoleEOFError,
    ConsoleLoginError,
    ConsoleTimeoutError,
    VirtualMachine,
    VMError,
)
from pytest_qmp.vm.console import Console
from tests.vm.tty import at_tty, console_on

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "dash": ["dash", "-i"],
    "busybox": ["busybox", "sh", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}


def present(name: str) -> list[str]:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} on the PATH")
    return SHELLS[name]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Iterator[Console]:
    with at_tty(present(request.param)) as (console, _):
        yield console


def test_output_and_status_are_the_commands_own(shell: Console) -> None:
    for command, output, status in (
        ("echo hi", "hi\n", 0),
        ("printf none", "none", 0),
        ("true", "", 0),
        ("(exit 3)", "", 3),
        ("false # why", "", 1),
        (r"printf 'a\0b\377c'", "a\0b\ufffdc", 0),
        (r"printf '\r\n\r\n'", "\r\n\r\n", 0),
        (r"printf '\033[31mred\033[0m\n'", "\x1b[31mred\x1b[0m\n", 0),
        ("echo 'it'\\''s' \"a  b\" '!!' é€", "it's a  b !! é€\n", 0),
        ("for i in 1 2; do\n  echo $i\ndone", "1\n2\n", 0),
        ("cat <<EOF\nhello 'x' $((1+1))\n\ttab\nEOF", "hello 'x' 2\n\ttab\n", 0),
        ("cd /; X=5", "", 0),
        ("pwd; echo $X", "/\n5\n", 0),
        ("echo err >&2; (exit 7)", "err\n", 7),
        ("printf 'a\x01\x7f' | od -An -tx1 | tr -d ' \\n'", "61017f", 0),
        (f"echo {'x' * 5000} | wc -c | tr -d ' '", "5001\n", 0),
        ("", "", 0),
    ):
        assert shell.run(command) == (output, status), command


def test_a_shell_that_login_has_found_can_be_got_ready_ahead(shell: Console) -> None:
    assert not shell.know_shell(10)
    shell.login("nobody", prompt="guest# $")
    assert shell.shell_state is None
    assert shell.know_shell(10)
    state = shell.shell_state
    assert state is not None
    assert shell.run("echo ready") == ("ready\n", 0)
    assert shell.shell_state == replace(state, number=state.number + 1)


def test_a_large_output_is_whole(shell: Console) -> None:
    result = shell.run("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done", timeout=60)
    assert result.output == "".join(f"{number}\n" for number in range(20_000))


def test_a_command_that_is_no_correct_one_fails_alone(shell: Console) -> None:
    result = shell.run("if then")
    assert result.status != 0
    assert result.output
    assert shell.run("echo again") == ("again\n", 0)


def test_a_command_that_does_not_end_is_interrupted(shell: Console) -> None:
    with pytest.raises(ConsoleTimeoutError, match="end of 'echo begun; cat'") as caught:
        shell.run("echo begun; cat", timeout=0.5)
    assert caught.value.output == "begun\n"
    assert "  | begun" in str(caught.value)
    assert shell.run("echo again") == ("again\n", 0)


def test_typing_goes_on_behind_the_prompt(shell: Console) -> None:
    shell.run("cd /tmp")
    shell.sendline("echo typed")
    shell.expect("typed\r\n")
    assert not re.search("guest# .*guest# ", str(shell.before), re.DOTALL)
    shell.expect_exact("guest# ")


def test_a_shell_that_ignores_the_interrupt_is_found_again() -> None:
    with at_tty(present("dash")) as (console, _):
        with pytest.raises(ConsoleTimeoutError):
            console.run("trap '' INT; sleep 2; echo late", timeout=0.3)
        assert console.run("echo again") == ("again\n", 0)
        assert "late" in console.log


@pytest.mark.parametrize("name", ["bash", "dash"])
def test_echo_that_stays_on_and_narrow_lines(name: str) -> None:
    argv = [str(shutil.which(name)), *present(name)[1:]]
    # There is no stty to turn it off.
    with at_tty(argv, columns=20, path="/nonexistent") as (console, _):
        assert console.run("echo one two three four five; (exit 4)") == (
            "one two three four five\n",
            4,
        )
        assert console.run("printf a; echo b\necho c") == ("ab\nc\n", 0)
        assert "echo one" in console.log


def test_a_prompt_of_several_kinds_is_passed() -> None:
    for prompt in ("\x1b[32mroot@guest\x1b[0m:~# ", "[me@it dir]$ ", "> ", "strange"):
        with at_tty(present("dash"), prompt=prompt) as (console, _):
            console.run("true")
            console.run("cd /")
            assert console.buffer == ""
            console.sendline("echo x")
            console.expect("x")


def test_a_check_that_fails_shows_the_output(shell: Console) -> None:
    assert shell.run("echo fine", check=True).status == 0
    with pytest.raises(
        ConsoleCommandError, match=r"(?s)failed with status 2.*  \| no good"
    ) as caught:
        shell.run("echo no good; (exit 2)", check=True)
    error = caught.value
    assert (error.command, error.output, error.status) == (
        "echo no good; (exit 2)",
        "no good\n",
        2,
    )


def test_what_no_console_takes_is_refused() -> None:
    with at_tty(present("dash")) as (console, _):
        console.run("true")
        with pytest.raises(VMError, match="NUL"):
            console.run("echo a\0b")
        with pytest.raises(VMError, match="more than a console takes"):
            console.run("x" * 100_000)
        with pytest.raises(TypeError):
            console.run(b"echo")  # type: ignore[arg-type]
        assert console.run("echo fine").output == "fine\n"


def test_a_shell_that_ends_says_so() -> None:
    with at_tty(present("dash")) as (console, _), pytest.raises(ConsoleEOFError, match="end of"):
        console.run("echo bye; exit 3")


def test_a_kernel_that_writes_in_the_midst_harms_nothing() -> None:
    with at_tty(present("dash")) as (console, kernel):
        console.run("true")
        stop = threading.Event()

        def write() -> None:
            while not stop.wait(0.0003):
                kernel.sendall(b"[    1.5] usb 1-1: new device\r\n")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(100):
                result = console.run(f"echo line {number}; (exit {number % 9})")
                shown = re.sub(r"\[    1.5\] usb 1-1: new device\n", "", result.output)
                assert shown == f"line {number}\n"
                assert result.status == number % 9
        finally:
            stop.set()
            writer.join()


@pytest.fixture
def marks() -> Iterator[tuple[Console, socket.socket]]:
    """A console whose guest is the test itself, byte by byte."""
    ours, theirs = socket.socketpair()
    with console_on(ours, timeout=5) as console:
        yield console, theirs
    theirs.close()


@pytest.mark.parametrize("place", range(1, 30, 3))
def test_a_mark_that_is_cut_in_two_is_a_mark(
    marks: tuple[Console, socket.socket], place: int
) -> None:
    console, guest = marks

    def play() -> None:
        typed = b""
        while True:
            typed += guest.recv(4096)
            if b"\n" not in typed:
                continue
            found = re.search(rb"' (\w+) (\d+)", typed)
            assert found is not None
            head = b"~qmp%s:%s:" % (found[1], found[2])
            if b":p%s" in typed:
                guest.sendall(head + b"p;\r\n$ ")
            else:
                end = head + b"12;"
                noise = b"[ 1.0] first\r\n[ 1.1] second\r\n"
                guest.sendall(head + b"b;out" + end[:place] + noise + end[place:] + b"\r\n$ ")
                return
            typed = b""

    player = threading.Thread(target=play)
    player.start()
    result = console.run("anything")
    player.join()
    noise = "[ 1.0] first\n[ 1.1] second\n"
    assert result.status == 12
    assert result.output.replace(noise, "") == "out"


def test_no_shell_answers(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    guest.sendall(b"U-Boot> ")
    with pytest.raises(ConsoleTimeoutError, match=r"(?s)no POSIX shell answered.*login.*U-Boot>"):
        console.run("version", timeout=0.2)


def test_a_login_that_is_asked_for_is_told(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    guest.sendall(b"\r\nguest login: ")
    console.expect("login:")
    with pytest.raises(ConsoleLoginError, match=r"(?s)asks for a login.*login\(user, password\)"):
        console.run("true")
    guest.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.recv(1)  # Nothing was typed at it.


# -- login -----------------------------------------------------------------------------------------


class Getty(threading.Thread):
    """A guest that asks for user and password, as getty and login do."""

    def __init__(self, sock: socket.socket, *, password: str = "secret", asks: bool = True) -> None:
        super().__init__(daemon=True)
        self._lines = sock.makefile("rb")
        self._sock = sock
        self._password = password
        self._asks = asks
        self.start()

    def _say(self, text: str) -> None:
        self._sock.sendall(text.encode())

    def _line(self, echo: bool = True) -> str:
        line = self._lines.readline()
        if not line:
            raise EOFError
        text = line.decode().strip()
        self._say(f"{text if echo else ''}\r\n")
        return text

    def run(self) -> None:
        try:
            while True:
                self._say("\r\nDebian GNU/Linux 12 guest ttyS0\r\n\r\nguest login: ")
                user = self._line()
                if not user:
                    continue
                if self._asks:
                    self._say("Password: ")
                    if self._line(echo=False) != self._password:
                        self._say("\r\nLogin incorrect\r\n")
                        continue
                self._say("Last login: Mon Nov 23 00:00:00 UTC 2026 on ttyS0\r\nWelcome.\r\n")
                while True:
                    self._say(f"\x1b[1m{user}@guest\x1b[0m:~# ")
                    self._line()
        except (OSError, EOFError):
            return


def logged_in(console: Console) -> None:
    console.sendline("ls")
    console.expect(r"^ls\r\n.*# ")


def test_login(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    Getty(guest)
    console.login("root", "secret")
    logged_in(console)
    console.login("root", "secret")  # It is content with who is there.
    logged_in(console)
    assert console.log.count("Password: ") == 1


def test_login_where_the_question_was_read(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    Getty(guest)
    console.expect("login: ")
    console.login("root", "secret", prompt=r"root@guest.*# ")
    logged_in(console)
    assert console.log.count("login: ") == 2  # Of which one is “Last login”.


def test_login_without_a_password(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    Getty(guest, asks=False)
    console.login("root")
    logged_in(console)


@pytest.mark.parametrize(
    ("password", "why"), [("wrong", "the password is wrong"), (None, "none was given")]
)
def test_a_login_that_fails(
    marks: tuple[Console, socket.socket], password: str | None, why: str
) -> None:
    console, guest = marks
    Getty(guest)
    began = time.monotonic()
    with pytest.raises(ConsoleLoginError, match=f"(?s)'root'.*{why}.*guest login: root"):
        console.login("root", password, timeout=20)
    assert time.monotonic() - began < 10


def test_a_login_that_never_comes(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    guest.sendall(b"Booting ...\r\n")
    with pytest.raises(ConsoleTimeoutError, match=r"(?s)waited 0\.3 s for a login.*Booting"):
        console.login("root", timeout=0.3)


def test_a_prompt_that_never_comes(marks: tuple[Console, socket.socket]) -> None:
    console, guest = marks
    Getty(guest)
    with pytest.raises(ConsoleTimeoutError, match=r"(?s)shell's prompt.*'never> '.*guest.*:~#"):
        console.login("root", "secret", prompt="never> ", timeout=1)


# -- on the fake -----------------------------------------------------------------------------------


def test_a_shell_that_the_fake_plays() -> None:
    with VirtualMachine(backend="fake", timeout=5) as vm:
        guest = vm.fake.guest
        guest.play_shell(
            {
                "uname -r": "6.1\n",
                "false": ("", 1),
                "cat <<E\nit's\nE": "it's\n",
                "date": lambda command: f"{command} now\n",
                "x" * 900: b"\xfflong",
            }
        )
        guest.on_console(rb"reboot\n", b"Rebooting\r\n")
        assert vm.console.run("uname -r") == ("6.1\n", 0)
        assert vm.console.run("false") == ("", 1)
        assert vm.console.run("cat <<E\nit's\nE").output == "it's\n"
        assert vm.console.run("date").output == "date now\n"
        assert vm.console.run("x" * 900).output == "\ufffdlong"
        assert vm.console.run("nope") == ("sh: nope: not found\n", 127)
        vm.console.sendline("uname -r")
        vm.console.expect_exact("6.1\r\n# ")
        vm.console.sendline("reboot")
        vm.console.expect("Rebooting")


def test_a_copy_of_a_guest_goes_on_with_its_shell() -> None:
    with (
        VirtualMachine(backend="fake", timeout=5) as original,
        VirtualMachine(backend="fake", timeout=5) as clone,
    ):
        for vm in (original, clone):
            vm.fake.guest.play_shell(lambda command: command.upper())
        assert original.console.shell_state is None
        original.console.run("one")
        clone.console.shell_state = original.console.shell_state
        assert clone.console.run("two").output == "TWO"
        assert b"stty" not in clone.fake.guest.console_input
