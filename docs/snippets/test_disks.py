# region: overlay
import hashlib
from pathlib import Path

import pytest
from pytest_qmp import Drive, VirtualMachine, VMConfig, create_disk


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return create_disk(tmp_path / "image.raw", "16M", "raw")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, image: Path) -> VMConfig:
    return qmp_vm_config.replace(
        drives=[Drive(image, overlay=True), Drive.empty("64M", format="raw")],
        hotplug_slots=1,
    )


def test_the_image_stays_as_it_is(qmp_vm: VirtualMachine, image: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    disks = qmp_vm.execute("query-block")
    sizes = [disk["inserted"]["image"]["virtual-size"] for disk in disks if "inserted" in disk]
    assert sizes == [16 * 2**20, 64 * 2**20]
    qmp_vm.quit()
    assert hashlib.sha256(image.read_bytes()).digest() == before


# endregion


# region: plug
def test_another_disk_while_it_runs(qmp_vm: VirtualMachine) -> None:
    image = qmp_vm.create_disk("64M", "raw")
    node = qmp_vm.blockdev(image)
    disk = qmp_vm.hotplug("virtio-blk-pci", drive=node)
    path = f"/machine/peripheral/{disk}"
    assert qmp_vm.execute("qom-get", path=path, property="drive") == node


# endregion
