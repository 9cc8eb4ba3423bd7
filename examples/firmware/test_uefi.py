"""Test a firmware: UEFI as Debian packages it (OVMF), up to its shell and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig

CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

MARK = "Mark -guid 11111111-2222-3333-4444-555555555555"  # the name of a variable

pytestmark = [
    pytest.mark.qmp(backend="qemu"),
    pytest.mark.skipif(
        not CODE.exists(), reason=f"there is no {CODE}: on Debian, apt-get install ovmf"
    ),
]


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, tmp_path: Path) -> VMConfig:
    """A machine with two flash chips: the firmware, and a copy of its variables to write to."""
    variables = tmp_path / "variables.fd"
    shutil.copy(VARIABLES, variables)
    flash = [
        Drive(CODE, format="raw", interface="pflash", read_only=True),
        Drive(variables, format="raw", interface="pflash"),
    ]
    return qmp_vm_config.replace(drives=flash, memory="256M")


def enter_shell(vm: VirtualMachine) -> None:
    vm.console.expect_exact("UEFI Interactive Shell", timeout=60)
    vm.console.expect_exact("any other key to continue")
    vm.console.send("\r")  # else it waits five seconds
    vm.console.expect_exact("Shell> ")


def test_shell_and_what_survives_a_reset(qmp_vm: VirtualMachine) -> None:
    console = qmp_vm.console
    console.expect_exact('BdsDxe: starting Boot0001 "EFI Internal Shell"', timeout=60)
    enter_shell(qmp_vm)
    console.send(f"setvar {MARK} -bs -nv =0x2A\r")
    console.expect_exact("Shell> ")

    with qmp_vm.allow("reset"):
        console.send("reset -c\r")
        enter_shell(qmp_vm)
    console.send(f"setvar {MARK}\r")
    console.expect_exact("2A")

    console.expect_exact("Shell> ")
    console.send("reset -s\r")
    assert qmp_vm.wait() == 0
