"""Tests that run on QEMU, on the fake, or on either."""

# region: test
import pytest
from pytest_qmp import VirtualMachine


def test_runs_on_either(qmp_vm: VirtualMachine) -> None:
    qmp_vm.stop()
    qmp_vm.assert_status("paused")


@pytest.mark.qmp(backend="qemu")
def test_needs_a_real_qemu(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.pid is not None


@pytest.mark.qmp(backend="fake", emulate="7.2")
def test_always_on_the_fake(qmp_vm: VirtualMachine) -> None:
    qmp_vm.fake.on("query-block").reply([])
    assert qmp_vm.execute("query-block") == []


# endregion
# region: console
@pytest.mark.qmp(backend="fake")
def test_a_guest_that_is_played(qmp_vm: VirtualMachine) -> None:
    guest = qmp_vm.fake.guest
    guest.write_console(b"guest login: ")
    guest.on_console("root\n", b"# ")

    qmp_vm.console.expect("login:")
    qmp_vm.console.sendline("root")
    qmp_vm.console.expect("# ")

    guest.poweroff()
    assert qmp_vm.wait() == 0


# endregion
