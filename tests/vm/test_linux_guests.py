"""The examples' Linux guest on each architecture: what it offers to the tests that boot it."""

from __future__ import annotations

import os
import shutil
import urllib.request
from pathlib import Path

import linux_guest
import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig

pytestmark = pytest.mark.needs_qemu

LIMIT = 60


@pytest.fixture(params=["x86_64", "aarch64", "riscv64"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> VMConfig:
    """A guest that asks who is there, with a network, a disk, and a slot for another device."""
    arch: str = request.param
    if shutil.which(f"qemu-system-{arch}") is None:
        pytest.skip(f"there is no qemu-system-{arch} on the PATH")
    try:
        linux = linux_guest.build(arch=arch)
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 8 * 1024 * 1024)
    return VMConfig(
        arch=arch,
        accel="tcg",
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login network",
        memory="256M",
        drives=[Drive(disk, format="raw")],
        ports=[80],
        devices=["pcie-root-port,id=spare,chassis=1"],
        timeout=LIMIT,
    )


def test_what_the_guest_offers(config: VMConfig) -> None:
    with VirtualMachine(config) as vm:
        check_logins(vm)
        check_file_systems(vm)
        check_network(vm)
        if config.arch != "riscv64":  # whose kernel Debian builds without PCI hot-plugging
            check_hot_plugging(vm)
        check_power_off(vm)


def check_logins(vm: VirtualMachine) -> None:
    console = vm.console
    console.login("user")
    assert console.run("id -un").output == "user\n"
    console.sendline("exit")
    console.login("root", "root")
    assert console.run("uname -m").output == f"{vm.config.arch}\n"
    console.run("command -v ip ping nc udhcpc wget poweroff reboot", check=True)


def check_file_systems(vm: VirtualMachine) -> None:
    """Their modules are loaded when they are asked for."""
    for kind in ("ext4", "iso9660", "vfat", "virtiofs"):
        vm.console.run(f"mount -t {kind} none /mnt")
        assert kind in vm.console.run("cat /proc/filesystems").output
    vm.console.run("mke2fs /dev/vda && mount /dev/vda /mnt && umount /mnt", check=True)


def check_network(vm: VirtualMachine) -> None:
    vm.wait_for_port(80)
    with urllib.request.urlopen(f"http://127.0.0.1:{vm.ports[80]}/", timeout=LIMIT) as page:
        assert page.read() == b"Hello from the guest!\n"


def check_hot_plugging(vm: VirtualMachine) -> None:
    vm.execute("blockdev-add", driver="null-co", node_name="disk", size=1024 * 1024)
    vm.execute("device_add", driver="virtio-blk-pci", drive="disk", bus="spare")
    found = vm.console.run("while ! [ -b /dev/vdb ]; do sleep 0.1; done; wc -c < /dev/vdb")
    assert found.output == "1048576\n"


def check_power_off(vm: VirtualMachine) -> None:
    if vm.config.arch == "riscv64":  # whose machine virt has no power button
        with vm.allow("shutdown"):
            vm.console.sendline("poweroff -f")
            assert vm.wait() == 0
    else:
        vm.powerdown()
        assert vm.wait() == 0
