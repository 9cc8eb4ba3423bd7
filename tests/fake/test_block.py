"""Block nodes, block devices and what is done with them: the fake's, and those of QEMU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.block_images import change_backing, create_file, create_qcow2, read_qcow2

from .block_conversations import MIB, NONE, PC, add, both, image, null, said
from .client import LineClient
from .test_same_behaviour import Step, real, version_and_binary  # noqa: F401

_DEVICE = ["-blockdev", f"driver=null-co,node-name=n,size={MIB}"]
_SCSI = ["-device", "virtio-scsi-pci,id=s"]

CONVERSATIONS: dict[str, tuple[list[str], list[Step]]] = {
    "names": (
        NONE,
        [
            said("blockdev-add", driver="null-co"),
            *(null(name) for name in ("", "1x", "#b", "_x", "a b", "a.b-c_d", "a" * 31, "a" * 32)),
            null("a.b-c_d"),
            said("blockdev-del", node_name="nosuch"),
        ],
    ),
    "drivers": (
        NONE,
        [
            null("n"),
            add("raw", "r", file="nosuch"),
            add("raw", "r", file="n", size=2 * MIB),
            add("raw", "r", file="n", size=100),
            add("raw", "r", file="n", offset=512, size=1024),
            add("throttle", "t", file="n", throttle_group="nosuch"),
            add("blkdebug", "b", image="n"),
            add("compress", "c", file="n"),
            *(add(kind, "f", file="n") for kind in ("qcow2", "vmdk", "vdi", "qed", "vpc", "dmg")),
            add("null-co", "z", detect_zeroes="unmap"),
            add("null-co", "l", latency_ns=-1),
            add("nbd", "nbd", server={"type": "unix", "path": "nosuch"}),
            "query-named-block-nodes",
        ],
    ),
    "files": (
        NONE,
        [
            add("file", "f", filename="nosuch"),
            add("file", "f", filename=""),
            add("file", "f", filename="a.raw/x"),
            add("host_device", "f", filename="a.raw"),
            add("file", "f", filename="a.raw", aio="native"),
            image("qcow2", "q", "a.raw"),
            image("qcow2", "q", "d.qcow2"),
            image("qcow2", "o", "o.qcow2"),
            image("qcow2", "q2", "d.qcow2"),
            said("blockdev-del", node_name="q"),
            image("qcow2", "o", "o.qcow2", backing="nosuch"),
            image("qcow2", "o", "o.qcow2"),
            "query-named-block-nodes",
            said("query-named-block-nodes", flat=True),
            said("query-blockstats", query_nodes=True),
            said("blockdev-del", node_name="o"),
            "query-named-block-nodes",
        ],
    ),
    "in-use": (
        NONE,
        [
            null("n"),
            image("qcow2", "q", "d.qcow2", read_only=True),
            image("qcow2", "o", "e.qcow2", backing="q"),
            add("raw", "r", file="n"),
            said("blockdev-del", node_name="n"),
            said("blockdev-del", node_name="q"),
            add("qcow2", "q2", file="q"),
            said("blockdev-del", node_name="r"),
            said("blockdev-del", node_name="n"),
        ],
    ),
    "reopen": (
        NONE,
        [
            null("n"),
            said("blockdev-reopen", options=[{"driver": "null-co"}]),
            said("blockdev-reopen", options=[{"driver": "null-co", "node-name": "zz"}]),
            said("blockdev-reopen", options=[{"driver": "null-co", "node-name": "n"}]),
            said("blockdev-reopen", options=[{"driver": "null-co", "node-name": "n", "size": 5}]),
            add("raw", "r", file="n"),
            null("m"),
            said("blockdev-reopen", options=[{"driver": "raw", "node-name": "r", "file": "m"}]),
            said("blockdev-del", node_name="n"),
            said("blockdev-del", node_name="m"),
        ],
    ),
    "snapshots": (
        NONE,
        [
            image("qcow2", "d", "d.qcow2"),
            image("qcow2", "e", "e.qcow2"),
            null("n"),
            said("blockdev-snapshot-sync", node_name="d", snapshot_file="s.qcow2"),
            said("blockdev-snapshot", node="n", overlay="n"),
            said("blockdev-snapshot", node="n", overlay="e"),
            said("blockdev-snapshot", node="n", overlay="d"),
            said("change-backing-file", device="d", image_node_name="d", backing_file="x"),
            said("block_resize", node_name="e", size=1000),
            said("block_resize", node_name="e", size=2 * MIB),
            said("blockdev-snapshot-internal-sync", device="n", name="x"),
            said("blockdev-snapshot-delete-internal-sync", device="n", name="x"),
            said("block-set-write-threshold", node_name="d", write_threshold=9),
            "query-named-block-nodes",
        ],
    ),
    "bitmaps": (
        NONE,
        [
            null("n"),
            image("qcow2", "q", "d.qcow2"),
            *(said("block-dirty-bitmap-add", node="n", name="b", granularity=g) for g in (0, 3)),
            said("block-dirty-bitmap-add", node="n", name="b", persistent=True),
            said("block-dirty-bitmap-add", node="n", name="b", disabled=True),
            said("block-dirty-bitmap-add", node="n", name="b"),
            said("block-dirty-bitmap-add", node="n", name="c", granularity=1024),
            said("block-dirty-bitmap-enable", node="n", name="b"),
            said("block-dirty-bitmap-merge", node="n", target="b", bitmaps=["c", "zz"]),
            said("block-dirty-bitmap-clear", node="zz", name="b"),
            said("x-debug-block-dirty-bitmap-sha256", node="n", name="b"),
            "query-named-block-nodes",
            said("block-dirty-bitmap-remove", node="n", name="b"),
        ],
    ),
    "exports": (
        NONE,
        [
            null("n"),
            said("nbd-server-add", device="n"),
            said("nbd-server-start", addr={"type": "unix", "data": {"path": "no/where"}}),
            said("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd"}}),
            said("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd"}}),
            said("nbd-server-add", device="n"),
            said("nbd-server-add", device="n"),
            said("block-export-add", type="nbd", id="e", node_name="n"),
            "query-block-exports",
            said("blockdev-del", node_name="n"),
            said("nbd-server-remove", name="zz"),
            said("nbd-server-stop"),
            said("blockdev-del", node_name="n"),
        ],
    ),
    "trays-and-media": (
        [*PC, *_SCSI, "-device", "scsi-cd,id=cd", "-drive", "if=none,id=dr,file=a.raw,format=raw"],
        [
            null("n"),
            said("blockdev-open-tray", id="nosuch"),
            said("blockdev-open-tray", id="s"),
            said("blockdev-open-tray"),
            said("blockdev-insert-medium", id="cd", node_name="n"),
            said("blockdev-open-tray", id="cd"),
            said("blockdev-insert-medium", id="cd", node_name="nosuch"),
            said("blockdev-insert-medium", id="cd", node_name="n"),
            said("blockdev-insert-medium", id="cd", node_name="n"),
            said("blockdev-close-tray", id="cd"),
            "query-block",
            said("blockdev-remove-medium", id="cd"),
            said("eject", id="cd"),
            said("blockdev-change-medium", id="cd", filename="nosuch"),
            said("blockdev-change-medium", id="cd", filename="d.qcow2"),
            "query-block",
        ],
    ),
    "devices": (
        [*PC, *_DEVICE, *_SCSI, "-device", "scsi-hd,drive=n,id=d"],
        [
            said("device_add", driver="scsi-hd", id="d2", drive="n"),
            said("device_add", driver="scsi-hd", id="d2", drive="nosuch"),
            said("blockdev-del", node_name="n"),
            add("raw", "r", file="n"),
            "query-block",
            "query-blockstats",
            "x-debug-query-block-graph",
            said("block-latency-histogram-set", id="d", boundaries=[20, 10]),
            said("block-latency-histogram-set", id="d", boundaries=[10, 20]),
            "query-blockstats",
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


def test_image_that_was_written_reads_back(tmp_path: Path) -> None:
    path = str(tmp_path / "o.qcow2")
    create_qcow2(path, 3 * MIB, backing="b.raw", backing_format="raw")
    header = read_qcow2(path)
    assert header is not None
    assert (header.size, header.backing, header.backing_format) == (3 * MIB, "b.raw", "raw")
    create_file(path, MIB)
    assert read_qcow2(path) is None


def test_another_backing_file_is_written_to_the_image(tmp_path: Path) -> None:
    path = str(tmp_path / "o.qcow2")
    create_qcow2(path, MIB, backing="b.qcow2", backing_format="qcow2")
    header = read_qcow2(path)
    assert header is not None
    for name, kind in (("another.raw", "raw"), ("", "")):
        header.backing, header.backing_format = name, kind
        change_backing(path, header)
        assert read_qcow2(path) == header


def test_blockdev_create_makes_an_image(client: LineClient, tmp_path: Path) -> None:
    path = str(tmp_path / "n.qcow2")
    create_file(path, 0)
    client.execute("blockdev-add", driver="file", **{"node-name": "f", "filename": path})
    options = {"driver": "qcow2", "file": "f", "size": 5 * MIB}
    _, reply = client.events_then_reply("blockdev-create", **{"job-id": "c", "options": options})
    assert reply == {"return": {}}
    header = read_qcow2(path)
    assert header is not None
    assert header.size == 5 * MIB


def test_what_could_not_be_opened_leaves_nothing(client: LineClient) -> None:
    refused = client.execute(
        "blockdev-add",
        **{"driver": "qcow2", "node-name": "q", "file": {"driver": "null-co", "node-name": "n"}},
    )
    assert refused["error"]["desc"] == "Image is not in qcow2 format"
    assert client.execute("query-named-block-nodes") == {"return": []}


@pytest.mark.parametrize(
    ("policy", "action", "status"),
    [
        ("report", "report", "running"),
        ("ignore", "ignore", "running"),
        ("stop", "stop", "io-error"),
    ],
)
def test_failing_disk(
    make_server: Callable[..., FakeQMPServer],
    connect: Callable[..., LineClient],
    policy: str,
    action: str,
    status: str,
) -> None:
    device = f"virtio-blk-pci,drive=n,id=d,rerror={policy}"
    server = make_server(args=["-M", "pc", *_DEVICE, "-device", device])
    client = connect(server)
    server.guest.io_error("n")
    error = client.read()
    assert error["event"] == "BLOCK_IO_ERROR"
    assert error["data"]["action"] == action
    assert error["data"]["reason"] == "Input/output error"
    if status == "io-error":
        assert client.read()["event"] == "STOP"
        assert client.execute("query-block")["return"][0]["io-status"] == "failed"
    assert client.status() == status


def test_disk_of_the_command_line_is_in_use(
    make_server: Callable[..., FakeQMPServer], connect: Callable[..., LineClient]
) -> None:
    client = connect(make_server(args=["-M", "pc", *_DEVICE, "-device", "virtio-blk-pci,drive=n"]))
    refused = client.execute("blockdev-del", **{"node-name": "n"})
    assert refused["error"]["desc"] == "Node n is in use"


def test_no_such_disk_fails(make_server: Callable[..., FakeQMPServer]) -> None:
    server = make_server(args=["-M", "pc", *_DEVICE])
    assert server.guest.disks == []
    with pytest.raises(FakeQMPServerError, match="no device of the guest has the node 'n'"):
        server.guest.io_error("n")
