"""The console of a Linux that lies in ``build/``: its shell, and what it shows."""

import pytest
from pytest_qmp import ConsoleCommandError, VirtualMachine, VMConfig

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    return qmp_vm_config.replace(
        kernel="build/vmlinuz",
        initrd="build/initrd.gz",
        append="console=ttyS0 quiet panic=-1",
        memory="256M",
        consoles=("serial0", "serial1"),
    )


# region: run
def test_shell(qmp_vm: VirtualMachine) -> None:
    qmp_vm.console.login("root", timeout=60)
    output, status = qmp_vm.console.run("uname -s")
    assert (output, status) == ("Linux\n", 0)

    qmp_vm.console.run("mkdir -p /tmp/work && cd /tmp/work", check=True)
    assert qmp_vm.console.run("pwd").output == "/tmp/work\n"

    with pytest.raises(ConsoleCommandError, match="status 1"):
        qmp_vm.console.run("grep root /dev/null", check=True)

    # What is written to the second serial port comes out at its console.
    qmp_vm.console.run("echo hello > /dev/ttyS1")
    qmp_vm.consoles["serial1"].expect_exact("hello")

    qmp_vm.assert_console(r"Linux\s")
    qmp_vm.assert_console("hello", console="serial1", timeout=5)


# endregion
