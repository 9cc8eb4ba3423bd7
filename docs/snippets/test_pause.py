"""The first test of the README and the tutorial."""

# mypy: allow-untyped-defs
# region: test


def test_pause(qmp_vm):
    with qmp_vm.expect_event("STOP"):
        qmp_vm.stop()
    qmp_vm.assert_status("paused")


# endregion
