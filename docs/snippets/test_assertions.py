"""Assertions."""

import re

import pytest
from pytest_qmp import QMPClient, VirtualMachine
from pytest_qmp.asserts import assert_events, assert_qmp


# region: values
def test_values(qmp_vm: VirtualMachine) -> None:
    qmp_vm.assert_status("running")
    qmp_vm.assert_qmp("query-status", "running", True)
    qmp_vm.assert_qmp("query-version", "qemu/major", lambda major: major >= 7)
    qmp_vm.assert_qmp("query-machines", "0/name", re.compile(r"^[\w.-]+$"))
    qmp_vm.assert_qmp("query-status", match={"status": "running"})  # only some of the members
    qmp_vm.assert_qmp_absent("query-status", "reason")


# endregion
# region: events
def test_events(qmp_vm: VirtualMachine) -> None:
    qmp_vm.stop()
    qmp_vm.cont()
    qmp_vm.reset()
    qmp_vm.assert_events(["STOP", "RESUME", ("RESET", {"guest": False})])
    with qmp_vm.expect_events(["STOP", "RESUME"], exact=True):
        qmp_vm.stop()
        qmp_vm.cont()


# endregion
# region: errors
def test_errors(qmp_vm: VirtualMachine) -> None:
    with qmp_vm.assert_error("DeviceNotFound", match="'nic7' not found") as refused:
        qmp_vm.execute("device_del", id="nic7")
    assert refused.value.command == "device_del"


# endregion
# region: client
def test_any_client(qmp_client: QMPClient) -> None:
    qmp_client.stop()
    assert_qmp(qmp_client, "query-status", "status", "paused")
    assert_events(qmp_client, ["STOP"])


# endregion
def test_words(qmp_vm: VirtualMachine) -> None:
    qmp_vm.stop()
    with pytest.raises(AssertionError, match="did not come after STOP"):
        qmp_vm.assert_events(["STOP", "RESUME"], timeout=0)
