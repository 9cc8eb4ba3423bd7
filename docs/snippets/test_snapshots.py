# region: back
from pytest_qmp import VirtualMachine


def test_goes_back(qmp_vm: VirtualMachine) -> None:
    qmp_vm.save_snapshot("before")
    qmp_vm.stop()
    qmp_vm.load_snapshot("before")
    qmp_vm.assert_status("running")


# endregion


# region: clone
def test_goes_two_ways(qmp_vm: VirtualMachine) -> None:
    other = qmp_vm.clone()
    other.stop()
    other.assert_status("paused")
    qmp_vm.assert_status("running")


# endregion
