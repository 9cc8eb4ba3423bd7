"""The pytest plugin: hooks only; what they do lives beside and below.

It is loaded into every run, so it imports nothing that a run without machines does not need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

from pytest_qmp.fixtures import (
    _qmp_qemu,
    qmp_boot,
    qmp_client,
    qmp_fake_server,
    qmp_link,
    qmp_settings,
    qmp_vm,
    qmp_vm_config,
    qmp_vm_factory,
)
from pytest_qmp.options import add_options, artifacts_folder, given_values, settings_of

__all__ = [
    "_qmp_qemu",
    "qmp_boot",
    "qmp_client",
    "qmp_fake_server",
    "qmp_link",
    "qmp_settings",
    "qmp_vm",
    "qmp_vm_config",
    "qmp_vm_factory",
]

pytest.register_assert_rewrite("pytest_qmp.asserts")

_FIXTURES = frozenset({"qmp_vm", "qmp_vm_config", "qmp_vm_factory", "qmp_client"})
_MARKER_HELP = (
    "qmp(machine=..., memory=..., args=[...], backend='qemu', requires=[...]): "
    "what the test's virtual machine is made of (any field of VMConfig), and what it requires"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options and their ini twins."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, and refuses option values that can't be."""
    config.addinivalue_line("markers", _MARKER_HELP)
    if given_values(config):
        settings_of(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Removes what the tests of an earlier run have left."""
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if os.path.isdir(artifacts_folder(config)):
        from pytest_qmp.artifacts.bundle import clear_bundles

        clear_bundles(artifacts_folder(config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs every test on each of several ``--qmp-qemu``, grouped by binary."""
    if "_qmp_qemu" not in metafunc.fixturenames:
        return
    binaries = settings_of(metafunc.config).qemu
    if len(binaries) > 1:
        from pytest_qmp.vm.host import labels_of_binaries

        ids = labels_of_binaries(binaries)
        metafunc.parametrize("_qmp_qemu", binaries, indirect=True, ids=ids, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses markers that can't be right, before anything runs."""
    for item in items:
        # xdist breaks on a usage error in a worker, so there each such test fails instead.
        if item.get_closest_marker("qmp") and not hasattr(item.config, "workerinput"):
            from pytest_qmp.markers import check_marker

            check_marker(item)


def pytest_report_collectionfinish(
    config: pytest.Config, items: list[pytest.Item]
) -> list[str] | None:
    """Says who plays the machines, in a run that has some; a worker of xdist has no terminal."""
    if hasattr(config, "workerinput"):
        return None
    if config.get_verbosity() < 0 or not (any(map(_concerns, items)) or given_values(config)):
        return None
    from pytest_qmp.reports import header, how_booted

    settings = settings_of(config)
    return [*header(settings), *how_booted(items, settings)]


def _concerns(item: pytest.Item) -> bool:
    return bool(
        _FIXTURES.intersection(getattr(item, "fixturenames", ())) or item.get_closest_marker("qmp")
    )


def _unless_told_alone(caught: pytest.ExceptionInfo[BaseException]) -> bool:
    # A failure that is its text alone has no traceback to hide frames of, and pytest says so.
    return not isinstance(caught.value, pytest.fail.Exception)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Shows from now on how far the long things are; here nothing is captured yet."""
    if "pytest_qmp.vm.progress" in sys.modules or _concerns(item):
        from pytest_qmp.progress_line import show_progress

        show_progress(item.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Looks into the test's requirements first; skips what can't run here."""
    __tracebackhide__ = _unless_told_alone
    if not _concerns(item):
        return (yield)
    from pytest_qmp.errors import QMPError
    from pytest_qmp.launch import outcome, require_early
    from pytest_qmp.sharing import share_probes
    from pytest_qmp.time_limits import apply_scale

    settings = settings_of(item.config)
    apply_scale(settings)
    share_probes(item.config)
    try:
        require_early(item, settings)
        return (yield)
    except (QMPError, pytest.UsageError) as error:
        raise outcome(error, settings) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skips a test that turns out to need what the fake has not."""
    __tracebackhide__ = _unless_told_alone
    if not _concerns(item):
        return (yield)
    from pytest_qmp.errors import NeedsRealGuestError
    from pytest_qmp.launch import outcome

    try:
        return (yield)
    except NeedsRealGuestError as error:
        raise outcome(error, settings_of(item.config)) from None


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Ends each wait of the test a moment before pytest-timeout ends the test."""
    if _concerns(item):
        from pytest_qmp.keeping import write
        from pytest_qmp.time_limits import begin

        begin(item, settings.timeout, lambda reason: write(item, reason, ask=False))
    return (yield)


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Generator[None, object, object]:
    """The test is over in time."""
    if _concerns(item):
        from pytest_qmp.time_limits import end

        end(item)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what is known of the machines to the report of a test that had some."""
    report = yield
    if _concerns(item) or "qmp_fake_server" in getattr(item, "fixturenames", ()):
        from pytest_qmp.booting import notes_of
        from pytest_qmp.launch import checks_of, machines_of
        from pytest_qmp.reports import add_faults, add_sections, note_backends

        machines = machines_of(item)
        note_backends(report, machines, notes_of(item), item.config)
        if report.failed:
            add_sections(report, machines)
            add_faults(report, checks_of(item))
        if machines:
            from pytest_qmp.keeping import forget, keep

            keep(item, report)
            if report.when == "teardown":
                forget(machines)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests ran on what."""
    reports = [
        one
        for reports in terminalreporter.stats.values()
        for one in reports
        if "qmp_backends" in getattr(one, "__dict__", ())
    ]
    if reports:
        from pytest_qmp.reports import summary

        for line in summary(reports):
            terminalreporter.write_line(line)
