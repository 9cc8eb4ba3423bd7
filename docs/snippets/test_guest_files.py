from pathlib import Path

import pytest
from pytest_qmp import Share, VirtualMachine, VMConfig


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, results: Path) -> VMConfig:
    return qmp_vm_config.replace(
        user_data={
            "users": [{"name": "test", "ssh_authorized_keys": ["ssh-ed25519 AAAA…"]}],
            "mounts": [["results", "/results", "9p", "trans=virtio"]],
            "runcmd": [["sh", "-c", "uname -r > /results/kernel"]],
        },
        shares=[Share(results, tag="results")],
    )


def test_a_guest_gets_them(qmp_vm: VirtualMachine) -> None:
    assert qmp_vm.status == "running"
