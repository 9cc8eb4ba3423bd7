"""The console of a real Linux: one guest for all of these tests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import linux_guest
import pytest

from pytest_qmp import ConsoleLoginError, ConsoleTimeoutError, VirtualMachine, VMConfigError
from pytest_qmp.vm.console import Console

PORTS = ("main", "second", "third", "fourth", "card")

# The word "secret", as /etc/passwd has it.
SECRET = "$1$qmp$w9/RfEhchm81EbKot7nKw1"

pytestmark = pytest.mark.needs_qemu


@pytest.fixture(scope="module")
def linux() -> Iterator[VirtualMachine]:
    try:
        guest = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    with VirtualMachine(
        accel="tcg",
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=f"{linux_guest.APPEND} 8250.nr_uarts=8",
        memory="256M",
        consoles=PORTS,
        timeout=60,
    ) as vm:
        vm.console.login("root", timeout=120)
        yield vm


@pytest.fixture
def console(linux: VirtualMachine) -> Console:
    return linux.console


def test_commands(console: Console) -> None:
    assert console.run("uname -s") == ("Linux\n", 0)
    assert console.run("cat /nonexistent 2>/dev/null; (exit 5)").status == 5
    assert console.run("head -c 3 /dev/zero; printf '\\377'").output == "\0\0\0\ufffd"
    assert console.run(f"echo {'x' * 20_000} | wc -c") == ("20001\n", 0)
    assert "\x1b[" in console.run("ls --color=always /").output


def test_a_command_costs_little(console: Console) -> None:
    console.run("true")
    began = time.monotonic()
    for number in range(20):
        assert console.run(f"echo {number}").output == f"{number}\n"
    # With the echo on each takes 25 ms on a quiet host.
    assert time.monotonic() - began < 20


def test_what_the_kernel_writes_is_in_the_output(console: Console) -> None:
    console.run("dmesg -n 8")
    result = console.run("for i in 1 2 3; do echo kernel $i > /dev/kmsg; echo out $i; done")
    assert re.findall(r"(?:out|kernel) \d", result.output) == [
        f"{what} {number}" for number in (1, 2, 3) for what in ("kernel", "out")
    ]


def test_a_kernel_that_does_not_stop_to_write(console: Console) -> None:
    console.run("dmesg -n 8")
    console.run("(while :; do echo noise > /dev/kmsg; usleep 2000; done) & echo $! > /tmp/pid")
    try:
        for number in range(30):
            result = console.run(f"echo line {number}; (exit {number})")
            assert result.status == number
            assert f"line {number}" in result.output
    finally:
        console.run("kill $(cat /tmp/pid)")
    console.run("dmesg -n 1; wait")


def test_a_megabyte(console: Console) -> None:
    console.run("dmesg -n 1")
    result = console.run("seq 1 40000", timeout=120)
    assert result.output == "".join(f"{number}\n" for number in range(1, 40_001))


def test_a_command_that_does_not_end(console: Console) -> None:
    with pytest.raises(ConsoleTimeoutError, match="interrupted by Ctrl-C") as caught:
        console.run("echo begun; sleep 1000", timeout=1)
    assert caught.value.output == "begun\n"
    assert console.run("echo again") == ("again\n", 0)


def test_a_shell_that_ends_gives_way_to_the_next(console: Console) -> None:
    with pytest.raises(ConsoleTimeoutError, match="end of 'exit'"):
        console.run("exit", timeout=2)
    console.login("root")
    assert console.run("echo new") == ("new\n", 0)


def test_every_port_is_a_console(linux: VirtualMachine) -> None:
    for number, name in enumerate(PORTS[1:], 1):
        linux.console.run(f"echo hello {name} > /dev/ttyS{number}", check=True)
        linux.consoles[name].expect_exact(f"hello {name}")
        linux.assert_console(f"hello {name}", console=name, timeout=0)
        with pytest.raises(AssertionError, match=f"(?s)hello nobody.*most like it: 'hello {name}'"):
            linux.assert_console("hello nobody", console=name, timeout=0)


def test_getty_and_login(linux: VirtualMachine) -> None:
    linux.console.run(
        "mkdir -p /root; echo 127.0.0.1 localhost > /etc/hosts\n"
        f"echo 'root:{SECRET}:0:0:root:/root:/bin/sh' > /etc/passwd\n"
        "echo root:x:0: > /etc/group\n"
        "(while :; do setsid getty -L 115200 ttyS2 vt100; done) >/dev/null 2>&1 &",
        check=True,
    )
    third = linux.consoles["third"]
    third.expect("login: ", timeout=60)
    with pytest.raises(ConsoleLoginError, match=r"(?s)the password is wrong.*Login incorrect"):
        third.login("root", "wrong")
    third.login("root", "secret")
    assert third.run("tty") == ("/dev/ttyS2\n", 0)
    with pytest.raises(ConsoleTimeoutError, match="asks for a login"):
        third.run("exit", timeout=2.5)
    with pytest.raises(ConsoleLoginError, match="asks for a login"):
        third.run("true")
    third.login("root", "secret", prompt="# $")
    assert third.run("echo $HOME").output == "/root\n"


@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_every_port_of_virt_is_connected(arch: str) -> None:
    with VirtualMachine(
        arch=arch, machine="virt", accel="tcg", consoles=("one", "two", "three"), paused=True
    ) as vm:
        ports = {one["label"]: one["frontend-open"] for one in vm.execute("query-chardev")}
        assert [ports[name] for name in ("one", "two", "three")] == [True] * 3


def test_a_microvm_has_one() -> None:
    with pytest.raises(VMConfigError, match="microvm has one serial port"):
        VirtualMachine(machine="microvm", accel="tcg", consoles=("one", "two")).start()


def test_a_flood_that_nobody_reads(linux: VirtualMachine) -> None:
    # More than any buffer between takes; with the carriage returns 16 bytes a line.
    second = linux.consoles["second"]
    flood = "yes 0123456789abcd | head -n 20000; echo flood-end"
    linux.console.run(f"({flood}) > /dev/ttyS1", timeout=240, check=True)
    second.expect("flood-end", timeout=60)
    lines = str(second.before).split("\r\n")
    assert lines.count("0123456789abcd") == 20_000
    assert second.log.count("0123456789abcd") == 20_000
