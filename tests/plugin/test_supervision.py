"""What happens to a machine, and the test's own deadline, as a user of the plugin sees them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from .conftest import Run

FAKE = "--qmp-backend=fake"


def bundles(pytester: pytest.Pytester) -> dict[str, Path]:
    """The folders that are left, by the test's function."""
    folder = pytester.path / ".pytest_qmp"
    found = [one for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    return {
        json.loads((one / "status.json").read_text())["test"].split("::")[-1]: one for one in found
    }


def test_a_verdict_is_the_failure(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm):
            qmp_vm.fake.guest.write_console(b"Kernel panic - not syncing: no init\\n")
            qmp_vm.fake.guest.panic()
            qmp_vm.wait_for_event("DEVICE_DELETED")
        """,
        FAKE,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*pytest_qmp.VM*Error: the guest panicked (GUEST_PANICKED, action poweroff): "
            "Kernel panic - not syncing: no init while the event DEVICE_DELETED was awaited",
            "E*vm.allow('panic')*",
            "*qmp: all of it is in*",
        ]
    )


def test_a_verdict_that_no_wait_has_met_fails_the_test_at_its_end(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm):
            qmp_vm.fake.guest.reset()

        def test_wanted(qmp_vm):
            with qmp_vm.allow("reset"):
                qmp_vm.fake.guest.reset()

        @__import__("pytest").mark.qmp(allow=["reset"])
        def test_always_wanted(qmp_vm):
            qmp_vm.fake.guest.reset()
        """,
        FAKE,
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_it*", "*was reset*no wait of the test*"]
    )


def test_a_verdict_names_its_machine_where_there_are_several(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm_factory):
            first, second = qmp_vm_factory(), qmp_vm_factory(name="second")
            second.fake.guest.panic()
            first.execute("query-status")
            second.execute("query-status")
        """,
        FAKE,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*VM*Error: second: the guest panicked *"])
    # The traceback ends in the test, not in what ran below it.
    result.stdout.no_fnmatch_line("*connection.py*")


def test_a_test_that_fails_for_another_reason_tells_it_in_a_section(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm):
            qmp_vm.fake.guest.reset()
            qmp_vm.ask_in_background("query-status")
            assert False, "my own"
        """,
        FAKE,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*my own", "*vm0: what happened to the machine*", "the machine was reset*"]
    )


SLOW = """
    import time
    import pytest

    @pytest.mark.timeout(4)
    def test_wait(qmp_vm):
        qmp_vm.fake.guest.write_console(b"hello")
        qmp_vm.console.expect("login:")

    @pytest.mark.timeout(4)
    def test_event(qmp_vm):
        qmp_vm.wait_for_event("STOP", timeout=60)
"""


def test_a_wait_ends_before_the_deadline_of_pytest_timeout(run: Run) -> None:
    began = time.monotonic()
    result = run(SLOW, FAKE)
    result.assert_outcomes(failed=2)
    assert time.monotonic() - began < 20
    result.stdout.fnmatch_lines(
        [
            "E*waited * s (what was left of the test's own timeout of 4 s) for 'login:'*",
            "E*hello",
            "E*waited * s (what was left of the test's own timeout of 4 s) for the event STOP*",
        ]
    )
    result.stdout.no_fnmatch_line("*Timeout >4*")


