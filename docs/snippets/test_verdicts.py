"""What may happen to a machine, and what may not."""

import pytest
from pytest_qmp import VirtualMachine, VMConfig, VMVerdictError


@pytest.mark.qmp(backend="fake")
# region: reset
def test_survives_a_reset(qmp_vm: VirtualMachine) -> None:
    with qmp_vm.allow("reset"):
        qmp_vm.fake.guest.reset()  # a real guest would be told to, at its console
        qmp_vm.wait_for_event("RESET")
    qmp_vm.assert_status("running")


# endregion
@pytest.mark.qmp(backend="fake")
# region: panic
def test_panics(qmp_vm: VirtualMachine) -> None:
    qmp_vm.fake.guest.panic()
    with pytest.raises(VMVerdictError, match="the guest panicked") as caught:
        qmp_vm.wait_for_event("STOP", timeout=60)  # ends at once, not in a minute
    assert caught.value.kind == "panic"


# endregion
# region: pattern
@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    return qmp_vm_config.replace(
        console_watch={
            r"Kernel panic": "fatal",  # ends every wait
            r"WARNING: CPU": "error",  # fails the test at its end
        }
    )


# endregion
