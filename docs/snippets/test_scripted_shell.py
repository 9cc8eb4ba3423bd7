"""A shell that the fake plays: the same helpers, without a guest."""

import pytest
from pytest_qmp import VirtualMachine


@pytest.mark.qmp(backend="fake")
def test_reads_the_version(qmp_vm: VirtualMachine) -> None:
    qmp_vm.fake.guest.play_shell({"uname -r": "6.1.0\n", "false": ("", 1)})
    assert qmp_vm.console.run("uname -r").output == "6.1.0\n"
    assert qmp_vm.console.run("false").status == 1
