"""What the setup commands and the Linux guest's builder say when something is lacking."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("script", ["run-examples", "run-tests"])
def test_a_python_that_is_not_there(script: str) -> None:
    done = run(ROOT / "scripts" / script, PYTHON="no-such-python")
    assert done.returncode == 1
    assert "'no-such-python' doesn't run" in done.stderr
    assert "PYTHON=python3.12" in done.stderr


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = program(tmp_path / "python", 'case "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac')
    done = run(ROOT / "scripts" / "run-tests", PYTHON=str(old))
    assert done.returncode == 1
    assert "is Python 3.9, but pytest-qmp needs 3.10 or newer" in done.stderr


def build_linux(cache: Path, path: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "examples" / "linux_guest.py"
    return run(sys.executable, script, "--cache", cache, PATH=str(path))


def test_linux_guest_without_apt(tmp_path: Path) -> None:
    done = build_linux(tmp_path / "cache", tmp_path)
    assert done.returncode == 1
    assert "no apt-get on the PATH" in done.stderr


def test_linux_guest_without_a_network(tmp_path: Path) -> None:
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        program(tmp_path / name, "echo E: no route to host >&2; exit 100")
    cache = tmp_path / "cache"
    done = build_linux(cache, tmp_path)
    assert done.returncode == 1
    if "this is not Debian" in done.stderr:
        pytest.skip("this is not Debian")
    assert "failed with status 100:\nE: no route to host" in done.stderr
    assert "apt-get update" in done.stderr
    # Nothing half-made is left for the next run to trip over.
    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == []


def test_linux_guest_without_a_mirror(tmp_path: Path) -> None:
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        program(tmp_path / name, "exit 0")
    done = build_linux(tmp_path / "cache", tmp_path)
    assert done.returncode == 1
    assert "names no mirror of Debian" in done.stderr or "this is not Debian" in done.stderr


def test_linux_guest_in_a_cache_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = build_linux(tmp_path / "file", tmp_path)
    assert done.returncode == 1
    assert "PYTEST_QMP_CACHE" in done.stderr


# -- unpacking newer QEMUs -------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts alone, at a place of their own, with nothing unpacked."""
    place = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", place / "scripts")
    return place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with the tools that a shell script takes for granted, and no apt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "mkdir", "flock", "mktemp", "rm", "awk", "head", "sed", "env"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return folder


def test_unpacking_qemu_without_apt(checkout: Path, path: Path) -> None:
    done = run(checkout / "scripts" / "unpack-qemu", PATH=str(path))
    assert done.returncode == 1
    assert "can't unpack QEMU 10.0 11.1: there is no apt-get and dpkg-deb here" in done.stderr


def test_unpacking_qemu_without_a_network(checkout: Path, path: Path) -> None:
    codename = "$(. /etc/os-release && echo $VERSION_CODENAME)"
    program(
        path / "apt-get",
        f'[ "$1" = indextargets ] && echo "http://localhost/debian {codename}" && exit\n'
        "echo E: no route to host >&2; exit 100",
    )
    for name in ("apt-cache", "dpkg-deb"):
        program(path / name, "exit 100")
    done = run(checkout / "scripts" / "unpack-qemu", "10.0", PATH=str(path))
    assert done.returncode == 1
    if "this is not Debian" in done.stderr:
        pytest.skip("this is not Debian")
    assert "E: no route to host" in done.stderr
    assert "No QEMU 10.0: apt-get could not fetch the package lists of trixie" in done.stderr
    # Nothing half-made is left for the next run to trip over.
    assert [entry.name for entry in (checkout / ".cache" / "qemu").iterdir()] == [".lock"]


def test_unpacking_a_qemu_that_is_not_known(checkout: Path) -> None:
    done = run(checkout / "scripts" / "unpack-qemu", "9.9")
    assert done.returncode == 2
    assert "VERSION is 10.0 or 11.1" in done.stderr
