"""Test a guest that starts in milliseconds: a boot sector of our own."""

from __future__ import annotations

from pathlib import Path

import boot_sector
import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig

# What it prints is up to the guest, so these tests want a real QEMU: without one they are skipped.
pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, tmp_path: Path) -> VMConfig:
    """Every test here gets a machine with our boot sector on its disk."""
    disk = tmp_path / "boot.img"
    boot_sector.write_disk(disk)
    return qmp_vm_config.replace(drives=[Drive(disk, format="raw")])


def test_prints_its_message(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.expect_exact(boot_sector.MESSAGE)


def test_powers_off_at_a_key(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.expect_exact(boot_sector.MESSAGE)
    qmp_vm.console.send("x")
    qmp_vm.wait_for_event("SHUTDOWN", match={"data": {"guest": True}})
    assert qmp_vm.wait() == 0


@pytest.mark.qmp(machine="pc")
def test_runs_on_the_old_pc_too(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.expect_exact(boot_sector.MESSAGE)
