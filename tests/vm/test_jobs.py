"""Background jobs: the same on the fake and on each QEMU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_qmp import QMPCommandError, QMPTimeoutError, VirtualMachine, VMJobError
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.vm.job_story import JobStory

from .every_backend import EVERY_BACKEND, EVERY_QEMU, config_of

MIB = 1024 * 1024
SLOW = MIB // 4


class Disks:
    """A machine with two block nodes of 4 MiB, ``old`` and ``new``."""

    def __init__(self, vm: VirtualMachine, folder: Path) -> None:
        self.vm = vm
        self.folder = folder
        (folder / "old.img").write_bytes(b"x" * 4 * MIB)
        (folder / "new.img").write_bytes(bytes(4 * MIB))
        for name in ("old", "new"):
            self.add(name)

    def add(self, name: str) -> None:
        file = {"driver": "file", "filename": str(self.folder / f"{name}.img")}
        self.vm.execute("blockdev-add", driver="raw", node_name=name, file=file)


def machine(name: str, folder: Path) -> VirtualMachine:
    return VirtualMachine(config_of(name), paused=True)


@pytest.fixture(params=EVERY_BACKEND)
def vm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VirtualMachine]:
    with ExitStack() as stack:
        machine = stack.enter_context(VirtualMachine(config_of(request.param), paused=True))
        Disks(machine, tmp_path)
        yield machine


def test_a_backup(vm: VirtualMachine, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    info = vm.run_job(
        "blockdev-backup",
        device="old",
        target="new",
        sync="full",
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert (info.type, info.status, info.error) == ("backup", "concluded", "")
    assert (info.done, info.total) == (4 * MIB, 4 * MIB)
    assert told[-1] == (4 * MIB, 4 * MIB)
    assert vm.execute("query-jobs") == []
    assert vm.wait_for_event("BLOCK_JOB_COMPLETED").data["device"] == info.id
    if vm.backend == "qemu":
        assert (tmp_path / "new.img").read_bytes() == (tmp_path / "old.img").read_bytes()


def test_a_mirror_is_completed(vm: VirtualMachine) -> None:
    info = vm.run_job("blockdev-mirror", {"job-id": "m"}, device="old", target="new", sync="full")
    assert (info.id, info.type, info.status) == ("m", "mirror", "concluded")
    assert vm.events.names().count("BLOCK_JOB_READY") == 1


def test_a_mirror_that_runs_on(vm: VirtualMachine) -> None:
    info = vm.run_job("blockdev-mirror", device="old", target="new", sync="full", complete=False)
    assert info.status == "ready"
    assert vm.wait_for_job(info.id, "ready").status == "ready"
    with pytest.raises(QMPTimeoutError, match=r"(?s)is ready \(100 %.*job-complete") as late:
        vm.wait_for_job(info.id, timeout=0.05)
    assert "blockdev-mirror-1" in str(late.value)
    vm.execute("job-complete", id=info.id)
    assert vm.wait_for_job(info.id).status == "concluded"
    # It is over, and gone: the events have told.
    assert vm.wait_for_job(info.id).type == "mirror"
    with pytest.raises(VMJobError, match="is over, and was not ready"):
        vm.wait_for_job(info.id, "ready")


def test_neither_finalized_nor_dismissed_by_itself(vm: VirtualMachine) -> None:
    backup: dict[str, object] = {"device": "old", "target": "new", "sync": "full"}
    backup |= {"auto-finalize": False, "auto-dismiss": False}
    assert vm.run_job("blockdev-backup", backup).status == "concluded"
    assert vm.execute("query-jobs") == []
    info = vm.run_job("blockdev-backup", backup, finalize=False)
    assert info.status == "pending"
    vm.execute("job-finalize", id=info.id)
    assert vm.wait_for_job(info.id).status == "concluded"
    assert [job["status"] for job in vm.execute("query-jobs")] == ["concluded"]
    assert vm.wait_for_job(info.id, dismiss=True).status == "concluded"
    assert vm.execute("query-jobs") == []


def test_the_error_of_a_job(vm: VirtualMachine) -> None:
    nothing = {"driver": "qcow2", "file": "nothing", "size": MIB}
    with pytest.raises(VMJobError, match="'blockdev-create-1'") as failed:
        vm.run_job("blockdev-create", options=nothing)
    assert "Cannot find device='nothing' nor node-name='nothing'" in str(failed.value)
    assert failed.value.info.type == "create"
    assert vm.execute("query-jobs") == []
    info = vm.run_job("blockdev-create", options=nothing, check=False, dismiss=False)
    assert "nothing" in info.error
    assert [job["id"] for job in vm.execute("query-jobs")] == [info.id]


def test_a_refused_command_is_told_as_it_is(vm: VirtualMachine) -> None:
    with pytest.raises(QMPCommandError, match="nowhere"):
        vm.run_job("blockdev-backup", device="nowhere", target="new", sync="full")
    with pytest.raises(VMJobError, match="'query-status' starts no job"):
        vm.run_job("query-status")


def test_cancelled_meanwhile(vm: VirtualMachine) -> None:
    backup = {"job-id": "b", "device": "old", "target": "new", "sync": "full", "speed": SLOW}

    def cancel() -> None:
        vm.wait_for_event("JOB_STATUS_CHANGE", {"data": {"id": "b", "status": "running"}})
        vm.execute("job-cancel", id="b")

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(VMJobError, match=r"'b' \(backup\) of .* was cancelled") as failed:
        vm.run_job("blockdev-backup", backup)
    thread.join()
    assert failed.value.info.cancelled
    assert vm.wait_for_job("b", check=False).cancelled


def test_a_slow_job(vm: VirtualMachine) -> None:
    told: list[int] = []
    with pytest.raises(QMPTimeoutError, match=r"is running \(\d+ %, \d+ of 4194304\)"):
        vm.run_job(
            "blockdev-backup",
            {"job-id": "b", "device": "old", "target": "new", "sync": "full", "speed": SLOW},
            timeout=0.6,
            on_progress=lambda done, total: told.append(total),
        )
    assert set(told) == {4 * MIB}
    assert vm.wait_for_job("b", ["running", "ready"]).status == "running"
    vm.execute("job-cancel", id="b")
    assert vm.wait_for_job("b", check=False).cancelled


def test_paused_by_a_user(vm: VirtualMachine) -> None:
    vm.execute("blockdev-backup", job_id="b", device="old", target="new", sync="full", speed=SLOW)
    vm.execute("job-pause", id="b")
    assert vm.wait_for_job("b", "paused").status == "paused"
    with pytest.raises(QMPTimeoutError, match=r"(?s)is paused.*job-resume"):
        vm.wait_for_job("b", timeout=0.05)


def test_unknown_jobs_and_states(vm: VirtualMachine) -> None:
    with pytest.raises(VMJobError, match=r"has no job 'b'.*\nThe jobs are: none"):
        vm.wait_for_job("b")
    with pytest.raises(VMJobError, match="did you mean 'concluded'"):
        vm.wait_for_job("b", "conclude")


def test_a_job_that_was_over_before_it_was_waited_for(vm: VirtualMachine) -> None:
    vm.execute("blockdev-backup", job_id="b", device="old", target="new", sync="full")
    vm.wait_for_event("BLOCK_JOB_COMPLETED")
    assert vm.wait_for_job("b").done == 4 * MIB


@pytest.mark.parametrize("name", EVERY_QEMU)
def test_paused_by_an_error(name: str, tmp_path: Path) -> None:
    with VirtualMachine(config_of(name), paused=True) as vm:
        disks = Disks(vm, tmp_path)
        rule = {"event": "none", "iotype": "write", "errno": 28, "once": True}
        vm.execute(
            "blockdev-add",
            driver="blkdebug",
            node_name="full",
            image={"driver": "file", "filename": str(disks.folder / "new.img")},
            inject_error=[rule],
        )
        mirror = {"device": "old", "target": "full", "sync": "full", "on-target-error": "stop"}
        with pytest.raises(VMJobError, match=r"is paused.*a write failed") as failed:
            vm.run_job("blockdev-mirror", mirror, job_id="m")
        assert failed.value.info.status == "paused"
        with pytest.raises(VMJobError, match=r"is paused.*a write failed"):
            vm.wait_for_job("m", "ready")
        vm.execute("job-resume", id="m")
        assert vm.wait_for_job("m", "ready").done == 4 * MIB


def test_a_new_job_of_an_old_name() -> None:
    story = JobStory("b")
    events = [
        ("JOB_STATUS_CHANGE", {"id": "b", "status": "created"}),
        (
            "BLOCK_JOB_COMPLETED",
            {"device": "b", "type": "backup", "len": 2, "offset": 1, "error": "x"},
        ),
        ("JOB_STATUS_CHANGE", {"id": "other", "status": "ready"}),
    ]
    story.read(QMPEvent(event=name, data=data) for name, data in events)
    assert (story.over, story.info.error, story.info.far()) == (True, "x", "50 %, 1 of 2")
    story.read([QMPEvent(event="JOB_STATUS_CHANGE", data={"id": "b", "status": "created"})])
    assert (story.over, story.info.error, story.info.type) == (False, "", "")
