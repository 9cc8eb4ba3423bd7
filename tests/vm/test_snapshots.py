"""Snapshots and clones of a running machine: on the fake, and on each QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfigError, VMError
from pytest_qmp.vm.host import find_qemu
from tests import guests

UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "qemu"
QEMUS = ["installed", "10.0", "11.1"]


def binary(version: str) -> str:
    """The path of a QEMU; the test is skipped where it is not here."""
    if version == "installed":
        return find_qemu("x86_64")
    place = UNPACKED / version
    if not (place / ".complete").exists():
        pytest.skip(f"QEMU {version} is not unpacked here: run scripts/unpack-qemu")
    return str(place / "usr" / "bin" / "qemu-system-x86_64")


def echo(folder: Path, version: str = "installed", **more: Any) -> VirtualMachine:
    """A machine whose guest echoes lines."""
    fields = guests.overrides("echo", folder, banner="alive") | {"memory": "32M"}
    qemu = binary(version)
    return VirtualMachine(accel="tcg", timeout=30, **{**fields, "qemu": qemu, **more})


def says(vm: VirtualMachine, word: str) -> None:
    """The guest answers."""
    vm.console.send(f"{word}\n")
    vm.console.expect_exact(f"echo: {word}\r\n")


@pytest.fixture(params=["plain", "disk", "cloneable"])
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the machine has."""
    known: dict[str, dict[str, Any]] = {
        "plain": {},
        "disk": {"drives": [Drive.empty("8M", id="disk")]},
        "cloneable": {"cloneable": True},
    }
    return known[request.param]


@pytest.mark.needs_qemu
@pytest.mark.parametrize("version", QEMUS)
def test_back_and_forth(version: str, fields: dict[str, Any], tmp_path: Path) -> None:
    with echo(tmp_path, version, **fields) as vm:
        vm.console.expect_exact("alive")
        says(vm, "one")
        vm.save_snapshot("first")
        vm.stop()
        vm.save_snapshot("second")
        assert list(vm.snapshots) == ["first", "second"]
        vm.load_snapshot("first")
        vm.assert_status("running")
        says(vm, "two")
        vm.load_snapshot("second")
        vm.assert_status("paused")
        vm.load_snapshot("first")
        says(vm, "three")
        assert vm.events.names() == ["STOP"]
        vm.delete_snapshot("second")
        assert list(vm.snapshots) == ["first"]


@pytest.mark.needs_qemu
@pytest.mark.parametrize("version", QEMUS)
def test_a_clone_goes_its_own_way(version: str, fields: dict[str, Any], tmp_path: Path) -> None:
    with echo(tmp_path, version, **fields) as vm:
        vm.console.expect_exact("alive")
        says(vm, "before")
        clone = vm.clone()
        says(clone, "clone")
        says(vm, "original")
        again = clone.clone(paused=True)
        again.assert_status("paused")
        again.cont()
        says(again, "again")
        assert "original" not in clone.console.log + again.console.log
        assert "clone" not in vm.console.log
        assert vm.events.names() == clone.events.names() == []
        assert vm.config.drives == clone.config.drives
    assert clone.exit_status is not None


@pytest.mark.needs_qemu
def test_a_clone_of_a_paused_machine(tmp_path: Path) -> None:
    with echo(tmp_path) as vm:
        vm.console.expect_exact("alive")
        vm.stop()
        clone = vm.clone()
        vm.assert_status("paused")
        clone.assert_status("paused")
        clone.cont()
        says(clone, "clone")


@pytest.mark.needs_qemu
def test_a_disk_that_has_no_snapshots(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    with echo(tmp_path, drives=[Drive(disk, format="raw")]) as vm:
        with pytest.raises(VMConfigError, match=r"is raw, and a snapshot needs qcow2"):
            vm.save_snapshot()
        vm.assert_status("running")
    with (
        echo(tmp_path, drives=[Drive(disk, format="raw", snapshot=True)]) as vm,
        pytest.raises(VMConfigError, match=r"snapshot=True.*overlay=True"),
    ):
        vm.clone()
    with (
        echo(tmp_path, args=["-drive", f"file={disk},format=raw,if=virtio"]) as vm,
        pytest.raises(VMConfigError, match=r"not one of VMConfig\.drives"),
    ):
        vm.clone()


@pytest.mark.needs_qemu
def test_what_cannot_differ_in_a_clone(tmp_path: Path) -> None:
    with (
        echo(tmp_path) as vm,
        pytest.raises(VMConfigError, match="a clone has the memory of"),
    ):
        vm.clone(memory="64M")


@pytest.fixture
def fake() -> Iterator[VirtualMachine]:
    """A machine on the fake."""
    with VirtualMachine(backend="fake") as vm:
        yield vm


def nodes(vm: VirtualMachine) -> set[str]:
    """The names of the block nodes."""
    return {one["node-name"] for one in vm.execute("query-named-block-nodes")}


def test_back_and_forth_on_the_fake(fake: VirtualMachine) -> None:
    fake.blockdev("null-co", size="1M", node_name="kept")
    fake.save_snapshot()
    fake.blockdev("null-co", size="1M", node_name="later")
    fake.blockdev_del("kept")
    fake.stop()
    for _ in range(2):
        fake.load_snapshot()
        fake.assert_status("running")
        assert nodes(fake) == {"kept"}
        fake.blockdev_del("kept")


def test_a_clone_on_the_fake(fake: VirtualMachine) -> None:
    fake.fake.guest.write_console(b"login: ")
    fake.fake.guest.on_console(b"root\n", b"welcome\r\n")
    fake.console.expect("login:")
    fake.blockdev("null-co", size="1M", node_name="kept")
    clone = fake.clone()
    clone.blockdev_del("kept")
    clone.console.sendline("root")
    clone.console.expect("welcome")
    assert nodes(fake) == {"kept"}
    assert "welcome" not in fake.console.log
    clone.fake.guest.reset()
    clone.wait_for_event("RESET")
    assert fake.events.names() == []


def test_a_timer_of_the_fake_goes_on_in_its_clone() -> None:
    with VirtualMachine(backend="fake") as vm:
        for name in ("target", "source"):
            vm.blockdev("null-co", size="64M", node_name=name)
        job = {"job-id": "job", "device": "source", "target": "target", "sync": "full"}
        vm.execute("blockdev-backup", {**job, "speed": 1 << 16})
        clone = vm.clone()
        assert [one["device"] for one in clone.execute("query-block-jobs")] == ["job"]
        clone.execute("block-job-set-speed", {"device": "job", "speed": 0})
        clone.wait_for_event("BLOCK_JOB_COMPLETED")
        assert [one["device"] for one in vm.execute("query-block-jobs")] == ["job"]
        vm.execute("block-job-cancel", {"device": "job"})


def test_a_snapshot_that_there_is_not(fake: VirtualMachine) -> None:
    fake.save_snapshot("booted")
    with pytest.raises(VMError, match=r"no snapshot 'boted'.*booted"):
        fake.load_snapshot("boted")
