"""Folders of the host that a guest mounts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import linux_guest
import pytest
from linux_guest import GuestBuildError, LinuxGuest

from pytest_qmp import Share, VirtualMachine, VMConfig, VMConfigError, VMError
from pytest_qmp.vm import requirements
from pytest_qmp.vm.virtiofs import find_virtiofsd
from tests.guests import debian
from tests.vm.every_backend import EVERY_QEMU, config_of

LIMIT = 60

#: A folder whose name QEMU's options stumble over.
ODD = "a,b: c=d"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    odd = tmp_path / ODD
    odd.mkdir()
    (odd / "given").write_text("from the host\n")
    return odd


def linux(guest: LinuxGuest, **fields: Any) -> VMConfig:
    return VMConfig(
        accel="tcg",
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        memory="256M",
        timeout=LIMIT,
        **fields,
    )


def run(vm: VirtualMachine, command: str) -> str:
    """Types a command at the guest's shell; what it wrote."""
    vm.console.sendline(command)
    vm.console.expect_exact(linux_guest.PROMPT)
    return str(vm.console.before)


@pytest.mark.needs_qemu
def test_a_guest_mounts_by_9p(folder: Path, tmp_path: Path) -> None:
    # Debian's kernel for clouds, which the PC here has, knows no 9p; that of aarch64 does.
    try:
        guest = debian.linux_with("qemu-guest-agent", arch="aarch64")
    except GuestBuildError as error:
        pytest.skip(str(error))
    config = linux(
        guest,
        arch="aarch64",
        shares=[folder, Share(tmp_path, tag="all, of it", read_only=True)],
        user_data="#cloud-config\n",
        guest_agent=True,
    )
    with VirtualMachine(config) as vm:
        vm.console.expect_exact(linux_guest.PROMPT)
        run(vm, "mkdir /run; qemu-ga -m virtio-serial -p /dev/vport0p1 -t /tmp &")

        def shell(command: str) -> bytes:
            done = vm.guest.exec(["sh", "-c", command])
            return done.output + done.error

        assert shell("mkdir /one /two /seed; mount -t 9p -o trans=virtio host /one") == b""
        assert shell("cat /one/given; echo hello > /one/made") == b"from the host\n"
        assert (folder / "made").read_text() == "hello\n"
        assert shell("mount -t 9p -o trans=virtio 'all, of it' /two; cat /two/*/made") == b"hello\n"
        assert b"Read-only file system" in shell("touch /two/no")
        assert not (tmp_path / "no").exists()
        assert shell("mount -t iso9660 -o ro /dev/vda /seed; cat /seed/user*") == b"#cloud-config\n"


@pytest.mark.needs_qemu
def test_a_guest_mounts_by_virtiofs(tmp_path: Path) -> None:
    try:
        program = find_virtiofsd()
    except VMError as error:
        pytest.skip(str(error))
    if os.geteuid() and program.startswith("/usr/lib/qemu"):
        pytest.skip(f"{program} is for root")
    (tmp_path / "given").write_text("from the host\n")
    try:
        guest = linux_guest.build()
    except GuestBuildError as error:
        pytest.skip(str(error))
    config = linux(guest, shares=[Share(tmp_path, kind="virtiofs")])
    with VirtualMachine(config) as vm:
        servers = children_of_us("virtiofsd")
        assert servers
        vm.console.expect_exact(linux_guest.PROMPT)
        run(vm, "mkdir /one; mount -t virtiofs host /one")
        assert "from the host" in run(vm, "cat /one/given; echo hello > /one/made")
        assert (tmp_path / "made").read_text() == "hello\n"
        assert vm.stderr == ""
    assert not servers & children_of_us("virtiofsd")


def children_of_us(name: str) -> set[int]:
    """The processes of that name that this one has started."""
    import psutil

    return {one.pid for one in psutil.Process().children(recursive=True) if one.name() == name}


@pytest.mark.parametrize("qemu", EVERY_QEMU)
@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_each_machine_has_it(qemu: str, machine: str, folder: Path) -> None:
    config = config_of(qemu).replace(machine=machine, paused=True, shares=[folder])
    with VirtualMachine(config) as vm:
        buses = "".join(one["name"] for one in vm.execute("qom-list", path="/machine/unattached"))
        assert buses
        assert "multiple devices" not in vm.stderr
        assert any(one.startswith("virtio-9p-") for one in vm.argv)


def test_the_fake_has_no_guest_to_mount_it(folder: Path) -> None:
    with VirtualMachine(backend="fake", shares=[folder]) as vm:
        vm.assert_status("running")


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ("/tmp", r"VMConfig\.shares is a list"),
        ([7], "Share objects, or paths of folders: not 7"),
        ([Share("/tmp"), "/usr"], r"the tag 'host' more than once.*tag='other'"),
    ],
)
def test_lists_that_are_none(shares: Any, words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        VMConfig(shares=shares)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": ""}, "the path of a folder, not ''"),
        ({"tag": "x" * 32}, "1 to 31 bytes"),
        ({"tag": ""}, "1 to 31 bytes"),
        ({"kind": "nfs"}, "'9p' or 'virtiofs', not 'nfs'"),
        ({"security_model": "mapped"}, "none, mapped-xattr, mapped-file, passthrough"),
    ],
)
def test_shares_that_are_none(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        Share(**{"path": "/tmp", **fields})


@pytest.mark.needs_qemu
def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, seen in (("file", "that is no folder"), ("none", "there is none")):
        config = VMConfig(accel="tcg", shares=[tmp_path / name])
        with pytest.raises(VMConfigError, match=f"can't share the folder '.*{name}': {seen}"):
            VirtualMachine(config).start()


@pytest.mark.needs_qemu
def test_a_qemu_without_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    nothing = requirements._Features(frozenset(), frozenset(), frozenset())
    monkeypatch.setattr(requirements, "_features_of_binary", lambda qemu: nothing)
    with pytest.raises(VMError, match=r"has no device 'virtio-9p-pci'\. Use a QEMU that was built"):
        VirtualMachine(accel="tcg", shares=[folder]).start()


@pytest.mark.needs_qemu
def test_no_virtiofsd(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("pytest_qmp.vm.virtiofs._TOOL", "no-such-virtiofsd")
    config = VMConfig(accel="tcg", shares=[Share(folder, kind="virtiofs")])
    with pytest.raises(VMError, match=r"there is no no-such-virtiofsd.*Install it.*kind='9p'"):
        VirtualMachine(config).start()


@pytest.mark.needs_qemu
def test_what_virtiofsd_says_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "virtiofsd"
    program.write_text("#!/bin/sh\n[ $1 = --help ] && exec echo --shared-dir\necho broken >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = VMConfig(accel="tcg", timeout=20, shares=[Share(tmp_path, kind="virtiofs")])
    with pytest.raises(VMError, match=r"(?s)QEMU did not start.*broken"):
        VirtualMachine(config).start()
