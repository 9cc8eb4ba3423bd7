"""A program that starts QEMU, tested where there is none."""

# region: start
import os
import sys
from pathlib import Path

import pytest

from launcher import LaunchError, run_once


@pytest.fixture(params=["7.2", "10.0", "11.1"])
def fake_qemu(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts qemu-system-x86_64 in the test starts the fake."""
    command = f'exec "{sys.executable}" -m pytest_qmp fake --emulate {request.param} "$@"'
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("fake_qemu")
def test_machine_has_its_name() -> None:
    assert run_once("vm1") == "vm1"


# endregion
# region: fails
@pytest.mark.usefixtures("fake_qemu")
def test_what_qemu_says_is_passed_on() -> None:
    with pytest.raises(LaunchError, match="Invalid parameter 'nosuch'"):
        run_once("vm1,nosuch=1")


# endregion