def test_a_watch_that_the_deadline_cuts_short_is_no_success(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.timeout(1)
        def test_it(qmp_vm):
            qmp_vm.assert_no_event("STOP", within=60)
        """,
        FAKE,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*QMPTimeoutError: no event STOP was to come within 60 s: none came in 0.* s (what was*"]
    )


def test_the_limit_is_the_tests_alone(run: Run) -> None:
    result = run(
        """
        import time
        import pytest

        @pytest.mark.timeout(60)
        def test_first(qmp_vm):
            qmp_vm.stop()

        def test_second(qmp_vm):
            with pytest.raises(TimeoutError, match=r"^waited 0.3 s for the event"):
                qmp_vm.wait_for_event("STOP", timeout=0.3)
        """,
        FAKE,
    )
    result.assert_outcomes(passed=2)


def test_without_pytest_timeout(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm):
            qmp_vm.wait_for_event("STOP", timeout=0.1)
        """,
        FAKE,
        "-p",
        "no:timeout",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*waited 0.1 s for the event STOP*"])


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_what_is_known_is_written_before_pytest_timeout_fires(
    run: Run, pytester: pytest.Pytester, method: str
) -> None:
    result = run(
        f"""
        import threading
        import pytest

        @pytest.mark.timeout(4, method={method!r})
        def test_it(qmp_vm):
            qmp_vm.fake.guest.write_console(b"hello")
            threading.Event().wait()
        """,
        FAKE,
    )
    assert result.ret != 0
    folder = bundles(pytester)["test_it"]
    assert (folder / "console-serial0.log").read_text() == "hello"
    reason = json.loads((folder / "status.json").read_text())["reason"]
    if method == "thread":  # which ends the process, so that nothing is written later
        assert reason == "the test's timeout of 4 s is about to end it"
    else:
        assert "Timeout" in reason


def test_every_wait_can_be_stretched(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm):
            qmp_vm.wait_for_event("STOP", timeout=0.1)
        """,
        FAKE,
        "--qmp-timeout-scale=4",
    )
    result.stdout.fnmatch_lines(["E*waited 0.4 s for the event STOP*"])


@pytest.mark.parametrize("wrong", ["0", "-1", "fast", "inf"])
def test_a_factor_that_can_not_be(run: Run, wrong: str) -> None:
    result = run("def test_it(qmp_vm): pass", FAKE, f"--qmp-timeout-scale={wrong}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--qmp-timeout-scale={wrong} is no factor above 0*"])


# -- what is left ----------------------------------------------------------------------------------

ONE_OF_EACH = """
    def test_good(qmp_vm):
        qmp_vm.stop()

    def test_bad(qmp_vm):
        qmp_vm.fake.guest.write_console(b"on the console")
        qmp_vm.stop()
        assert False
"""


@pytest.mark.parametrize(
    ("keep", "left"),
    [("failed", {"test_bad"}), ("always", {"test_good", "test_bad"}), ("never", set())],
)
def test_which_tests_leave_something(
    run: Run, pytester: pytest.Pytester, keep: str, left: set[str]
) -> None:
    run(ONE_OF_EACH, FAKE, f"--qmp-keep={keep}").assert_outcomes(passed=1, failed=1)
    assert bundles(pytester).keys() == left


def test_what_is_left(run: Run, pytester: pytest.Pytester) -> None:
    run(ONE_OF_EACH, FAKE)
    folder = bundles(pytester)["test_bad"]
    assert {one.name for one in folder.iterdir()} == {
        "console-serial0.log",
        "qemu.log",
        "qmp.jsonl",
        "rerun.sh",
        "status.json",
    }
    assert (folder / "console-serial0.log").read_text() == "on the console"
    messages = [json.loads(line) for line in (folder / "qmp.jsonl").read_text().splitlines()]
    assert any('"execute":"stop"' in one["message"] for one in messages)
    status = json.loads((folder / "status.json").read_text())
    assert status["machines"][0]["status"]["status"] == "paused"
    assert "assert False" in status["reason"]
    assert (pytester.path / ".pytest_qmp" / ".gitignore").read_text() == "*\n"


def test_what_an_earlier_run_has_left_goes_and_nothing_else(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(ONE_OF_EACH, FAKE)
    mine = pytester.path / ".pytest_qmp" / "mine"
    mine.mkdir()
    run("def test_good(qmp_vm): pass", FAKE)
    assert mine.is_dir()
    assert [one.name for one in mine.parent.iterdir() if one.is_dir()] == ["mine"]


def test_a_link_in_the_place_of_a_bundle_is_not_followed(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(ONE_OF_EACH, FAKE)
    folder = bundles(pytester)["test_bad"]
    elsewhere = pytester.path / "elsewhere"
    folder.rename(elsewhere)
    (elsewhere / "status.json").write_text("mine")
    folder.symlink_to(elsewhere)
    result = run(ONE_OF_EACH, FAKE)
    result.stdout.fnmatch_lines(["*no bundle could be written*"])
    assert (elsewhere / "status.json").read_text() == "mine"


def test_the_folder_can_be_chosen(run: Run, pytester: pytest.Pytester) -> None:
    run(ONE_OF_EACH, FAKE, "--qmp-artifacts=left/here").assert_outcomes(passed=1, failed=1)
    assert len([one for one in (pytester.path / "left" / "here").iterdir() if one.is_dir()]) == 1
    assert not (pytester.path / ".pytest_qmp").exists()


def test_nothing_is_left_of_a_run_without_a_failure(run: Run, pytester: pytest.Pytester) -> None:
    run("def test_good(qmp_vm): pass", FAKE).assert_outcomes(passed=1)
    assert not (pytester.path / ".pytest_qmp").exists()
