"""What a run says: the header, the sections of a failure, and the last lines."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_qmp.options import settings_of

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.machine import VirtualMachine

__all__ = ["add_faults", "add_sections", "header", "how_booted", "note_backends", "summary"]

_SECTION_LINES = 40


def header(settings: QMPSettings) -> list[str]:
    """Who plays the machines of this run: binary, version and accelerator, or the fake and why."""
    from pytest_qmp.errors import QEMUNotFoundError, VMError
    from pytest_qmp.vm.fake_machine import DEFAULT_EMULATION
    from pytest_qmp.vm.host import (
        arch_of_binary,
        choose_accelerator,
        find_qemu,
        qemu_version,
    )

    fake = f"qmp: the fake QEMU {DEFAULT_EMULATION}"
    if settings.connect is not None:
        return [f"qmp: the running QEMU at {settings.connect}"]
    if settings.backend == "fake":
        return [f"{fake} (--qmp-backend=fake)"]
    lines = []
    for given in settings.qemu or (None,):
        arch = (given and arch_of_binary(given)) or settings.arch or "x86_64"
        try:
            found = find_qemu(arch, given)
            version = qemu_version(found)
        except QEMUNotFoundError as error:
            if settings.backend == "auto" and given is None:
                lines.append(f"{fake} (there is no qemu-system-{arch} on the PATH)")
            else:
                lines.append(f"qmp: {error}")
        except VMError as error:
            lines.append(f"qmp: {error}")
        else:
            accelerator = choose_accelerator(settings.accel, found, arch)
            lines.append(f"qmp: QEMU {version} ({found}), accelerator {accelerator}")
    return lines


def how_booted(items: list[pytest.Item], settings: QMPSettings) -> list[str]:
    """Says that machines boot once, where a suite has it so."""
    for item in items:
        found = getattr(item, "_fixtureinfo", None)
        definitions = found.name2fixturedefs.get("qmp_boot", ()) if found is not None else ()
        if definitions and definitions[-1].func.__module__ != "pytest_qmp.fixtures":
            boots = "boot for each test" if settings.restore == "boot" else "boot once"
            return [f"qmp: machines {boots} (--qmp-restore={settings.restore})"]
    return []


def add_sections(report: pytest.TestReport, machines: list[VirtualMachine]) -> None:
    """Adds what is known of the machines to the report of a test that failed."""
    from pytest_qmp.qmp.transcript import format_transcript
    from pytest_qmp.text import last_lines

    for machine in machines:
        if not machine.started:
            continue  # Its error has said it all: command line, exit status and stderr.
        name = machine.label
        title = f"{name}: {machine.description}"
        if machine.pid is not None:
            title += f", pid {machine.pid}"
        if machine.exit_status is not None:
            title += ", ended"
        sections = (
            (title, shlex.join(machine.argv) or "(started by somebody else)"),
            (f"{name}: last QMP messages", format_transcript(machine.transcript)),
            (f"{name}: the console's last lines", machine.console_tail(_SECTION_LINES)),
            (f"{name}: QEMU's stderr", last_lines(machine.stderr, _SECTION_LINES)),
        )
        report.sections.extend(section for section in sections if section[1])


def add_faults(report: pytest.TestReport, checks: list[tuple[str, Callable[[], None]]]) -> None:
    """Adds what went wrong beside a test that failed, which then is told once."""
    from pytest_qmp.errors import FakeQMPServerError, VMVerdictError

    for name, check in checks:
        try:
            check()
        except FakeQMPServerError as error:
            report.sections.append((f"{name}: what the fake has to say", str(error)))
        except VMVerdictError as error:
            report.sections.append((f"{name}: what happened to the machine", str(error)))


def note_backends(
    report: pytest.TestReport,
    machines: list[VirtualMachine],
    notes: list[str],
    config: pytest.Config,
) -> None:
    """Notes in a report who played its machines; xdist carries it to the controller.

    Args:
        report: of the test.
        machines: of the test.
        notes: how they came to be, for the last lines of the run.
        config: of the run.
    """
    kinds = sorted({machine.description for machine in machines})
    if notes:
        report.__dict__["qmp_notes"] = notes
    if kinds:
        report.__dict__["qmp_backends"] = kinds
        if hasattr(config, "workerinput") and config.get_verbosity() >= 0:
            # The controller knows neither of a worker's machines nor of its host.
            report.__dict__["qmp_header"] = header(settings_of(config))


def summary(reports: list[pytest.TestReport]) -> list[str]:
    """The closing lines: how many tests ran on what; none if no test had a machine.

    Before them the header, where the workers of xdist did not print it.
    """
    lines = {line: None for report in reports for line in report.__dict__.get("qmp_header", ())}
    ran: Counter[str] = Counter()
    for report in reports:
        if report.when == "call":
            ran.update(report.__dict__.get("qmp_backends", ()))
    parts = [
        f"{count} test{'' if count == 1 else 's'} on {description}"
        for description, count in sorted(ran.items())
    ]
    notes = {f"qmp: {note}": None for report in reports for note in _notes_of(report)}
    return [*lines, *(["qmp: " + ", ".join(parts)] if parts else []), *notes]


def _notes_of(report: pytest.TestReport) -> list[str]:
    return list(report.__dict__.get("qmp_notes", ()))
