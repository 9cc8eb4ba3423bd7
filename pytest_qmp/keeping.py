"""Which tests leave a bundle, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_qmp.launch import machines_of
from pytest_qmp.options import artifacts_folder, settings_of

if TYPE_CHECKING:
    from pytest_qmp.vm.machine import VirtualMachine

__all__ = ["forget", "keep", "write"]

_written = pytest.StashKey[Path]()


def write(item: pytest.Item, reason: str, *, ask: bool = True) -> Path | None:
    """Writes what is known of a test's machines by now.

    Args:
        item: the test.
        reason: why.
        ask: False in the thread of the background, which can't wait for answers.

    Returns:
        The test's folder; None where there is nothing to tell, or nothing is to be kept.
    """
    machines = [one for one in machines_of(item) if one.started]
    if not machines or settings_of(item.config).keep == "never":
        return None
    from pytest_qmp.artifacts.bundle import write_bundle

    place = write_bundle(artifacts_folder(item.config), item.nodeid, reason, machines, ask=ask)
    item.stash[_written] = place
    return place


def keep(item: pytest.Item, report: pytest.TestReport) -> None:
    """Writes the bundle of a test that failed, or that is kept anyway, and names it."""
    wanted = settings_of(item.config).keep == "always" and report.when == "call"
    if not (report.failed or wanted):
        return
    # As the short summary of the run tells it.
    crash = getattr(report.longrepr, "reprcrash", None)
    told = str(getattr(crash, "message", "") or report.longreprtext or report.outcome)
    try:
        place = write(item, f"{report.when}: {told.strip()}")
    except OSError as error:
        report.sections.append(("qmp: no bundle could be written", str(error)))
        return
    if place is not None and report.failed:
        report.sections.append(("qmp: all of it is in", str(place)))


def forget(machines: list[VirtualMachine]) -> None:
    """Drops the logs of machines whose test is over."""
    for machine in machines:
        machine.drop_logs()
