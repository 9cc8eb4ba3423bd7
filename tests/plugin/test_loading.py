"""What the plugin costs a run that does not use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_qmp

from .conftest import Run

HEAVY = (
    "asyncio",
    "pexpect",
    "ssl",
    "pytest_qmp.fake",
    "pytest_qmp.vm",
    "pytest_qmp.qmp",
    "jinja2",
)


def test_a_run_without_machines_imports_nothing_heavy(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With no other plugin: what is imported is our doing.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = run(
        f"""
        import sys

        def test_it():
            loaded = [name for name in {HEAVY!r} if name in sys.modules]
            assert loaded == []
            assert "pytest_qmp.plugin" in sys.modules
        """,
        "-p",
        "pytest_qmp.plugin",
        accel="",
    )
    result.assert_outcomes(passed=1)


def test_the_package_imports_nothing_heavy() -> None:
    script = f"""
import sys
import pytest_qmp
print([name for name in {(*HEAVY, "pytest", "socket", "json")!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_client_needs_no_pytest_and_no_asyncio() -> None:
    script = """
import sys
from pytest_qmp import QMPClient
print([name for name in ("pytest", "_pytest", "asyncio", "pexpect", "ssl") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", pytest_qmp.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(pytest_qmp, name) is not None


def test_an_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'QMPKlient'"):
        _ = pytest_qmp.QMPKlient
