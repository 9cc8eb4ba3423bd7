"""The pytest plugin: hooks only; what they do lives beside and below.

It is loaded into every run, so it imports nothing that a run without machines does not need.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_qmp.errors import NeedsRealGuestError, VMError
from pytest_qmp.fixtures import (
    _qmp_qemu,
    qmp_client,
    qmp_fake_server,
    qmp_settings,
    qmp_vm,
    qmp_vm_config,
    qmp_vm_factory,
)
from pytest_qmp.launch import machines_of, outcome, require
from pytest_qmp.markers import MARKER_HELP, check_marker
from pytest_qmp.settings import QMPSettings, add_options

__all__ = [
    "_qmp_qemu",
    "qmp_client",
    "qmp_fake_server",
    "qmp_settings",
    "qmp_vm",
    "qmp_vm_config",
    "qmp_vm_factory",
]

pytest.register_assert_rewrite("pytest_qmp.asserts")

_FIXTURES = frozenset({"qmp_vm", "qmp_vm_config", "qmp_vm_factory", "qmp_client"})
_settings = pytest.StashKey[QMPSettings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options and their ini twins."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, and refuses option values that can't be."""
    config.addinivalue_line("markers", MARKER_HELP)
    config.stash[_settings] = QMPSettings.from_config(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs every test on each of several ``--qmp-qemu``, grouped by binary."""
    binaries = metafunc.config.stash[_settings].qemu
    if len(binaries) > 1 and "_qmp_qemu" in metafunc.fixturenames:
        from pytest_qmp.vm.host import label_of_binary

        ids = [label_of_binary(one) for one in binaries]
        metafunc.parametrize("_qmp_qemu", binaries, indirect=True, ids=ids, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses markers that can't be right, before anything runs."""
    for item in items:
        # xdist breaks on a usage error in a worker, so there each such test fails instead.
        if not hasattr(item.config, "workerinput"):
            check_marker(item)


def pytest_report_collectionfinish(
    config: pytest.Config, items: list[pytest.Item]
) -> list[str] | None:
    """Says who plays the machines, in a run that has some."""
    used = any(_FIXTURES.intersection(getattr(item, "fixturenames", ())) for item in items)
    settings = config.stash[_settings]
    if not (used or settings.explicit) or config.get_verbosity() < 0:
        return None
    from pytest_qmp.reports import header

    return header(settings)


def _unless_told_alone(caught: pytest.ExceptionInfo[BaseException]) -> bool:
    # A failure that is its text alone has no traceback to hide frames of, and pytest says so.
    return not isinstance(caught.value, pytest.fail.Exception)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Looks into the test's requirements first; skips what can't run here."""
    __tracebackhide__ = _unless_told_alone
    settings = item.config.stash[_settings]
    try:
        require(item, settings)
        yield
    except (VMError, pytest.UsageError) as error:
        raise outcome(error, settings) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skips a test that turns out to need what the fake has not."""
    __tracebackhide__ = _unless_told_alone
    try:
        yield
    except NeedsRealGuestError as error:
        raise outcome(error, item.config.stash[_settings]) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what is known of the machines to the report of a test that had some."""
    report = yield
    machines = machines_of(item)
    if machines:
        from pytest_qmp.reports import add_sections, note_backends

        note_backends(report, machines)
        if report.failed:
            add_sections(report, machines)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests ran on what."""
    reports = [
        one
        for category in ("passed", "failed", "error", "xfailed", "xpassed")
        for one in terminalreporter.getreports(category)
        if isinstance(one, pytest.TestReport)
    ]
    if any("qmp_backends" in one.__dict__ for one in reports):
        from pytest_qmp.reports import summary

        line = summary(reports)
        if line:
            terminalreporter.write_line(line)
