"""Workers of pytest-xdist side by side: what they share, and what they don't tread on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

pytest.importorskip("xdist")

# Each test notes when its machine began and ended, and how much memory it was to have.
NOTING = """
import json
import os
import time
import pytest

groups = [pytest.mark.xdist_group(f"group {{number}}") for number in range(4)]

@pytest.mark.parametrize(
    "number", [pytest.param(one, marks=groups[one % 4]) for one in range({count})]
)
@pytest.mark.qmp(memory="{memory}")
def test_it(number, qmp_vm, worker_id):
    began = time.monotonic()
    qmp_vm.stop()
    qmp_vm.cont()
    {body}
    with open({notes!r}, "a") as notes:
        notes.write(json.dumps([began, time.monotonic(), worker_id, qmp_vm.argv]) + "\\n")
"""


def source(notes: Path, *, count: int = 8, memory: str = "64M", body: str = "") -> str:
    return NOTING.format(notes=str(notes), count=count, memory=memory, body=body)


def read(notes: Path) -> list[tuple[float, float, str, list[str]]]:
    return [tuple(json.loads(line)) for line in notes.read_text().splitlines()]


def most_at_once(notes: Path) -> int:
    """How many machines ran side by side at most."""
    edges = [edge for began, ended, *_ in read(notes) for edge in ((began, 1), (ended, -1))]
    running = most = 0
    for _, change in sorted(edges):
        running += change
        most = max(most, running)
    return most


@pytest.mark.needs_qemu
@pytest.mark.parametrize("workers", ["2", "8"])
@pytest.mark.parametrize("dist", ["load", "loadgroup", "worksteal"])
def test_every_way_to_distribute(run: Run, tmp_path: Path, workers: str, dist: str) -> None:
    notes = tmp_path / "notes"
    result = run(source(notes), "-n", workers, "--dist", dist)
    result.assert_outcomes(passed=8)
    assert len(read(notes)) == 8
    result.stdout.re_match_lines([r"qmp: 8 tests on QEMU "])


def test_the_fake_needs_no_memory_of_the_host(run: Run, tmp_path: Path) -> None:
    text = source(tmp_path / "notes", memory="1G", count=4)
    options = ("--qmp-backend=fake", "--qmp-max-memory=64M", "-n", "2")
    run(text, *options).assert_outcomes(passed=4)


@pytest.mark.needs_qemu
def test_workers_wait_for_each_others_memory(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    # Long enough for the other workers to be told to wait, and to say so.
    body = "time.sleep(0.4)"
    text = source(notes, count=8, memory="64M", body=body)
    result = run(text, "-n", "4", "--dist", "load", "--qmp-max-memory=128M")
    result.assert_outcomes(passed=8)
    assert most_at_once(notes) <= 2
    assert len({worker for _, _, worker, _ in read(notes)}) > 2
    said = result.stderr.str() + result.stdout.str()
    assert re.search(
        r"qmp: gw\d is waiting for 64 MiB of memory for vm0 of \S*test_it\[\d\] \(gw\d\): of "
        r"128 MiB, 128 MiB are reserved, for vm0 of \S*test_it\[\d\] \(gw\d\) \(64 MiB\), ",
        said,
    )


@pytest.mark.needs_qemu
def test_more_than_the_maximum_fails_at_once(run: Run) -> None:
    result = run(
        "def test_it(qmp_vm): pass", "--qmp-memory=256M", "--qmp-max-memory=128M", "-n", "2"
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*asks for 256 MiB of memory, but --qmp-max-memory allows*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_more_than_the_host_has_fails_at_once(run: Run, workers: list[str]) -> None:
    result = run("def test_it(qmp_vm): pass", "--qmp-memory=900T", *workers)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*asks for * of memory, but this host has no more than *"])


@pytest.mark.needs_qemu
def test_a_machine_that_ended_leaves_its_memory_to_the_next_of_its_test(run: Run) -> None:
    result = run(
        """
        import pytest

        def test_one_after_the_other(qmp_vm_factory):
            for _ in range(3):
                qmp_vm_factory(memory="96M").quit()

        def test_two_at_a_time(qmp_vm_factory):
            qmp_vm_factory(memory="96M")
            with pytest.raises(Exception, match="there never will be 96 MiB"):
                qmp_vm_factory(memory="96M")

        def test_that_it_is_free_again(qmp_vm_factory):
            qmp_vm_factory(memory="128M")
        """,
        "--qmp-max-memory=128M",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.needs_qemu
def test_a_worker_that_died_holds_nothing_back(run: Run) -> None:
    result = run(
        """
        import os
        import signal

        def test_dies(qmp_vm):
            os.kill(qmp_vm.pid, signal.SIGKILL)
            os._exit(3)

        def test_lives(qmp_vm):
            pass

        def test_lives_too(qmp_vm):
            pass
        """,
        "-n",
        "2",
        "--qmp-memory=96M",
        "--qmp-max-memory=128M",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running '*test_dies'*"])


KVM_THAT_FAILS = """
import os
import platform

