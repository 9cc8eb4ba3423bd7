"""A pytest of its own for each test, with what the plugin is tested on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Writes a test module and runs pytest on it, in a process of its own.

    KVM is probed in the tests of that alone: where it hangs, each probe costs a second.
    """
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source: str, *args: str, ini: str = "", accel: str = "tcg") -> pytest.RunResult:
        pytester.makepyfile(source)
        pytester.makeini(f"[pytest]\nfaulthandler_timeout = 60\n{ini}")
        more = [f"--qmp-accel={accel}"] if accel and "--qmp-connect" not in " ".join(args) else []
        return pytester.runpytest_subprocess("-p", "no:randomly", "-rA", *more, *args, timeout=60)

    return run


@pytest.fixture
def without_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH on which there is no QEMU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*") if os.path.isdir(place) else ():
            link = folder / program.name
            if not program.name.startswith("qemu-") and not os.path.lexists(link):
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))
