"""Background jobs: a backup of a disk while the machine runs."""

# region: backup
from pathlib import Path

import pytest
from pytest_qmp import VirtualMachine, VMJobError

MIB = 1 << 20


@pytest.fixture
def disks(qmp_vm: VirtualMachine, tmp_path: Path) -> None:
    """Block nodes ``disk`` and ``copy``."""
    for name in ("disk", "copy"):
        (tmp_path / name).write_bytes(bytes(4 * MIB))
        file = {"driver": "file", "filename": str(tmp_path / name)}
        qmp_vm.execute("blockdev-add", driver="raw", node_name=name, file=file)


@pytest.mark.usefixtures("disks")
def test_backup(qmp_vm: VirtualMachine) -> None:
    info = qmp_vm.run_job("blockdev-backup", device="disk", target="copy", sync="full")
    assert info.done == info.total == 4 * MIB


# endregion
# region: mirror
@pytest.mark.usefixtures("disks")
def test_mirror_until_it_is_told(qmp_vm: VirtualMachine) -> None:
    job = qmp_vm.run_job(
        "blockdev-mirror", device="disk", target="copy", sync="full", complete=False
    )
    assert job.status == "ready"  # both are the same now, and stay so
    qmp_vm.execute("job-complete", id=job.id)
    assert qmp_vm.wait_for_job(job.id).status == "concluded"


# endregion
# region: failure
def test_a_job_that_fails(qmp_vm: VirtualMachine) -> None:
    nowhere = {"driver": "qcow2", "file": "nowhere", "size": MIB}
    with pytest.raises(VMJobError, match="Cannot find device='nowhere'"):
        qmp_vm.run_job("blockdev-create", options=nowhere)


# endregion
