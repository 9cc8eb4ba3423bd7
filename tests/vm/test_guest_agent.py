"""``vm.guest``: the guest agent of a machine that has a port for it."""

from __future__ import annotations

import os
import signal
import threading

import linux_guest
import pytest

from pytest_qmp import (
    GuestAgentClient,
    NeedsRealGuestError,
    QMPTimeoutError,
    VirtualMachine,
    VMConfig,
    VMError,
    VMVerdictError,
)
from tests.guests import debian

LIMIT = 60


@pytest.fixture(scope="module")
def linux() -> VMConfig:
    """The examples' Linux with Debian's agent in it."""
    try:
        guest = debian.linux_with("qemu-guest-agent")
    except debian.GuestBuildError as error:
        pytest.skip(str(error))
    return VMConfig(
        accel="tcg",
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=linux_guest.APPEND,
        memory="256M",
        guest_agent=True,
        timeout=LIMIT,
    )


def start_agent(vm: VirtualMachine) -> None:
    """Types the command that starts it at the guest's shell."""
    vm.console.expect_exact(linux_guest.PROMPT)
    vm.console.sendline("mkdir -p /run; qemu-ga -m virtio-serial -p /dev/vport0p1 -t /tmp &")


@pytest.mark.needs_qemu
def test_the_agent_of_a_real_guest(linux: VMConfig) -> None:
    with VirtualMachine(linux) as vm:
        start_agent(vm)
        assert isinstance(vm.guest, GuestAgentClient)
        assert vm.guest.exec(["echo", "hello"]).output == b"hello\n"
        vm.guest.write_file("/tmp/it", b"data")
        assert vm.guest.read_file("/tmp/it") == b"data"
        # A wait for it ends with what happens to the machine, too.
        threading.Timer(0.2, os.kill, (vm.pid, signal.SIGKILL)).start()
        with pytest.raises(VMVerdictError, match=r"killed by SIGKILL.*'guest-exec"):
            vm.guest.exec(["sleep", "50"])


@pytest.mark.needs_qemu
def test_a_guest_without_an_agent(linux: VMConfig) -> None:
    with (
        VirtualMachine(linux, paused=True, timeout=0.3) as vm,
        pytest.raises(QMPTimeoutError, match="that qemu-guest-agent is installed and runs"),
    ):
        _ = vm.guest


@pytest.mark.needs_qemu
def test_a_machine_without_a_port() -> None:
    with (
        VirtualMachine(accel="tcg", machine="none") as vm,
        pytest.raises(VMError, match=r"VMConfig\(guest_agent=True\) gives it one"),
    ):
        _ = vm.guest


def test_the_fake_has_no_agent() -> None:
    with VirtualMachine(backend="fake", guest_agent=True) as vm, pytest.raises(NeedsRealGuestError):
        _ = vm.guest
