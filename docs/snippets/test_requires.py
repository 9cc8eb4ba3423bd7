"""What a test requires of QEMU and its host."""

# region: test
import pytest
from pytest_qmp import VirtualMachine


@pytest.mark.qmp(requires=["device:virtio-rng-pci"], devices=["virtio-rng-pci"])
def test_with_a_random_number_generator(qmp_vm: VirtualMachine) -> None:
    qmp_vm.assert_status("running")


@pytest.mark.qmp(requires=["qemu>=7.0", "command:query-stats"])
def test_statistics_are_there(qmp_vm: VirtualMachine) -> None:
    assert "query-stats" in {one["name"] for one in qmp_vm.execute("query-commands")}


# endregion
