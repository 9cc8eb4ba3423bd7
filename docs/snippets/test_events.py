"""Waiting for events."""

from pytest_qmp import VirtualMachine


# region: wait
def test_wait(qmp_vm: VirtualMachine) -> None:
    qmp_vm.stop()
    qmp_vm.cont()
    qmp_vm.wait_for_event("RESUME")  # takes it; STOP, which came before, is left
    qmp_vm.wait_for_event("STOP")
    assert qmp_vm.events.names() == ["STOP", "RESUME"]


# endregion
# region: expect
def test_expect(qmp_vm: VirtualMachine) -> None:
    qmp_vm.reset()
    qmp_vm.wait_for_event("RESET")
    with qmp_vm.expect_event("RESET", match={"data": {"guest": False}}, timeout=5) as reset:
        qmp_vm.reset()
    assert reset.value.data["reason"] == "host-qmp-system-reset"


# endregion
# region: none
def test_none(qmp_vm: VirtualMachine) -> None:
    qmp_vm.stop()
    qmp_vm.assert_no_event("RESUME", within=0.2)


# endregion
