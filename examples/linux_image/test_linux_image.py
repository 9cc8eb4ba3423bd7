"""Test a Linux image as it is to be delivered: what runs in it, and what it does to its disk.

The image is a kernel, an initramfs, and a disk that a customer is going to have. It boots once;
each test then has a machine of its own that begins where that boot has ended.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import linux_guest
import pytest

from pytest_qmp import ConsoleLoginError, Drive, VirtualMachine, VMConfig

pytestmark = pytest.mark.qmp(backend="qemu", requires=["program:qemu-img"])


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk of the image, as it came out of the build."""
    path = tmp_path_factory.mktemp("image") / "disk.img"
    path.write_bytes(bytes(8 * 1024 * 1024))
    return path


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, disk: Path) -> VMConfig:
    try:
        linux = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    return qmp_vm_config.replace(
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=f"{linux.append} login network",
        memory="256M",
        drives=[Drive(disk, overlay=True)],  # the machine writes to an overlay, never to the image
        ports=[80],
        console_watch={"Kernel panic|Out of memory": "fatal"},
        timeout=60,
    )


@pytest.fixture(scope="session")
def qmp_boot() -> Callable[[VirtualMachine], None]:
    """How the machine is booted; done once, for all tests."""

    def boot(vm: VirtualMachine) -> None:
        vm.console.expect("login: ")

    return boot


@pytest.fixture
def shell(qmp_vm: VirtualMachine) -> Callable[..., str]:
    """Runs a command as root, which must not fail, and returns its output."""
    qmp_vm.console.login("root", "root")
    return lambda command: qmp_vm.console.run(command, check=True).output


def test_password_is_asked_for(qmp_vm: VirtualMachine) -> None:
    with pytest.raises(ConsoleLoginError):
        qmp_vm.console.login("root", "a wrong one")


@pytest.mark.parametrize("service", ["acpid", "httpd", "udhcpc"])
def test_service_runs(shell: Callable[..., str], service: str) -> None:
    shell(f"pidof {service}")


def test_web_page(qmp_vm: VirtualMachine) -> None:
    qmp_vm.wait_for_port(80)
    with urllib.request.urlopen(f"http://127.0.0.1:{qmp_vm.ports[80]}/", timeout=30) as page:
        assert b"Hello" in page.read()


def test_what_is_written_survives_a_reboot(
    qmp_vm: VirtualMachine, shell: Callable[..., str], disk: Path
) -> None:
    image = hashlib.sha256(disk.read_bytes()).digest()
    shell("mke2fs /dev/vda && mount /dev/vda /mnt && echo kept > /mnt/mark && umount /mnt")

    with qmp_vm.expect_reboot(until="login: "):
        qmp_vm.console.sendline("reboot -f")
    qmp_vm.console.login("root", "root")

    assert shell("mount /dev/vda /mnt && cat /mnt/mark") == "kept\n"
    assert hashlib.sha256(disk.read_bytes()).digest() == image


def test_power_button(qmp_vm: VirtualMachine) -> None:
    qmp_vm.powerdown()
    assert qmp_vm.wait() == 0
