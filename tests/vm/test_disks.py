"""Disks of a machine: overlays, empty ones, images that go with it, block nodes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pytest_qmp
from pytest_qmp import (
    BlockNode,
    Drive,
    QMPCommandError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMError,
)
from pytest_qmp.vm.drive import disk_bytes
from pytest_qmp.vm.images import find_qemu_img
from tests.vm.every_backend import EVERY_QEMU, config_of

MIB = 1 << 20

#: A folder whose name QEMU's options, protocols and shells stumble over.
ODD = "a,b: c=d\"'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    odd = tmp_path / ODD
    odd.mkdir()
    return odd


@pytest.fixture
def machine() -> Iterator[VirtualMachine]:
    """On the installed QEMU, without a guest."""
    with VirtualMachine(accel="tcg", machine="none", consoles=()) as vm:
        yield vm


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def image(path: Path, kind: str, *, size: int = 4 * MIB) -> Path:
    """A disk with something on it; it can be written by nobody."""
    pytest_qmp.create_disk(path, size, kind)
    if kind == "raw":
        with path.open("r+b") as file:
            file.write(b"base" * 128)
    path.chmod(0o444)
    return path


def write_everywhere(vm: VirtualMachine, drive: str) -> None:
    """Writes as a guest would, by QEMU's own tool for it."""
    said = vm.execute(
        "human-monitor-command", {"command-line": f'qemu-io {drive} "write -P 7 0 1M"'}
    )
    assert said == ""
    vm.execute("human-monitor-command", {"command-line": f'qemu-io {drive} "flush"'})


def inserted(vm: VirtualMachine, drive: str) -> dict[str, Any]:
    (found,) = (one for one in vm.execute("query-block") if one["device"] == drive)
    inserted: dict[str, Any] = found["inserted"]
    return inserted


# -- overlays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("qemu", EVERY_QEMU)
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_overlay_keeps_its_base(qemu: str, folder: Path, kind: str) -> None:
    base = image(folder / f"base.{kind}", kind)
    before = digest(base), os.stat(base).st_mtime_ns
    drive = Drive(base, overlay=True, id="disk")
    with VirtualMachine(config_of(qemu), machine="pc", paused=True, drives=[drive]) as vm:
        write_everywhere(vm, "disk")
        found = inserted(vm, "disk")
        assert found["backing_file"] == str(base)
        overlay = Path(found["file"])
        assert overlay.stat().st_size > MIB
        assert vm.config.drives == (drive,)
    assert not overlay.parent.exists()
    assert (digest(base), os.stat(base).st_mtime_ns) == before


@pytest.mark.needs_qemu
def test_many_machines_lie_over_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = image(tmp_path / "base.qcow2", "qcow2")
    before = digest(base)
    monkeypatch.chdir(tmp_path)
    config = VMConfig(
        accel="tcg",
        machine="pc",
        paused=True,
        drives=[Drive("base.qcow2", overlay=True, size="8M", id="disk")],
    )
    with ExitStack() as machines:
        files = set()
        for _ in range(2):
            vm = machines.enter_context(VirtualMachine(config))
            write_everywhere(vm, "disk")
            files.add(inserted(vm, "disk")["file"])
            assert inserted(vm, "disk")["image"]["virtual-size"] == 8 * MIB
    assert len(files) == 2
    assert digest(base) == before


@pytest.mark.needs_qemu
def test_an_overlay_takes_block_jobs(tmp_path: Path) -> None:
    base = image(tmp_path / "base.raw", "raw")
    drives = [Drive(base, overlay=True, id="disk")]
    with VirtualMachine(accel="tcg", machine="pc", paused=True, drives=drives) as vm:
        vm.execute("block-stream", device="disk", job_id="stream")
        assert vm.wait_for_event("BLOCK_JOB_COMPLETED").data["len"] == 4 * MIB
        assert "backing_file" not in inserted(vm, "disk")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_empty_disk(kind: str) -> None:
    drives = [Drive.empty("4M", format=kind, id="disk")]
    with VirtualMachine(accel="tcg", machine="pc", paused=True, drives=drives) as vm:
        found = inserted(vm, "disk")
        assert (found["drv"], found["image"]["virtual-size"]) == (kind, 4 * MIB)
        write_everywhere(vm, "disk")
    assert not Path(found["file"]).exists()


