"""Tests of a program that controls QEMU, most of them without any QEMU.

The fake keeps account of block nodes and devices as QEMU does. What a guest would do, and what
goes wrong once in a hundred times with a real one, is one line here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import disk_keeper
import pytest
from disk_keeper import DiskError, attach, detach

from pytest_qmp import FakeQMPServer, QMPClient, VirtualMachine, VMConfig


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024 * 1024))
    return path


@pytest.fixture
def qmp(qmp_fake_server: FakeQMPServer) -> Iterator[QMPClient]:
    with QMPClient.connect(qmp_fake_server.address) as client:
        yield client


def nodes(qmp: QMPClient) -> list[str]:
    return [node["node-name"] for node in qmp.execute("query-named-block-nodes")]


def test_attach_and_detach(qmp: QMPClient, qmp_fake_server: FakeQMPServer, image: Path) -> None:
    guest = qmp_fake_server.guest
    guest.on_unplug(guest.accept_unplug)

    attach(qmp, "data", image)
    assert "data" in nodes(qmp)

    detach(qmp, "data")
    assert "data" not in nodes(qmp)


def test_leaves_nothing_behind_when_qemu_refuses(
    qmp: QMPClient, qmp_fake_server: FakeQMPServer, image: Path
) -> None:
    qmp_fake_server.on("device_add").reply_error("GenericError", "no slot is free")

    with pytest.raises(DiskError, match="no slot is free"):
        attach(qmp, "data", image)
    assert "data" not in nodes(qmp)


def test_guest_keeps_the_disk(qmp: QMPClient, qmp_fake_server: FakeQMPServer, image: Path) -> None:
    guest = qmp_fake_server.guest
    guest.on_unplug(guest.refuse_unplug)
    attach(qmp, "data", image)

    with pytest.raises(DiskError, match="keeps the disk data"):
        detach(qmp, "data")
    assert "data" in nodes(qmp)


def test_guest_does_not_answer(qmp: QMPClient, image: Path) -> None:
    attach(qmp, "data", image)

    with pytest.raises(DiskError, match="does not let go"):
        detach(qmp, "data", patience=0.1)
    assert "data" in nodes(qmp)


def test_many_other_events_come_between(
    qmp: QMPClient, qmp_fake_server: FakeQMPServer, image: Path
) -> None:
    def accept(device: str) -> None:
        for number in range(1000):
            qmp_fake_server.emit("DEVICE_DELETED", {"device": f"other{number}", "path": "/other"})
        qmp_fake_server.guest.accept_unplug(device)

    qmp_fake_server.guest.on_unplug(accept)
    attach(qmp, "data", image)
    detach(qmp, "data")
    assert "data" not in nodes(qmp)


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_a_slow_qemu_of_any_version(version: str, image: Path) -> None:
    with FakeQMPServer(emulate=version) as server:
        server.faults.split_writes(7)  # its answers come in pieces
        assert disk_keeper.main(["attach", server.address, "data", str(image)]) == 0
        server.assert_called_once("device_add", id="data", drive="data")


def test_says_that_qemu_went_away(
    qmp_fake_server: FakeQMPServer, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qmp_fake_server.on("device_add").disconnect()

    assert disk_keeper.main(["attach", qmp_fake_server.address, "data", str(image)]) == 1
    assert "closed the connection" in capsys.readouterr().err


def test_the_program_itself(qmp_fake_server: FakeQMPServer, image: Path) -> None:
    program = [sys.executable, disk_keeper.__file__]
    arguments = ["attach", qmp_fake_server.address, "data", str(image)]
    subprocess.run([*program, *arguments], check=True, timeout=30)
    qmp_fake_server.assert_called_once("blockdev-add", node_name="data")


# What the fake says is what QEMU says; one test on the real thing makes sure.


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig, address: Path) -> VMConfig:
    """A machine with a second monitor, for the program."""
    return qmp_vm_config.replace(machine="pc", args=["-qmp", f"unix:{address},server=on,wait=off"])


@pytest.mark.qmp(backend="qemu")
def test_on_a_real_qemu(qmp_vm: VirtualMachine, address: Path, image: Path) -> None:
    assert disk_keeper.main(["attach", str(address), "data", str(image)]) == 0
    qmp_vm.assert_qmp("query-block", "0/inserted/node-name", "data")

    # No system runs in it that could let the disk go.
    with QMPClient.connect(str(address)) as qmp, pytest.raises(DiskError, match="does not let go"):
        detach(qmp, "data", patience=0.5)
