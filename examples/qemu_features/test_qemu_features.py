"""Test QEMU itself: live migration, block jobs, hot-plugging.

To run each test on several QEMUs, as on the one that you build and the one that is installed:

    pytest --qmp-qemu=build/qemu-system-x86_64 --qmp-qemu=/usr/bin/qemu-system-x86_64
"""

from __future__ import annotations

from pathlib import Path

import boot_sector
import linux_guest
import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig, VMFactory, VMJobError

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with a guest that starts in milliseconds, and some data behind it."""
    path = tmp_path / "disk.img"
    boot_sector.write_disk(path)
    with path.open("r+b") as image:
        image.seek(512 * 1024)
        image.write(b"data of the guest")
    return path


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, disk: Path) -> VMConfig:
    return qmp_vm_config.replace(drives=[Drive(disk, format="raw", id="disk")])


# -- live migration ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fd", "unix"])
def test_guest_goes_on_elsewhere(
    qmp_vm: VirtualMachine, qmp_vm_factory: VMFactory, way: str
) -> None:
    qmp_vm.console.expect_exact(boot_sector.MESSAGE)
    there = qmp_vm_factory(incoming=True)

    qmp_vm.migrate(to=there, via=way)

    qmp_vm.assert_status("postmigrate")
    there.assert_status("running")
    there.console.send("x")  # the guest still waits for a key, and then powers off
    assert there.wait() == 0


def test_guest_goes_on_here_after_a_cancelled_migration(
    qmp_vm: VirtualMachine, qmp_vm_factory: VMFactory
) -> None:
    qmp_vm.console.expect_exact(boot_sector.MESSAGE)
    there = qmp_vm_factory(incoming=True)
    # So slowly that it does not end of itself.
    migration = qmp_vm.migrate(to=there, parameters={"max-bandwidth": 4096}, wait=False)

    migration.cancel()

    qmp_vm.assert_status("running")
    qmp_vm.console.send("x")
    assert qmp_vm.wait() == 0


# -- block jobs --------------------------------------------------------------------------------


def test_backup_of_a_disk_in_use(qmp_vm: VirtualMachine, disk: Path) -> None:
    copy = qmp_vm.create_disk("1M", "raw")
    target = qmp_vm.blockdev(copy)

    job = qmp_vm.run_job("blockdev-backup", device="disk", target=target, sync="full")

    assert job.done == job.total
    assert copy.read_bytes() == disk.read_bytes()


def test_snapshot_and_back(qmp_vm: VirtualMachine, disk: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    qmp_vm.execute("blockdev-snapshot-sync", device="disk", snapshot_file=str(overlay))
    qmp_vm.assert_qmp("query-block", "0/inserted/file", str(overlay))

    qmp_vm.run_job("block-commit", device="disk")

    qmp_vm.assert_qmp("query-block", "0/inserted/file", str(disk))


def test_backup_to_a_disk_that_is_full(qmp_vm: VirtualMachine) -> None:
    full = qmp_vm.blockdev(
        "blkdebug",
        image={"driver": "null-co", "size": 1024 * 1024},
        inject_error=[{"event": "none", "iotype": "write", "errno": 28}],
    )

    with pytest.raises(VMJobError, match="No space left"):
        qmp_vm.run_job("blockdev-backup", device="disk", target=full, sync="full")

    qmp_vm.assert_status("running")  # the guest has noticed nothing


# -- hot-plugging ------------------------------------------------------------------------------


@pytest.mark.qmp(machine="pc")
def test_disk_comes_and_goes(qmp_vm_factory: VMFactory) -> None:
    try:
        linux = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    vm = qmp_vm_factory(
        kernel=linux.kernel, initrd=linux.initrd, append=linux.append, memory="256M", drives=[]
    )
    vm.console.expect_exact(linux_guest.PROMPT, timeout=60)
    node = vm.blockdev(vm.create_disk("32M", "raw"))

    vm.hotplug("virtio-blk-pci", "data", drive=node)
    vm.console.run("until [ -b /dev/vda ]; do sleep 0.1; done", check=True)
    assert vm.console.run("cat /sys/block/vda/size").output == "65536\n"

    vm.unplug("data")
    assert vm.console.run("test -e /dev/vda").status == 1
    vm.blockdev_del(node)
