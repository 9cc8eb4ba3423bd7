"""Several machines in one test."""

# region: test
from pytest_qmp import VMFactory


def test_one_is_paused(qmp_vm_factory: VMFactory) -> None:
    first = qmp_vm_factory(name="first")
    second = qmp_vm_factory(name="second", memory="64M")

    first.stop()

    first.wait_for_event("STOP")
    first.assert_status("paused")
    second.assert_status("running")


# endregion
