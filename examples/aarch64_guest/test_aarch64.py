"""Test a Linux on another architecture, a 64-bit ARM, on whatever machine the tests run."""

from __future__ import annotations

from collections.abc import Iterator

import linux_guest
import pytest

from pytest_qmp import VirtualMachine, VMConfig

# Where there is no qemu-system-aarch64, the tests are skipped.
pytestmark = pytest.mark.qmp(backend="qemu", arch="aarch64")


@pytest.fixture(scope="module")
def vm() -> Iterator[VirtualMachine]:
    """One machine for all tests here: it boots once."""
    try:
        linux = linux_guest.build(arch="aarch64")
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    config = VMConfig(
        arch="aarch64",  # the machine is then virt, the CPU a cortex-a72
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login",
        memory="256M",
        smp=2,
        timeout=60,
    )
    with VirtualMachine(config) as machine:
        machine.console.login("root", "root")
        yield machine


def test_architecture(vm: VirtualMachine) -> None:
    assert vm.console.run("uname -m").output == "aarch64\n"
    assert "CPU part\t: 0xd08" in vm.console.run("cat /proc/cpuinfo").output  # a cortex-a72


def test_both_cpus_are_up(vm: VirtualMachine) -> None:
    assert vm.console.run("nproc").output == "2\n"
    assert len(vm.execute("query-cpus-fast")) == 2


def test_device_tree(vm: VirtualMachine) -> None:
    machine = vm.console.run("cat /proc/device-tree/compatible").output
    assert machine == "linux,dummy-virt\0"


def test_power_button(vm: VirtualMachine) -> None:
    vm.powerdown()
    assert vm.wait() == 0
