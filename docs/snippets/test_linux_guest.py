"""Boots a kernel and an initramfs that lie in ``build/``, up to a shell's prompt."""

# region: boot
import pytest
from pytest_qmp import VirtualMachine, VMConfig

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    return qmp_vm_config.replace(
        kernel="build/vmlinuz",
        initrd="build/initrd.gz",
        append="console=ttyS0 quiet panic=-1",
        memory="256M",
    )


def test_boots_and_powers_off(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.expect_exact("guest# ", timeout=60)
    qmp_vm.powerdown()
    assert qmp_vm.wait() == 0


# endregion
# region: shell
def test_kernel_sees_all_memory(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.expect_exact("guest# ", timeout=60)
    qmp_vm.console.sendline("cat /proc/meminfo")
    qmp_vm.console.expect(r"MemTotal: +2\d\d\d\d\d kB")


# endregion
# region: reboot
@pytest.mark.qmp(args=["-no-reboot"])
def test_reboot_is_asked_for_by_the_guest(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.expect_exact("guest# ", timeout=60)
    qmp_vm.console.sendline("reboot -f")
    event = qmp_vm.wait_for_event("SHUTDOWN")
    assert event.data["reason"] == "guest-reset"


# endregion
