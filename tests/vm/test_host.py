"""What the host has: binaries, versions, accelerators."""

from __future__ import annotations

import os
import platform
import stat
from pathlib import Path

import pytest

from pytest_qmp.errors import QEMUNotFoundError, VMConfigError, VMError
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.host import choose_accelerator, find_qemu, qemu_version, share_probes
from pytest_qmp.vm.requirements import missing
from pytest_qmp.vm.shared_state import SharedState


def executable(path: Path, script: str) -> Path:
    """Writes a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_missing_binary_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QEMUNotFoundError) as caught:
        find_qemu("sparc64")
    text = str(caught.value)
    assert "no qemu-system-sparc64" in text
    assert str(tmp_path) in text
    assert "apt-get install qemu-system-sparc" in text
    assert not caught.value.given


def test_a_given_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QEMUNotFoundError, match="there is no such file") as caught:
        find_qemu(given=tmp_path / "qemu")
    assert caught.value.given


def test_a_given_path_that_is_not_executable(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text("x")
    with pytest.raises(QEMUNotFoundError, match="it is not executable"):
        find_qemu(given=tmp_path / "qemu")


def test_a_binary_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = executable(tmp_path / "qemu-system-x86_64", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_qemu("x86_64") == str(binary)


def test_something_that_is_no_qemu(tmp_path: Path) -> None:
    binary = executable(tmp_path / "qemu-system-x86_64", "echo hello; exit 3")
    with pytest.raises(VMError, match=r"exit status 3.*hello"):
        qemu_version(str(binary))


def test_version(tmp_path: Path) -> None:
    binary = executable(tmp_path / "q", "echo 'QEMU emulator version 10.0.13 (Debian)'")
    assert qemu_version(str(binary)) == "10.0.13"


def test_another_architecture_than_the_hosts_is_emulated() -> None:
    chosen = choose_accelerator("auto", "/nowhere/qemu", "sparc64")
    assert chosen.name == "tcg"
    assert "the host is" in chosen.reason


def test_a_named_accelerator_is_taken_as_it_is() -> None:
    assert choose_accelerator("kvm", "/nowhere/qemu", "x86_64").name == "kvm"


@pytest.fixture
def kvm_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that seems to have KVM, and has not been asked yet."""
    share_probes(SharedState())
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/kvm")
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/dev/kvm")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize(
    ("script", "name", "reason"),
    [
        ("exec sleep 5", "tcg", "hangs"),
        ("echo 'no KVM for you' >&2; exit 1", "tcg", "no KVM for you"),
        ("exit 0", "tcg", "status 0"),
        ("exit 85", "kvm", "proven"),
    ],
)
@pytest.mark.usefixtures("kvm_device")
def test_kvm_is_taken_only_if_it_ran_guest_code(
    script: str, name: str, reason: str, tmp_path: Path
) -> None:
    binary = executable(tmp_path / "qemu-system-x86_64", script)
    chosen = choose_accelerator("auto", str(binary), "x86_64")
    assert chosen.name == name
    assert reason in chosen.reason


@pytest.mark.usefixtures("kvm_device")
def test_a_host_that_hangs_is_asked_once_for_all_binaries(tmp_path: Path) -> None:
    hangs = executable(tmp_path / "qemu-system-x86_64", "exec sleep 5")
    works = executable(tmp_path / "another-qemu", "exit 85")
    assert choose_accelerator("auto", str(hangs), "x86_64").name == "tcg"
    assert "hangs" in choose_accelerator("auto", str(works), "x86_64").reason


@pytest.mark.usefixtures("kvm_device")
def test_another_trouble_is_of_one_binary(tmp_path: Path) -> None:
    refuses = executable(tmp_path / "qemu-system-x86_64", "exit 1")
    works = executable(tmp_path / "another-qemu", "exit 85")
    assert choose_accelerator("auto", str(refuses), "x86_64").name == "tcg"
    assert choose_accelerator("auto", str(works), "x86_64").name == "kvm"


@pytest.mark.usefixtures("kvm_device")
def test_what_another_process_found_out_is_read(tmp_path: Path) -> None:
    binary = executable(tmp_path / "qemu-system-x86_64", f"echo x >> {tmp_path}/log; exit 1")
    for _ in range(2):
        share_probes(SharedState(tmp_path / "found.json"))
        choose_accelerator.cache_clear()
        assert "status 1" in choose_accelerator("auto", str(binary), "x86_64").reason
    assert (tmp_path / "log").read_text() == "x\n"


@pytest.mark.needs_qemu
@pytest.mark.usefixtures("kvm_device")
def test_the_probe_code_ends_qemu_as_it_should(tmp_path: Path) -> None:
    # TCG stands in for a KVM that works: it runs the same bytes.
    qemu = "/usr/bin/env qemu-system-x86_64"
    script = f'for a; do shift; [ "$a" = kvm ] && a=tcg; set -- "$@" "$a"; done; exec {qemu} "$@"'
    binary = executable(tmp_path / "qemu-system-x86_64", script)
    assert choose_accelerator("auto", str(binary), "x86_64").name == "kvm"


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("qemu>=7.2", ""),
        (">= 11", ""),
        ("qemu==11.1", ""),
        ("qemu<11.1", "QEMU <11.1 is needed, and this is 11.1"),
        ("qemu>=99", "QEMU >=99 is needed"),
        ("kvm", "the fake has no kvm"),
        ("command:query-status", ""),
        ("system_reset", ""),
        ("machine:q35", ""),
        ("device:e1000", "the fake QEMU 11.1 has no device 'e1000'"),
        ("command:no-such", "no command 'no-such'"),
        ("no-such-thing", "no machine type, device or command 'no-such-thing'"),
        ("program:sh", ""),
        ("sh", ""),
        ("program:no-such-program", "no program"),
    ],
)
def test_requirements_of_the_fake(requirement: str, reason: str) -> None:
    found = missing(requirement, VMConfig(backend="fake"))
    assert reason in found if reason else found == ""


@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("machine:microvm", True),
        ("machine:q35", True),
        ("machine:no-such", False),
        ("device:virtio-net-pci", True),
        ("device:microvm", False),
        ("virtio-net-pci", True),
        ("command:query-status", True),
        ("tcg", True),
        ("whpx", False),
        ("qemu>=5", True),
        ("qemu>=99.0", False),
    ],
)
def test_requirements_of_qemu(requirement: str, met: bool) -> None:
    assert (missing(requirement, VMConfig(arch="x86_64")) == "") is met


@pytest.mark.parametrize("requirement", ["devcie:x", "device:", "gadget:x"])
def test_a_requirement_that_is_none(requirement: str) -> None:
    with pytest.raises(VMConfigError, match="is not known: write one of"):
        missing(requirement, VMConfig(backend="fake"))
