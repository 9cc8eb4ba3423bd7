"""Live migration, to another machine and to a file."""

# region: live
from pathlib import Path

from pytest_qmp import VirtualMachine, VMFactory


def test_live_migration(qmp_vm: VirtualMachine, qmp_vm_factory: VMFactory) -> None:
    other = qmp_vm_factory(incoming=True)
    qmp_vm.migrate(to=other)
    qmp_vm.assert_status("postmigrate")
    other.assert_status("running")  # and other.console goes on where qmp_vm.console ended


# endregion
# region: file
def test_saved_and_restored(
    qmp_vm: VirtualMachine, qmp_vm_factory: VMFactory, tmp_path: Path
) -> None:
    qmp_vm.migrate(tmp_path / "state")
    other = qmp_vm_factory(incoming=True)
    other.migrate_incoming(tmp_path / "state")
    other.assert_status("running")


# endregion
# region: cancel
def test_cancelled(qmp_vm: VirtualMachine, qmp_vm_factory: VMFactory) -> None:
    other = qmp_vm_factory(incoming=True)
    slow = {"max-bandwidth": 4096, "downtime-limit": 1}  # bytes a second, milliseconds
    migration = qmp_vm.migrate(to=other, parameters=slow, wait=False)
    migration.wait("active")
    assert migration.progress < 1.0
    assert migration.cancel() == "cancelled"
    qmp_vm.wait_for_status("running")


# endregion
