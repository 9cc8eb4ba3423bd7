"""Test a Linux image as it is to be delivered: what runs in it, and what it does to its disk.

The image is a kernel, an initramfs, and a disk that a customer is going to have. All tests share
one machine, which boots once; the last one switches it off.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import linux_guest
import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig, VMError

pytestmark = pytest.mark.qmp(backend="qemu", requires=["program:qemu-img"])


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk of the image, as it came out of the build."""
    path = tmp_path_factory.mktemp("image") / "disk.img"
    path.write_bytes(bytes(8 * 1024 * 1024))
    return path


@pytest.fixture(scope="module")
def vm(disk: Path) -> Iterator[VirtualMachine]:
    try:
        linux = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    config = VMConfig(
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login network",
        memory="256M",
        drives=[Drive(disk, overlay=True)],  # the machine writes to an overlay, never to the image
        ports=[80],
        console_watch={"Kernel panic|Out of memory": "fatal"},
        timeout=60,
    )
    with VirtualMachine(config) as machine:
        machine.console.expect("login: ")
        yield machine


def test_asks_for_the_password(vm: VirtualMachine) -> None:
    with pytest.raises(VMError, match="password is wrong"):
        vm.console.login("root", "a wrong one")
    vm.console.login("root", "root")
    assert vm.console.run("id -un").output == "root\n"


@pytest.mark.parametrize("service", ["acpid", "httpd", "udhcpc"])
def test_service_runs(vm: VirtualMachine, service: str) -> None:
    vm.console.login("root", "root")
    vm.console.run(f"pidof {service}", check=True)


def test_web_page(vm: VirtualMachine) -> None:
    vm.wait_for_port(80)
    with urllib.request.urlopen(f"http://127.0.0.1:{vm.ports[80]}/", timeout=30) as page:
        assert b"Hello" in page.read()


def test_what_is_written_survives_a_reboot(vm: VirtualMachine, disk: Path) -> None:
    image = hashlib.sha256(disk.read_bytes())
    vm.console.login("root", "root")
    vm.console.run("mke2fs /dev/vda && mount /dev/vda /mnt", check=True)
    vm.console.run("echo kept > /mnt/mark && umount /mnt", check=True)

    with vm.expect_reboot(until="login: "):
        vm.console.sendline("reboot -f")
    vm.console.login("root", "root")
    vm.console.run("mount /dev/vda /mnt", check=True)
    assert vm.console.run("cat /mnt/mark").output == "kept\n"

    assert hashlib.sha256(disk.read_bytes()).digest() == image.digest()


def test_power_button(vm: VirtualMachine) -> None:
    vm.powerdown()
    assert vm.wait() == 0
