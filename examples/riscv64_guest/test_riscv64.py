"""Test a Linux on a 64-bit RISC-V, and the firmware below it."""

from __future__ import annotations

from collections.abc import Callable

import linux_guest
import pytest

from pytest_qmp import VirtualMachine, VMConfig

# Where there is no qemu-system-riscv64, the tests are skipped.
pytestmark = pytest.mark.qmp(backend="qemu", arch="riscv64")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    try:
        linux = linux_guest.build(arch="riscv64")
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    return qmp_vm_config.replace(
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login",
        memory="256M",
        timeout=60,
    )


@pytest.fixture(scope="session")
def qmp_boot() -> Callable[[VirtualMachine], None]:
    """It boots once; each test has a machine of its own that begins where that has ended."""

    def boot(vm: VirtualMachine) -> None:
        vm.console.login("root", "root")

    return boot


def test_firmware_starts_linux(qmp_vm: VirtualMachine) -> None:
    # What came before the login is not lost: the log has all of it.
    assert "OpenSBI v" in qmp_vm.console.log
    assert "Boot HART ID" in qmp_vm.console.log


def test_architecture(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.console.run("uname -m").output == "riscv64\n"
    assert "isa\t\t: rv64imafdc" in qmp_vm.console.run("cat /proc/cpuinfo").output


def test_clock(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.run("test -c /dev/rtc0", check=True)


def test_powers_off(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.sendline("poweroff")  # the machine virt has no power button here
    qmp_vm.wait_for_shutdown()
    assert qmp_vm.wait() == 0
