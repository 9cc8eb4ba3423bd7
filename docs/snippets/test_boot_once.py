"""A suite on a Linux that boots once."""

# region: config
from collections.abc import Callable

import pytest
from pytest_qmp import VirtualMachine, VMConfig

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    return qmp_vm_config.replace(
        kernel="build/vmlinuz",
        initrd="build/initrd.gz",
        append="console=ttyS0 quiet login",
        memory="256M",
    )


@pytest.fixture(scope="session")
def qmp_boot() -> Callable[[VirtualMachine], None]:
    def boot(vm: VirtualMachine) -> None:
        vm.console.login("root", "root", timeout=60)

    return boot


# endregion
# region: tests
def test_writes(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.console.run("echo mine > /etc/motd") == ("", 0)


def test_sees_nothing_of_it(qmp_vm: VirtualMachine) -> None:
    assert "mine" not in qmp_vm.console.run("cat /etc/motd").output


# endregion
