"""The first test to read: a machine is started for it, and ended after it.

It needs nothing in the machine, so it runs on QEMU where that is installed, and on the fake
QEMU that comes with pytest-qmp where it is not.
"""

from __future__ import annotations

from pytest_qmp import VirtualMachine


def test_machine_runs(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.qmp.execute("query-status")["status"] == "running"


def test_pause_and_go_on(qmp_vm: VirtualMachine) -> None:
    # QEMU tells with an event when it has done it. Only one from within the block counts.
    with qmp_vm.expect_event("STOP"):
        qmp_vm.stop()
    qmp_vm.assert_status("paused")

    with qmp_vm.expect_event("RESUME"):
        qmp_vm.cont()
    qmp_vm.assert_status("running")


def test_quit(qmp_vm: VirtualMachine) -> None:
    qmp_vm.quit()
    assert qmp_vm.wait() == 0  # QEMU's exit status