@pytest.mark.needs_qemu
def test_disks_of_a_machine_that_is_cloned(tmp_path: Path) -> None:
    base = image(tmp_path / "base.raw", "raw")
    before = digest(base)
    drives = [Drive.empty("4M", id="empty"), Drive(base, overlay=True, size="8M", id="over")]
    config = VMConfig(accel="tcg", machine="pc", paused=True, drives=drives, cloneable=True)
    with VirtualMachine(config) as vm:
        for drive, size in (("empty", 4 * MIB), ("over", 8 * MIB)):
            found = inserted(vm, drive)
            assert (found["drv"], found["image"]["virtual-size"]) == ("qcow2", size)
            write_everywhere(vm, drive)
    assert digest(base) == before


def test_the_fake_takes_them(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(bytes(MIB))
    drives = [Drive(base, overlay=True, id="disk"), Drive.empty("1G", id="empty")]
    with VirtualMachine(backend="fake", drives=drives) as vm:
        assert inserted(vm, "disk")["file"] == str(base)
        assert inserted(vm, "empty")["image"]["virtual-size"] == 1 << 30


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "x", "overlay": True, "snapshot": True}, "either keeps the image as it is"),
        ({"path": "x", "overlay": True, "read_only": True}, "either keeps the image as it is"),
        ({"path": "x", "size": "1G"}, "with overlay=True the guest sees it as large"),
        ({}, r"the path of an image, or a size: .*Drive\.empty\('1G'\)"),
        ({"size": "1G", "overlay": True}, "an overlay lies over an image"),
        ({"size": "large"}, "written like '512M' or '10G'.*not 'large'"),
        ({"size": 0}, "not 0"),
        ({"size": True}, "not True"),
        ({"path": "x", "overlay": True, "size": "-1G"}, "not '-1G'"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        Drive(**fields)


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.qcow2"
    with pytest.raises(VMConfigError, match=r"can't read the drive .*none\.qcow2'.*No such file"):
        VirtualMachine(backend="fake", drives=[Drive(missing, overlay=True)])


@pytest.mark.needs_qemu
def test_an_overlay_over_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    drive = Drive(tmp_path / "junk", format="qcow2", overlay=True)
    with pytest.raises(VMError, match=r"can't make the disk .*not in qcow2 format"):
        VirtualMachine(accel="tcg", machine="none", drives=[drive]).start()


def test_sizes() -> None:
    assert disk_bytes("1G") == disk_bytes("1 GiB") == disk_bytes(1 << 30) == 1 << 30
    assert disk_bytes("1.5k") == disk_bytes(1500) == disk_bytes("1500") == 1536


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.needs_qemu
def test_disks_made_for_a_machine_go_with_it(machine: VirtualMachine, folder: Path) -> None:
    base = image(folder / "base.qcow2", "qcow2", size=8 * MIB)
    plain = machine.create_disk("1M")
    over = machine.create_disk(backing=base)
    raw = machine.create_disk(MIB, "raw")
    small = machine.create_disk("1M", options={"cluster_size": "4k"}, name="small")
    assert len({plain, over, raw, small}) == 4
    assert len({one.parent for one in (plain, over, raw, small)}) == 1
    assert stat.S_IMODE(plain.parent.stat().st_mode) == 0o700
    assert (raw.stat().st_size, raw.stat().st_blocks) == (MIB, 0)
    with machine.blockdev(over) as node:
        nodes = {one["node-name"]: one for one in machine.execute("query-named-block-nodes")}
        assert nodes[node]["image"]["backing-filename"] == str(base)
        assert nodes[node]["image"]["virtual-size"] == 8 * MIB
    machine.assert_qmp("query-named-block-nodes", "", [])
    machine.close()
    assert not plain.parent.exists()


@pytest.mark.needs_qemu
def test_disks_that_cannot_be_made(machine: VirtualMachine, folder: Path) -> None:
    there = machine.create_disk("1M", name="there")
    with pytest.raises(VMError, match=r"there is a .*there already"):
        machine.create_disk("1M", name="there")
    assert there.stat().st_size
    with pytest.raises(VMConfigError, match=r"not '\.\./elsewhere'"):
        machine.create_disk("1M", name="../elsewhere")
    with pytest.raises(VMError, match="Unknown file format 'qcow9'"):
        machine.create_disk("1M", "qcow9")
    with pytest.raises(VMConfigError, match=r"can't read the drive .*: No such file"):
        machine.create_disk(backing=folder / "none")
    with pytest.raises(VMConfigError, match="a disk needs a size"):
        machine.create_disk()
    with pytest.raises(VMError, match=r"can't make the disk .*: No such file or directory"):
        pytest_qmp.create_disk(folder / "none" / "disk", "1M", "raw")


@pytest.mark.parametrize("qemu", EVERY_QEMU)
def test_the_tool_beside_the_binary_comes_first(qemu: str) -> None:
    binary = config_of(qemu).qemu
    assert binary is not None
    assert Path(find_qemu_img(binary)).parent == Path(binary).parent


def test_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VMError, match=r"there is no qemu-img.*apt-get install qemu-utils"):
        pytest_qmp.create_disk(tmp_path / "disk", "1M")
    # One that is nothing but a hole needs none.
    assert pytest_qmp.create_disk(tmp_path / "disk", "1M", "raw").stat().st_size == MIB


