"""``qmp_boot``: booted once, fresh for every test; shared, kept, made ready ahead."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import guests
from tests.leftovers import NOTHING, wait_until
from tests.leftovers import Run as Program
from tests.plugin.conftest import Run

real = pytest.mark.needs_qemu

# The guest keeps what is typed until the end of the line: that is memory which a test changes.
REAL = """
import os, pytest

BOOTS = {boots!r}

@pytest.fixture
def qmp_vm_config(qmp_vm_config):
    return qmp_vm_config.replace(firmware={firmware!r}, memory="16M", machine="pc")

@pytest.fixture(scope="session")
def qmp_boot():
    def boot(vm):
        with open(BOOTS, "a") as file:
            file.write(f"{{vm.pid}}\\n")
        vm.console.expect_exact("ready")
        vm.console.send("begun-")
        vm.console.expect_exact("begun-")
    return boot

{tests}
"""

FRESH = """
@pytest.mark.parametrize("number", range(3))
def test_it(qmp_vm, number):
    qmp_vm.assert_status("running")
    qmp_vm.console.sendline(f"{number}")
    qmp_vm.console.expect(r"echo: (\\S*)\\r")
    assert qmp_vm.console.match[1] == f"begun-{number}"
"""

ON_THE_FAKE = """
import pytest

@pytest.fixture(scope="session")
def qmp_boot():
    booted = []
    def boot(vm):
        booted.append(vm)
        assert len(booted) == 1, "booted twice"
        vm.execute("object-add", {"qom-type": "iothread", "id": "first"})
    return boot

@pytest.mark.parametrize("number", range(3))
def test_it(qmp_vm, number):
    qmp_vm.assert_status("running")
    assert [one["id"] for one in qmp_vm.execute("query-iothreads")] == ["first"]
    qmp_vm.execute("object-add", {"qom-type": "iothread", "id": "second"})
"""


class Suite:
    """A suite on a tiny guest, which tells how often it booted."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._boots = folder / "boots"
        self._run = run
        self.firmware = guests.overrides("typed", folder)["firmware"]

    def source(self, tests: str) -> str:
        """The text of the module."""
        return REAL.format(boots=str(self._boots), firmware=str(self.firmware), tests=tests)

    def __call__(self, *options: str, tests: str = FRESH) -> pytest.RunResult:
        """Runs it."""
        self._boots.write_text("")
        return self._run(self.source(tests), "--qmp-backend=qemu", *options)

    @property
    def boots(self) -> int:
        """How often the guest has booted in the last run."""
        return len(self._boots.read_text().split())


@pytest.fixture
def suite(tmp_path: Path, run: Run) -> Suite:
    return Suite(tmp_path, run)


@real
@pytest.mark.parametrize(
    ("restore", "boots", "told"),
    [
        ("auto", 1, "is a clone of one that has booted"),
        ("state", 1, "is from the saved state of one that has booted"),
        ("boot", 3, "is booted itself"),
    ],
)
def test_each_test_begins_where_the_boot_has_ended(
    suite: Suite, restore: str, boots: int, told: str
) -> None:
    result = suite(f"--qmp-restore={restore}")
    result.assert_outcomes(passed=3)
    assert suite.boots == boots
    result.stdout.fnmatch_lines(
        [
            f"qmp: machines boot * (--qmp-restore={restore})",
            f"qmp: x86_64 pc 16M: each test's machine {told}",
        ]
    )


def test_on_the_fake_the_model_is_fresh_for_each(run: Run) -> None:
    result = run(ON_THE_FAKE, "--qmp-backend=fake")
    result.assert_outcomes(passed=3)


@real
def test_one_worker_boots_and_the_others_wait_for_it(suite: Suite) -> None:
    result = suite("-n3")
    result.assert_outcomes(passed=3)
    assert suite.boots == 1


@real
def test_a_machine_that_booted_in_an_earlier_run_is_taken(suite: Suite, tmp_path: Path) -> None:
    cache = f"--qmp-template-cache={tmp_path / 'cache'}"
    suite(cache).assert_outcomes(passed=3)
    result = suite(cache)
    result.assert_outcomes(passed=3)
    assert suite.boots == 0
    result.stdout.fnmatch_lines(["*is a clone of one that has booted in an earlier run"])
    # Another boot function, and then other firmware, are other machines.
    suite(cache, tests=f"BEGUN = 2\n{FRESH}").assert_outcomes(passed=3)
    assert suite.boots == 1
    firmware = bytearray(suite.firmware.read_bytes())
    firmware[0] ^= 1  # It lies below the code.
    suite.firmware.write_bytes(firmware)
    suite(cache).assert_outcomes(passed=3)
    assert suite.boots == 1


