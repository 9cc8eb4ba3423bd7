"""Jobs through their whole lives: the fake's, and those of QEMU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp.fake import FakeQMPServer

from .block_conversations import MIB, NONE, PC, both, image, null, said
from .client import LineClient
from .test_same_behaviour import Step, Wait, real, version_and_binary  # noqa: F401

_BIG = 64 * MIB
_QUERIES: list[Step] = ["query-jobs", "query-block-jobs"]


def backup(ident: str = "j", **options: Any) -> Step:
    given = {"device": "src", "target": "dst", "sync": "full", **options}
    return said("blockdev-backup", job_id=ident, **given)


def mirror(ident: str = "j", **options: Any) -> Step:
    given = {"device": "src", "target": "dst", "sync": "full", **options}
    return said("blockdev-mirror", job_id=ident, **given)


def create(**options: Any) -> list[Step]:
    command = said("blockdev-create", job_id="c", options=options)
    end = Wait("JOB_STATUS_CHANGE", {"id": "c", "status": "concluded"})
    return [command, end, "query-jobs", said("job-dismiss", id="c")]


def ended(ident: str, status: str = "null") -> Wait:
    return Wait("JOB_STATUS_CHANGE", {"id": ident, "status": status})


def pair(size: int = MIB) -> list[Step]:
    return [null("src", size), null("dst", size)]


_VERBS: list[Step] = [
    said(f"job-{verb}", id="j") for verb in ("finalize", "dismiss", "complete", "resume")
]

CONVERSATIONS: dict[str, tuple[list[str], list[Step]]] = {
    "refused": (
        NONE,
        [
            *pair(),
            backup(device="nosuch"),
            backup(target="nosuch"),
            backup("1"),
            backup(target="src"),
            backup(speed=-1),
            backup(sync="bitmap"),
            backup(bitmap="b"),
            mirror(target="src"),
            mirror(sync="incremental"),
            mirror(granularity=3),
            mirror(granularity=513),
            mirror(replaces="nosuch"),
            mirror(speed=-1),
            said("block-stream", device="src"),
            said("block-stream", device="nosuch", job_id="j"),
            said("block-stream", device="src", job_id="j", base="x"),
            said("block-commit", device="nosuch", job_id="j"),
            said("block-commit", device="src", job_id="j"),
            said("job-pause", id="nosuch"),
            said("block-job-pause", device="nosuch"),
        ],
    ),
    "backup": (
        NONE,
        [
            *pair(_BIG),
            backup(speed=1, filter_node_name="flt"),
            *_QUERIES,
            *_VERBS,
            said("job-pause", id="j"),
            said("job-pause", id="j"),
            *_QUERIES,
            said("job-resume", id="j"),
            backup("k"),
            said("blockdev-del", node_name="src"),
            said("blockdev-del", node_name="dst"),
            said("block-job-cancel", device="j"),
            *_QUERIES,
        ],
    ),
    "backup-by-hand": (
        NONE,
        [
            *pair(),
            backup(auto_finalize=False, auto_dismiss=False),
            *_QUERIES,
            said("job-dismiss", id="j"),
            said("job-finalize", id="j"),
            *_QUERIES,
            said("job-cancel", id="j"),
            said("job-dismiss", id="j"),
            backup(auto_finalize=False, auto_dismiss=False),
            said("job-cancel", id="j"),
            *_QUERIES,
        ],
    ),
    "mirror": (
        NONE,
        [
            *pair(),
            mirror(),
            *_QUERIES,
            said("job-pause", id="j"),
            *_QUERIES,
            said("block-job-cancel", device="j"),
            said("job-resume", id="j"),
            said("job-complete", id="j"),
            ended("j"),
            mirror(),
            said("block-job-cancel", device="j"),
            ended("j"),
            mirror(speed=1),
            mirror("k"),
            said("blockdev-del", node_name="src"),
            said("job-cancel", id="j"),
            ended("j"),
            "query-named-block-nodes",
        ],
    ),
    "sizes-differ": (
        NONE,
        [null("src"), null("dst", 2 * MIB), backup(), mirror(), ended("j"), "query-jobs"],
    ),
    "stream-and-commit": (
        NONE,
        [
            null("base"),
            image("qcow2", "d", "d.qcow2", backing="base"),
            image("qcow2", "e", "e.qcow2", backing="d"),
            said("block-commit", device="e", job_id="j", top_node="nosuch"),
            said("block-commit", device="e", job_id="j", top="x"),
            said("block-commit", device="e", job_id="j", base_node="e"),
            said("block-commit", device="e", job_id="j", backing_file="x"),
            said("block-commit", device="e", job_id="j", top_node="d", base_node="base"),
            ended("j"),
            said("block-stream", device="e", job_id="j"),
            ended("j"),
            said("blockdev-del", node_name="d"),
            said("blockdev-del", node_name="base"),
        ],
    ),
    "create": (
        NONE,
        [
            *create(driver="file", filename="n.raw", size=MIB),
            *create(driver="file", filename="no/where", size=MIB),
            *create(driver="file", filename="n.raw", size=-1),
            said("blockdev-add", driver="file", node_name="n", filename="n.raw"),
            *create(driver="qcow2", file="n", size=_BIG),
            *create(driver="qcow2", file="n", size=1000),
            *create(driver="qcow2", file="nosuch", size=MIB),
            said("blockdev-create", job_id="c", options={"driver": "null-co"}),
            said("blockdev-add", driver="qcow2", node_name="q", file="n"),
            *create(driver="qcow2", file="n", size=MIB),
        ],
    ),
    "transaction": (
        NONE,
        [
            *pair(),
            said(
                "transaction",
                actions=[
                    {"type": "blockdev-backup", "data": backup()[1]},
                    {"type": "abort", "data": {}},
                ],
            ),
            said("transaction", actions=[{"type": "blockdev-backup", "data": backup()[1]}]),
        ],
    ),
    "quit-with-a-backup": (NONE, [*pair(_BIG), backup(speed=1), "quit"]),
    "quit-with-a-mirror": (NONE, [*pair(), mirror(), "quit"]),
    "quit-with-a-pending-job": (NONE, [*pair(), backup(auto_finalize=False), "quit"]),
    "states-in-images": (
        [
            *PC,
            "-blockdev",
            "driver=qcow2,node-name=d,file.driver=file,file.filename=d.qcow2",
            *("-device", "virtio-blk-pci,drive=d"),
        ],
        [
            step
            for command in (
                said("snapshot-load", job_id="j", tag="t", vmstate="d", devices=["d"]),
                said("snapshot-save", job_id="j", tag="t", vmstate="d", devices=["d"]),
                said("snapshot-save", job_id="j", tag="t", vmstate="d", devices=["d"]),
                said("snapshot-save", job_id="j", tag="u", vmstate="d", devices=[]),
                said("snapshot-load", job_id="j", tag="t", vmstate="d", devices=["d"]),
                said("snapshot-delete", job_id="j", tag="t", devices=["d"]),
                said("snapshot-delete", job_id="j", tag="t", devices=["zz"]),
            )
            for step in (
                command,
                ended("j", "concluded"),
                "query-jobs",
                said("job-dismiss", id="j"),
            )
        ],
    ),
}


@pytest.mark.needs_qemu
@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_agrees(
    version_and_binary: tuple[str, str],  # noqa: F811
    real: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    fake, qemu = both(version_and_binary[0], real, *CONVERSATIONS[name])
    assert fake == qemu


def test_speed_takes_the_machine_s_time(
    make_server: Callable[..., FakeQMPServer], connect: Callable[..., LineClient]
) -> None:
    server = make_server(virtual_time=True)
    client = connect(server)
    for name in ("src", "dst"):
        client.execute("blockdev-add", **{"driver": "null-co", "node-name": name, "size": 4 * MIB})
    options = {"job-id": "j", "device": "src", "target": "dst", "sync": "full", "speed": MIB}
    client.events_then_reply("blockdev-backup", **options)
    done = client.execute("query-jobs")["return"][0]
    assert (done["status"], done["current-progress"]) == ("running", MIB)
    server.advance(2.0)
    assert client.execute("query-jobs")["return"][0]["current-progress"] == 3 * MIB
    server.advance(1.0)
    states = [client.read()["data"].get("status") for _ in range(5)]
    assert states == ["waiting", "pending", None, "concluded", "null"]
    assert client.execute("query-jobs") == {"return": []}
