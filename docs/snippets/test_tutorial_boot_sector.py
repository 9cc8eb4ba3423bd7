"""The tutorial's guest."""

# mypy: allow-untyped-defs
# region: config
import boot_sector
import pytest
from pytest_qmp import Drive

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config, tmp_path):
    disk = tmp_path / "boot.img"
    boot_sector.write_disk(disk)
    return qmp_vm_config.replace(drives=[Drive(disk, format="raw")])


def test_says_hello(qmp_vm):
    qmp_vm.console.expect_exact("Hello from 512 bytes!")


# endregion
# region: power
def test_powers_off_at_a_key(qmp_vm):
    qmp_vm.console.expect_exact("Hello from 512 bytes!")
    qmp_vm.console.send("x")
    qmp_vm.wait_for_event("SHUTDOWN", match={"data": {"guest": True}})
    assert qmp_vm.wait() == 0


# endregion