@real
def test_what_is_torn_is_booted_anew(suite: Suite, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    suite(f"--qmp-template-cache={cache}").assert_outcomes(passed=3)
    for name in ("memory", "manifest.json"):
        [file] = cache.glob(f"*/{name}")
        content = file.read_bytes()
        place = content.rindex(content.strip(b"\0}")[-1:])
        file.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        result = suite(f"--qmp-template-cache={cache}")
        result.assert_outcomes(passed=3)
        assert suite.boots == 1
        result.stdout.fnmatch_lines(["qmp: a template of an earlier run is not whole*"])


@real
def test_without_a_folder_pytests_cache_has_it(suite: Suite) -> None:
    for boots in (1, 0):
        suite("--qmp-template-cache", "-k", "it").assert_outcomes(passed=3)
        assert suite.boots == boots


@real
def test_a_folder_with_other_things_in_it_is_left_alone(suite: Suite, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    result = suite(f"--qmp-template-cache={mine}")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*mine has other things in it, and is no folder of templates*"])
    assert [one.name for one in mine.iterdir()] == ["thesis.txt"]


@real
def test_a_boot_that_fails_is_told_with_what_the_guest_wrote_and_not_tried_again(
    run: Run, tmp_path: Path
) -> None:
    source = REAL.format(
        boots=str(tmp_path / "boots"),
        firmware=str(guests.overrides("typed", tmp_path)["firmware"]),
        tests=FRESH,
    ).replace('expect_exact("ready")', 'expect_exact("login:", timeout=0.3)')
    result = run(source, "--qmp-backend=qemu")
    result.assert_outcomes(errors=3)
    assert len((tmp_path / "boots").read_text().split()) == 1
    result.stdout.fnmatch_lines(
        ["*waited 0.3 s for 'login:' at the console*", "*| ready", "*is not tried again*"]
    )


@real
def test_paused_it_waits_where_the_boot_has_ended(suite: Suite) -> None:
    tests = """
@pytest.mark.qmp(paused=True)
def test_it(qmp_vm, qmp_vm_factory):
    qmp_vm.assert_status("paused")
    qmp_vm.cont()
    qmp_vm.console.sendline("go")
    qmp_vm.console.expect_exact("echo: begun-go")
    plain = qmp_vm_factory(boot=None, paused=False)
    plain.console.expect_exact("ready")
    plain.console.sendline("plain")
    plain.console.expect_exact("echo: plain")
"""
    suite(tests=tests).assert_outcomes(passed=1)


@real
def test_each_configuration_boots_once(suite: Suite) -> None:
    tests = """
@pytest.mark.parametrize("memory", ["16M", "24M"] * 2)
def test_it(qmp_vm_factory, memory):
    vm = qmp_vm_factory(memory=memory, name=f"with {memory}")
    vm.console.sendline("x")
    vm.console.expect_exact("echo: begun-x")
    assert vm.execute("query-memory-size-summary")["base-memory"] == int(memory[:-1]) << 20
"""
    suite(tests=tests).assert_outcomes(passed=4)
    assert suite.boots == 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("'login:'", "qmp_boot returns a function that takes the machine, not 'login:'"),
        ("lambda vm: 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_qmp_boot_that_can_not_be(run: Run, value: str, said: str) -> None:
    source = f"""
import pytest

@pytest.fixture
def qmp_boot():
    return {value}

def test_it(qmp_vm):
    pass
"""
    result = run(source, "--qmp-backend=fake")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--qmp-restore=clon", "*clon is no way to have a machine anew*did you mean*clone*"),
        ("--qmp-prefetch=-1", "*--qmp-prefetch=-1 is no number of machines*"),
        ("--qmp-template-cache=test_it.py::test_it", "*a folder is named as in*"),
    ],
)
def test_options_that_can_not_be(run: Run, option: str, said: str) -> None:
    result = run("def test_it(): pass", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


@real
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_of_what_was_made_ready(suite: Suite, tmp_path: Path, number: str) -> None:
    tests = """
def test_it(qmp_vm):
    with open(os.environ["TOLD"], "w") as file:
        file.write("pid\\n")
    import time
    time.sleep(60)
"""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "test_it.py").write_text(suite.source(tests))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--qmp-accel=tcg"]
    with Program(folder, [*argv, "--qmp-prefetch=2", "--qmp-backend=qemu"]) as program:
        program.told()
        # pytest, the keeper, the test's machine, and two more.
        wait_until(_counts(program, 5))
        program.process.send_signal(signal.Signals[number])
        program.process.wait(60)
        assert program.left_in_the_end() == NOTHING


def _counts(program: Program, processes: int) -> Callable[[], bool]:
    return lambda: program.left().counts["processes"] >= processes
