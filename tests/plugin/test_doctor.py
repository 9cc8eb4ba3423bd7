"""``pytest-qmp doctor``: what it shows, what it says to install, and its exit status."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from pytest_qmp.cli import main
from pytest_qmp.vm.survey import describe_kvm_device, find_binaries, survey_binary

QEMU = """#!/bin/sh
case "$*" in
--version) echo "QEMU emulator version 9.2.1" ;;
"-machine help") printf 'Supported machines are:\\nnone  empty\\nvirt  A board (default)\\n' ;;
"-accel help") printf 'Accelerators supported in QEMU binary:\\ntcg\\n' ;;
*) exit 1 ;;
esac
"""


def program(path: Path, text: str = QEMU) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("pytest_qmp.vm.host.MORE_PLACES", ())
    monkeypatch.setattr("pytest_qmp.vm.survey.MORE_PLACES", ())
    return folder


def doctor(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = main(["pytest-qmp", "doctor", *args])
    return status, capsys.readouterr().out


def test_it_shows_what_there_is(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = program(path / "qemu-system-sparc64")
    program(path / "qemu-img", "#!/bin/sh\necho 'qemu-img version 9.2.1'\n")
    status, text = doctor(capsys)
    assert status == 0
    assert (
        f"  sparc64      9.2.1     {binary}: 2 machine types, default virt, ours that; tcg\n"
        in text
    )
    assert f"  qemu-img     9.2.1     {path}/qemu-img\n" in text
    assert f"  --qmp-accel=auto takes tcg (the host is {os.uname().machine}) for {binary}\n" in text
    assert f"  pytest {pytest.__version__}\n" in text
    assert "/dev/kvm" in text
    assert "to spare (--qmp-max-memory" in text
    # There is one, but not for this host's own architecture.
    assert "is for guests like this host. Debian, Ubuntu: apt-get install qemu-system-" in text
    assert text.endswith("\nTests can run on QEMU here.\n")


@pytest.mark.usefixtures("path")
def test_nothing_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = doctor(capsys)
    assert status == 1
    assert "there is no QEMU on the PATH (" in text
    assert "apt-get install qemu-system-" in text
    assert "dnf install qemu-system-" in text
    assert "Homebrew: brew install qemu" in text
    assert "qemu-img makes disk images. Debian, Ubuntu: apt-get install qemu-utils" in text
    assert "they can on the fake (--qmp-backend=fake)" in text


def test_a_broken_binary(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = program(path / "qemu-system-x86_64", "#!/bin/sh\nprintf '\\033[2Jno'; exit 127\n")
    status, text = doctor(capsys)
    assert status == 1
    assert f"  x86_64       {binary}: broken\n" in text
    assert f"  {binary}: {binary} --version does not answer as QEMU does (exit status 127)" in text
    assert "\033" not in text


@pytest.mark.usefixtures("path")
def test_a_binary_that_somebody_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = program(tmp_path / "else" / "my-qemu")
    status, text = doctor(capsys, f"--qemu={binary}")
    assert status == 0
    assert f"  ?            9.2.1     {binary}: 2 machine types" in text
    status, text = doctor(capsys, "--qemu", str(tmp_path / "nowhere"))
    assert status == 1
    assert "nowhere: there is no such file" in text


def test_what_is_not_installed_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(path / "qemu-system-sparc64")

    def version(name: str) -> str:
        if name == "pytest":
            return "9"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    status, text = doctor(capsys)
    assert status == 1
    assert "pexpect is missing: pip install pexpect" in text
    assert "pytest-xdist runs tests side by side: pip install pytest-xdist" in text


def test_links_to_one_binary_count_once(path: Path) -> None:
    binary = program(path / "qemu-system-x86_64")
    (path / "qemu-system-amd64").symlink_to(binary)
    (path / "qemu-system-x86_64.txt").write_text("")
    assert find_binaries() == [str(binary)]


def test_a_binary_that_lists_nothing(path: Path) -> None:
    program(path / "q", "#!/bin/sh\n[ $1 = --version ] && echo QEMU emulator version 9.2.1\n")
    found = survey_binary(str(path / "q"))
    assert "-machine help failed with status 1" in found.trouble
    assert found.version == "9.2.1"


def test_the_device_of_kvm(tmp_path: Path) -> None:
    assert "there is no " in describe_kvm_device(tmp_path / "kvm")
    device = tmp_path / "kvm"
    device.touch()
    assert describe_kvm_device(device).endswith("and this user may use it")


@pytest.mark.needs_qemu
def test_a_real_one() -> None:
    from pytest_qmp.vm.host import find_qemu, qemu_version

    found = survey_binary(find_qemu("x86_64"))
    assert found.version == qemu_version(found.path)
    assert {"q35", "pc", "microvm"} <= set(found.machines)
    assert found.default_machine
    assert "tcg" in found.accelerators
