# region: back
def test_goes_back(qmp_vm):
    qmp_vm.save_snapshot("before")
    qmp_vm.stop()
    qmp_vm.load_snapshot("before")
    qmp_vm.assert_status("running")


# endregion


# region: clone
def test_goes_two_ways(qmp_vm):
    other = qmp_vm.clone()
    other.stop()
    other.assert_status("paused")
    qmp_vm.assert_status("running")


# endregion
