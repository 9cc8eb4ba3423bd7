"""The ways to say what a machine is made of."""

# region: fixture
from pathlib import Path

import pytest
from pytest_qmp import Drive, VirtualMachine, VMConfig, VMFactory


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024 * 1024))
    return path


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, disk: Path) -> VMConfig:
    return qmp_vm_config.replace(
        memory="64M",
        drives=[Drive(disk, snapshot=True)],
        devices=["virtio-rng-pci", {"driver": "virtio-balloon-pci", "id": "balloon0"}],
    )


def test_starts_with_my_disk(qmp_vm: VirtualMachine) -> None:
    qmp_vm.assert_status("running")


# endregion
# region: marker
@pytest.mark.qmp(machine="pc", memory="32M")
def test_on_the_old_pc(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.config.machine == "pc"


# endregion
# region: factory
def test_paused(qmp_vm_factory: VMFactory) -> None:
    vm = qmp_vm_factory(paused=True, name="sleeper")
    vm.assert_status("prelaunch")
    vm.assert_qmp("query-name", "name", "sleeper")


# endregion
