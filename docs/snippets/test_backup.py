"""Tests of a program that speaks QMP, on the fake."""

# region: start
from pathlib import Path

import pytest
from pytest_qmp import FakeQMPServer, QMPCommandError, QMPDisconnectedError

from backup import save_names_of_disks

DISK = {"device": "disk0", "type": "hd", "removable": False, "locked": False}


def test_names_are_saved(qmp_fake_server: FakeQMPServer, tmp_path: Path) -> None:
    qmp_fake_server.on("query-block").reply([DISK])

    save_names_of_disks(qmp_fake_server.address, tmp_path / "names")

    assert (tmp_path / "names").read_text() == "disk0"
    assert [call.command for call in qmp_fake_server.calls] == [
        "qmp_capabilities",
        "stop",
        "query-block",
        "cont",
    ]


# endregion
# region: error
def test_machine_goes_on_after_an_error(qmp_fake_server: FakeQMPServer, tmp_path: Path) -> None:
    qmp_fake_server.on("query-block").reply_error("GenericError", "no disk answers")

    with pytest.raises(QMPCommandError, match="no disk answers"):
        save_names_of_disks(qmp_fake_server.address, tmp_path / "names")

    qmp_fake_server.assert_called("cont")


# endregion
# region: faults
def test_qemu_dies_in_the_middle(qmp_fake_server: FakeQMPServer, tmp_path: Path) -> None:
    qmp_fake_server.on("query-block").disconnect()

    with pytest.raises(QMPDisconnectedError):
        save_names_of_disks(qmp_fake_server.address, tmp_path / "names")

    assert not (tmp_path / "names").exists()


# endregion
# region: version
@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_with_each_version(version: str, tmp_path: Path) -> None:
    with FakeQMPServer(emulate=version) as server:
        server.on("query-block").reply([DISK])
        save_names_of_disks(server.address, tmp_path / "names")


# endregion