# -- block nodes -----------------------------------------------------------------------------------


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.needs_qemu)])
def either(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    """On the fake and on QEMU."""
    options: dict[str, Any] = {"accel": "tcg"} if request.param == "qemu" else {}
    with VirtualMachine(backend=request.param, machine="none", consoles=(), **options) as vm:
        yield vm


def names(vm: VirtualMachine) -> set[str]:
    nodes = vm.execute("query-named-block-nodes", flat=True)
    return {one["node-name"] for one in nodes if not one["node-name"].startswith("#")}


def test_nodes_come_and_go(either: VirtualMachine, folder: Path) -> None:
    disk = folder / "disk.img"
    disk.write_bytes(bytes(MIB))
    vm = either
    vm.execute("blockdev-add", {"driver": "null-co", "node-name": "node1"})
    null = vm.blockdev("null-co", size="1G")
    assert isinstance(null, BlockNode)
    assert null == "node2"  # the first one is taken
    plain = vm.blockdev(disk, read_only=True)
    over = vm.blockdev("raw", file=null, node_name="over", offset=0)
    nested = vm.blockdev({"driver": "raw", "file": {"driver": "null-co"}})
    text = vm.blockdev(str(disk), read_only=True)
    assert names(vm) == {"node1", null, plain, over, nested, text}
    with pytest.raises(QMPCommandError, match="node2 is in use"):
        null.remove()
    over.remove()
    null.remove()
    vm.blockdev_del(plain)
    vm.blockdev_del("node1")
    assert names(vm) == {nested, text}


def test_nodes_that_cannot_be(either: VirtualMachine, folder: Path) -> None:
    vm = either
    missing = folder / "none"
    with pytest.raises(QMPCommandError, match=r"Could not open .*No such file or directory"):
        vm.blockdev("raw", file=missing)
    with pytest.raises(VMConfigError, match=r"can't read the drive .*No such file or directory"):
        vm.blockdev(missing)
    with pytest.raises(QMPCommandError, match="'nonsense'"):
        vm.blockdev("nonsense")
    with pytest.raises(TypeError, match="needs a driver or an image"):
        vm.blockdev()
    with pytest.raises(TypeError, match="two images were given"):
        vm.blockdev(missing, file=missing)
    with pytest.raises(TypeError, match="name the driver"):
        vm.blockdev(file={"driver": "null-co"})
    with pytest.raises(QMPCommandError, match="node-name='gone'"):
        vm.blockdev_del("gone")
