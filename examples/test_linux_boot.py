"""Boot a real Linux, use its shell, power it off."""

from __future__ import annotations

from collections.abc import Callable

import linux_guest
import pytest

from pytest_qmp import VirtualMachine, VMConfig

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture(scope="session")
def linux() -> linux_guest.LinuxGuest:
    """A kernel and an initramfs; built once, then kept in a cache."""
    try:
        return linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, linux: linux_guest.LinuxGuest) -> VMConfig:
    """Every test here gets a machine that boots it."""
    return qmp_vm_config.replace(
        kernel=linux.kernel, initrd=linux.initrd, append=linux_guest.APPEND, memory="256M"
    )


@pytest.fixture(scope="session")
def qmp_boot() -> Callable[[VirtualMachine], None]:
    """How it is booted: once. Each test has a machine of its own that begins where this ends."""

    def boot(vm: VirtualMachine) -> None:
        vm.console.expect_exact(linux_guest.PROMPT, timeout=60)

    return boot


def test_shell(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.console.run("uname -s -m").output == "Linux x86_64\n"
    assert qmp_vm.console.run("ls /nowhere").status != 0


def test_power_off(qmp_vm: VirtualMachine) -> None:
    # The console is a pexpect spawn: all that pexpect can do works on it.
    qmp_vm.console.sendline("echo $((6 * 7)); poweroff -f")
    qmp_vm.console.expect_exact("42")
    qmp_vm.wait_for_event("SHUTDOWN", match={"data": {"guest": True}})
    assert qmp_vm.wait() == 0


def test_power_button(qmp_vm: VirtualMachine) -> None:
    event = qmp_vm.powerdown()  # presses the power button; it is for the guest to act on it
    assert event.data["reason"] == "guest-shutdown"
