"""Test a Linux on another architecture, a 64-bit ARM, on whatever machine the tests run."""

from __future__ import annotations

from collections.abc import Callable

import linux_guest
import pytest

from pytest_qmp import VirtualMachine, VMConfig

# The machine is then virt, the CPU a cortex-a72. Where there is no qemu-system-aarch64, the tests
# are skipped.
pytestmark = pytest.mark.qmp(backend="qemu", arch="aarch64")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    try:
        linux = linux_guest.build(arch="aarch64")
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    return qmp_vm_config.replace(
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login",
        memory="256M",
        smp=2,
        timeout=60,
    )


@pytest.fixture(scope="session")
def qmp_boot() -> Callable[[VirtualMachine], None]:
    """It boots once; each test has a machine of its own that begins where that has ended."""

    def boot(vm: VirtualMachine) -> None:
        vm.console.login("root", "root")

    return boot


def test_architecture(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.console.run("uname -m").output == "aarch64\n"
    assert "CPU part\t: 0xd08" in qmp_vm.console.run("cat /proc/cpuinfo").output  # a cortex-a72


def test_both_cpus_are_up(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.console.run("nproc").output == "2\n"
    assert len(qmp_vm.execute("query-cpus-fast")) == 2


def test_device_tree(qmp_vm: VirtualMachine) -> None:
    machine = qmp_vm.console.run("cat /proc/device-tree/compatible").output
    assert machine == "linux,dummy-virt\0"


def test_power_button(qmp_vm: VirtualMachine) -> None:
    qmp_vm.powerdown()
    assert qmp_vm.wait() == 0
