"""A guest that writes escape sequences: what pytest prints of it, in every place, is harmless."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.plugin.conftest import Run
from tests.vm.test_hostile import ATTACKS, assert_harmless

SOURCE = """
import pytest

ATTACK = {attack!r}

@pytest.fixture
def guest(qmp_vm):
    qmp_vm.fake.guest.write_console(("login: " + ATTACK + "\\n").encode())
    qmp_vm.console.expect_exact("login: ")
    return qmp_vm

def test_console(guest):
    guest.console.expect("what nobody writes", timeout=0)

def test_closed_console(guest):
    guest.fake.guest.poweroff()
    guest.console.expect("what nobody writes", timeout=5)

def test_event(guest):
    guest.wait_for_event("NEVER", timeout=0)

def test_status(guest):
    guest.wait_for_status("paused", timeout=0)

def test_end(guest):
    guest.fake.guest.poweroff()
    guest.wait()
    guest.stop()

def test_sections(guest):
    assert False

@pytest.mark.qmp(console_watch={{"login:": "error"}})
def test_watched(qmp_vm):
    qmp_vm.fake.guest.write_console(("login: " + ATTACK + "\\n").encode())
    qmp_vm.wait_for_event("NEVER", timeout=5)
"""


@pytest.mark.parametrize("attack", ["".join(ATTACKS[:12]), "".join(ATTACKS[12:])])
def test_all_that_is_printed_is_harmless(run: Run, tmp_path: Path, attack: str) -> None:
    xml = tmp_path / "report.xml"
    result = run(
        SOURCE.format(attack=attack),
        "--qmp-backend=fake",
        "--color=no",
        "-rA",
        "--tb=short",
        f"--junit-xml={xml}",
    )
    result.assert_outcomes(failed=7, errors=result.parseoutcomes().get("errors", 0))
    shown = result.stdout.str()
    # Where it is shown it can be told by what stands before it, or has been written over that.
    assert len(re.findall("login: |overn: ", shown)) >= 7
    assert_harmless(shown)
    assert_harmless(result.stderr.str())
    assert_harmless(re.sub(r"&#\w+;", "", xml.read_text()))
