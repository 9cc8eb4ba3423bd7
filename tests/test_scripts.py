"""What the setup commands and the Linux guest's builder say when something is lacking."""

from __future__ import annotations

import os
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
    assert "failed with status 100:\nE: no route to host" in done.stderr
    assert "apt-get update" in done.stderr
    # Nothing half-made is left for the next run to trip over.
    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == []


def test_linux_guest_in_a_cache_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = build_linux(tmp_path / "file", tmp_path)
    assert done.returncode == 1
    assert "PYTEST_QMP_CACHE" in done.stderr