real = os.path.exists, os.access
os.path.exists = lambda path: path == "/dev/kvm" or real[0](path)
os.access = lambda path, *more, **how: path == "/dev/kvm" or real[1](path, *more, **how)
platform.machine = lambda: "x86_64"
"""


def test_one_worker_probes_for_all_and_the_reason_is_told(
    run: Run, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    log = tmp_path / "log"
    binary = tmp_path / "qemu-system-x86_64"
    binary.write_text(
        f"""#!/bin/sh
case "$*" in
*--version*) echo "QEMU emulator version 7.2.22" ;;
*) echo probed >> {log}; echo "no such luck" >&2; exit 1 ;;
esac
"""
    )
    binary.chmod(0o755)
    pytester.makeconftest(KVM_THAT_FAILS)
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        @pytest.mark.qmp(requires=["kvm"])
        def test_it(number):
            pass
        """,
        f"--qmp-qemu={binary}",
        "-n",
        "4",
        accel="",
    )
    result.assert_outcomes(skipped=8)
    result.stdout.fnmatch_lines(
        ["*KVM does not work here: KVM did not run guest code: no such luck*"]
    )
    assert log.read_text() == "probed\n"


@pytest.mark.needs_qemu
def test_the_accelerator_and_its_reason_are_told_at_the_end(run: Run) -> None:
    result = run("def test_it(qmp_vm): pass", "-n", "2")
    result.stdout.re_match_lines(
        [r"qmp: QEMU \S+ \(\S+\), accelerator tcg", r"qmp: 1 test on QEMU "]
    )
    quiet = run("def test_it(qmp_vm): pass", "-n", "2", "-q")
    assert ", accelerator tcg" not in quiet.stdout.str()


def another_python() -> str | None:
    """A second interpreter that can run this very environment: the same version, another path."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return str(base) if base.exists() else None


@pytest.mark.needs_qemu
def test_workers_of_several_interpreters(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = another_python()
    if python is None:
        pytest.skip("there is no second interpreter")
    # As on another machine: it has the same packages, at a place of its own.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(one for one in sys.path if one))
    probe = subprocess.run([python, "-c", "import pytest_qmp, xdist"], check=False)
    if probe.returncode:
        pytest.skip(f"{python} can't import what the tests need")
    notes = tmp_path / "notes"
    text = source(notes, count=6, memory="64M", body="time.sleep(0.2)") + (
        "    import sys\n    print('by', sys.executable)\n"
    )
    tx = ("--tx", f"popen//python={python}", "--tx", "2*popen", "--dist", "load")
    result = run(text, *tx, "--qmp-max-memory=64M", "-rP")
    result.assert_outcomes(passed=6)
    assert most_at_once(notes) == 1
    executables = set(re.findall(r"^by (\S+)", result.stdout.str(), re.MULTILINE))
    assert len(executables) == 2
