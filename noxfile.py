"""The suite on every supported Python, with the oldest and the newest supported pytest."""

from __future__ import annotations

import nox
import nox.command

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST_PYTEST = "8.4.0"
NEWEST_PYTEST = "9.*"

# The newest pytest on every Python; the oldest on the two ends, between which nothing differs.
MATRIX = [(python, NEWEST_PYTEST) for python in PYTHONS]
MATRIX += [(python, OLDEST_PYTEST) for python in (PYTHONS[0], PYTHONS[-1])]

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_venv = "yes"


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format and types."""
    session.install("--editable", ".[dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
@nox.parametrize(("python", "pytest"), MATRIX)
def tests(session: nox.Session, pytest: str) -> None:
    """The whole suite; what needs QEMU is skipped where there is none."""
    _run_pytest(session, pytest)


@nox.session
@nox.parametrize(("python", "pytest"), MATRIX)
def qemu_free(session: nox.Session, pytest: str) -> None:
    """What needs no QEMU, on the fake."""
    _run_pytest(session, pytest, "-m", "not needs_qemu", "--qmp-backend=fake")


@nox.session
def avocado(session: nox.Session) -> None:
    """The fake as the monitor of avocado-vt sees it, which is heavy to install."""
    # Its pkg_resources went with setuptools 81.
    try:
        session.install(".[test]", "avocado-framework-plugin-vt", "setuptools<81")
    except nox.command.CommandFailed:
        session.skip("avocado-vt can't be installed here")
    session.run("pytest", "tests/fake/test_foreign_clients.py", "-k", "avocado", *session.posargs)


def _run_pytest(session: nox.Session, pytest: str, *options: str) -> None:
    # Built and installed, not editable: so that what the wheel lacks is missed here.
    session.install(".[test]", f"pytest=={pytest}")
    session.run("pytest", *options, *session.posargs)
