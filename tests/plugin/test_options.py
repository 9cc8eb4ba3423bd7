"""Every option and its ini twin, right and wrong."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pytest_qmp import FakeQMPServer
from pytest_qmp.options import OPTIONS, flag

from .conftest import Run

SHOW = """
def test_show(qmp_vm):
    print("argv:", " ".join(qmp_vm.argv))
    print("backend:", qmp_vm.backend, qmp_vm.config.timeout)
"""

FAKE = "--qmp-backend=fake"


@pytest.mark.parametrize(
    ("option", "ini", "shown"),
    [
        ("--qmp-backend=fake", "qmp_backend = fake", "backend: fake *"),
        ("--qmp-arch=riscv64", "qmp_arch = riscv64", "argv: qemu-system-riscv64 *"),
        ("--qmp-machine=pc", "qmp_machine = pc", "argv: * -machine pc *"),
        ("--qmp-memory=192M", "qmp_memory = 192M", "argv: * -m 192*"),
        ("--qmp-timeout=4.5", "qmp_timeout = 4.5", "backend: * 4.5"),
    ],
)
def test_option_and_ini(run: Run, option: str, ini: str, shown: str) -> None:
    more = () if "backend" in option else (FAKE,)
    for result in (run(SHOW, option, *more), run(SHOW, *more, ini=ini)):
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([shown])


def test_the_option_wins_over_the_ini(run: Run) -> None:
    result = run(SHOW, "--qmp-machine=q35", FAKE, ini="qmp_machine = pc")
    result.stdout.fnmatch_lines(["argv: * -machine q35 *"])


def test_the_marker_wins_over_the_option(run: Run) -> None:
    result = run(
        f"import pytest\npytestmark = pytest.mark.qmp(machine='pc')\n{SHOW}",
        "--qmp-machine=q35",
        FAKE,
    )
    result.stdout.fnmatch_lines(["argv: * -machine pc *"])


@pytest.mark.needs_qemu
def test_accel(run: Run) -> None:
    result = run(SHOW, accel="tcg,thread=single")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["argv: * -accel tcg,thread=single *"])
    result = run(SHOW, accel="", ini="qmp_accel = tcg")
    result.stdout.fnmatch_lines(["qmp: QEMU *, accelerator tcg"])


@pytest.mark.needs_qemu
def test_accel_auto_says_why(run: Run) -> None:
    result = run(SHOW, accel="auto")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"qmp: QEMU .*, accelerator \w+ \(.+\)"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--qmp-backend=quemu", "--qmp-backend=quemu is no backend; did you mean 'qemu'?"),
        ("--qmp-arch=x86-64", "*is no architecture of QEMU's; did you mean 'x86_64'?"),
        ("--qmp-accel=kwm", "--qmp-accel=kwm is no accelerator; did you mean 'kvm'?"),
        ("--qmp-memory=lots", "--qmp-memory=lots: a memory size is written like '256M' or '2G'*"),
        ("--qmp-timeout=soon", "--qmp-timeout=soon is no number of seconds above 0"),
        ("--qmp-timeout=-1", "--qmp-timeout=-1 is no number of seconds above 0"),
        ("--qmp-timeout=nan", "--qmp-timeout=nan is no number of seconds above 0"),
        ("--qmp-connect=localhost:0", "--qmp-connect=localhost:0: *no port between 1 and 65535"),
        ("--qmp-machine=", "--qmp-machine is empty"),
        ("--qmp-qemu=", "--qmp-qemu is empty"),
    ],
)
def test_wrong_values_are_usage_errors(run: Run, option: str, words: str) -> None:
    result = run(SHOW, option, accel="")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {words}"])


def test_a_wrong_ini_value_is_named_as_such(run: Run) -> None:
    result = run(SHOW, ini="qmp_timeout = soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: qmp_timeout (ini)=soon is no number*"])


# -- --qmp-connect ---------------------------------------------------------------------------------


def test_connect_uses_a_running_qemu_and_leaves_it(run: Run) -> None:
    with FakeQMPServer() as server:
        result = run(
            """
            def test_stop(qmp_vm):
                assert qmp_vm.backend == "external"
                qmp_vm.stop()

            def test_still_stopped(qmp_client):
                assert client_status(qmp_client) == "paused"

            def client_status(client):
                return client.query_status()["status"]
            """,
            f"--qmp-connect={server.address}",
        )
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines([f"qmp: the running QEMU at {server.address}"])
        result.stdout.fnmatch_lines([f"qmp: 2 tests on the QEMU at unix:{server.address}"])
        assert server.exit_status is None


def test_connect_where_nobody_listens(run: Run, tmp_path: Path) -> None:
    address = tmp_path / "nobody"
    result = run(SHOW, f"--qmp-connect={address}", "--qmp-timeout=0.2")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"can't connect to unix:{address}: there is no such socket*"])
    result.stdout.no_fnmatch_line("*pytest_qmp/*.py*")


def test_connect_excludes_what_it_can_not_change(run: Run) -> None:
    result = run(SHOW, "--qmp-connect=/tmp/x", "--qmp-memory=1G")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --qmp-connect uses a QEMU that runs already*"])


# -- --qmp-qemu ------------------------------------------------------------------------------------


def wrapper(path: Path, program: str) -> Path:
    """A QEMU binary at a path of its own."""
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.needs_qemu
def test_qemu_names_the_binary(run: Run, tmp_path: Path) -> None:
    binary = wrapper(tmp_path / "a" / "qemu-system-x86_64", "qemu-system-x86_64")
    for result in (run(SHOW, f"--qmp-qemu={binary}"), run(SHOW, ini=f"qmp_qemu = {binary}")):
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"qmp: QEMU * ({binary}), *", f"argv: {binary} *"])


@pytest.mark.needs_qemu
def test_qemu_twice_runs_every_test_on_both_grouped(run: Run, tmp_path: Path) -> None:
    first = wrapper(tmp_path / "a" / "qemu-system-x86_64", "qemu-system-x86_64")
    second = wrapper(tmp_path / "b" / "qemu-system-aarch64", "qemu-system-aarch64")
    result = run(
        """
        def test_one(qmp_vm):
            print("on", qmp_vm.argv[0])

        def test_two(qmp_vm):
            print("on", qmp_vm.argv[0])

        def test_without():
            pass
        """,
        f"--qmp-qemu={first}",
        f"--qmp-qemu={second}",
        "-v",
        "-s",
    )
    result.assert_outcomes(passed=5)
    order = [line[3:] for line in result.outlines if line.startswith("on ")] or [
        line.split("on ")[1] for line in result.outlines if " on /" in f" {line}"
    ]
    assert len(order) == 4
    assert order[0] == order[1] != order[2] == order[3]
    result.stdout.re_match_lines([r".*test_one\[x86_64-\d+\.\d+\.\d+\].*"])
    result.stdout.re_match_lines([r".*test_one\[aarch64-\d+\.\d+\.\d+\].*"])


def test_a_given_binary_that_is_not_there_fails(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "qemu-system-x86_64"
    result = run(SHOW, f"--qmp-qemu={missing}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"can't use the QEMU binary {missing}: there is no such file"])
    result.stdout.no_fnmatch_line("*Traceback*")


# -- --qmp-require ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_qemu")
def test_a_missing_binary_skips_and_under_require_fails(run: Run) -> None:
    reason = "*there is no qemu-system-x86_64: looked on the PATH*apt-get install qemu-system-x86*"
    result = run(SHOW, "--qmp-backend=qemu")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED {reason}"])
    backend = "--qmp-backend=qemu"
    for result in (
        run(SHOW, backend, "--qmp-require"),
        run(SHOW, backend, ini="qmp_require = true"),
    ):
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines([f"{reason}(and --qmp-require is given)"])


def test_help_names_every_option_and_its_ini(run: Run) -> None:
    shown = run("", "--help", accel="").stdout.str()
    for name, _, _ in OPTIONS:
        assert flag(name) in shown
        assert f"qmp_{name} (" in shown
