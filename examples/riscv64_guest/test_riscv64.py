"""Test a Linux on a 64-bit RISC-V, and the firmware below it."""

from __future__ import annotations

from collections.abc import Iterator

import linux_guest
import pytest

from pytest_qmp import VirtualMachine, VMConfig

# Where there is no qemu-system-riscv64, the tests are skipped.
pytestmark = pytest.mark.qmp(backend="qemu", arch="riscv64")


@pytest.fixture(scope="module")
def vm() -> Iterator[VirtualMachine]:
    """One machine for all tests here: it boots once."""
    try:
        linux = linux_guest.build(arch="riscv64")
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    config = VMConfig(
        arch="riscv64",
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login",
        memory="256M",
        timeout=60,
    )
    with VirtualMachine(config) as machine:
        machine.console.login("root", "root")
        yield machine


def test_firmware_starts_linux(vm: VirtualMachine) -> None:
    # What came before the login is not lost: the log has all of it.
    assert "OpenSBI v" in vm.console.log
    assert "Boot HART ID" in vm.console.log


def test_architecture(vm: VirtualMachine) -> None:
    assert vm.console.run("uname -m").output == "riscv64\n"
    assert "isa\t\t: rv64imafdc" in vm.console.run("cat /proc/cpuinfo").output


def test_clock(vm: VirtualMachine) -> None:
    vm.console.run("test -c /dev/rtc0", check=True)


def test_powers_off(vm: VirtualMachine) -> None:
    vm.console.sendline("poweroff")  # the machine virt has no power button here
    vm.wait_for_shutdown()
    assert vm.wait() == 0
