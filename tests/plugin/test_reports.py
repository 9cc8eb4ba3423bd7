"""What a failure shows, and what a run says at its begin and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import guests

from .conftest import Run

FAKE = "--qmp-backend=fake"


def test_a_failure_shows_the_last_messages_and_the_console(run: Run) -> None:
    result = run(
        r"""
        def test_it(qmp_vm):
            qmp_vm.fake.guest.write_console(b"\x1b[31mKernel panic\x1b[0m\r\n")
            qmp_vm.stop()
            qmp_vm.console.expect("login:", timeout=0.05)
        """,
        FAKE,
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"> +qmp_vm.console.expect\(\"login:\", timeout=0.05\)",
            r"E .*waited 0.05 s for 'login:' at the console serial0, in vain.",
            r"E +Its last lines:",
            r"E +\| Kernel panic",
            r"-+ vm0: the fake QEMU 11.1 -+",
            r"qemu-system-x86_64 -nodefaults .*",
            r"-+ vm0: last QMP messages -+",
            r" +-\d+\.\d{3} s < \{\"QMP\": .*",
            r' +-\d+\.\d{3} s > \{"execute":"stop"\}',
            r' +-\d+\.\d{3} s < \{"timestamp": .*"STOP"\}',
            r' +-\d+\.\d{3} s < \{"return": \{\}\}',
            r"-+ vm0: the console's last lines -+",
            r"Kernel panic",
        ]
    )
    # Nothing of our own source, nor of pexpect's, stands between the test and the reason.
    result.stdout.no_fnmatch_line("*spawnbase.py*")
    result.stdout.no_fnmatch_line("*pytest_qmp/*.py:*")
    assert "\x1b[31m" not in result.stdout.str()


def test_each_machine_of_a_test_has_its_sections(run: Run) -> None:
    result = run(
        """
        def test_it(qmp_vm_factory):
            qmp_vm_factory()
            qmp_vm_factory(name="server")
            assert False
        """,
        FAKE,
    )
    result.stdout.fnmatch_lines(["*vm0: last QMP messages*", "*server: last QMP messages*"])


def test_a_passing_test_has_no_sections(run: Run) -> None:
    result = run("def test_it(qmp_vm): pass", FAKE, "-rA")
    result.stdout.no_fnmatch_line("*last QMP messages*")


@pytest.mark.needs_qemu
def test_a_refused_argument_is_told_in_qemus_words_alone(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.qmp(machine="no-such")
        def test_it(qmp_vm):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it*",
            "QEMU did not start: it exited with status 1",
            "It wrote:",
            "  *: unsupported machine type",
            "The command line was:",
            "  *qemu-system-x86_64 * -machine no-such *",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_qmp/*.py*")


@pytest.mark.needs_qemu
def test_an_error_in_the_users_own_fixture_keeps_its_traceback(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def server(qmp_vm_factory):
            return qmp_vm_factory(machine="no-such")

        def test_it(server):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['>*return qmp_vm_factory(machine="no-such")'])
    result.stdout.fnmatch_lines(["E*QEMU did not start: it exited with status 1"])
    result.stdout.no_fnmatch_line("*pytest_qmp/*.py*")


@pytest.mark.needs_qemu
def test_a_qemu_that_is_killed_in_a_test(run: Run, tmp_path: Path) -> None:
    result = run(
        """
        import os, signal

        def test_it(qmp_vm):
            os.kill(qmp_vm.pid, signal.SIGKILL)
            qmp_vm.wait_for_event("SHUTDOWN")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*VMGoneError: QEMU was killed by SIGKILL * while the event SHUTDOWN was awaited"]
    )


@pytest.mark.needs_qemu
def test_the_console_of_a_real_guest_is_shown(run: Run, tmp_path: Path) -> None:
    firmware = guests.overrides("spin", tmp_path, banner="oops: unable to handle")["firmware"]
    result = run(
        f"""
        import pytest

        @pytest.mark.qmp(firmware={str(firmware)!r})
        def test_it(qmp_vm):
            qmp_vm.console.expect("oops")
            assert False
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*vm0: the console's last lines*", "oops: unable to handle"])


def test_a_missing_kernel_is_an_error_that_names_it(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.qmp(kernel="/no/such/vmlinuz")
        def test_it(qmp_vm):
            pass
        """,
        FAKE,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["can't read the kernel '/no/such/vmlinuz': No such file*"])


def test_a_suite_without_machines_is_told_nothing(run: Run) -> None:
    result = run("def test_it(): pass", accel="")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("qmp:*")


def test_quiet_has_no_header(run: Run) -> None:
    result = run("def test_it(qmp_vm): pass", FAKE, "-q")
    assert not [line for line in result.outlines if line.startswith("qmp: the fake QEMU 11.1 (")]


def test_xdist_counts_on_the_controller(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(qmp_vm, n):
            qmp_vm.assert_status("running")
        """,
        FAKE,
        "-n2",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["qmp: 4 tests on the fake QEMU 11.1"])
