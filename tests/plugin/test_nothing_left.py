"""However a run ends, nothing of it stays: no process, no file, no socket."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.leftovers import NOTHING, STUBBORN_QEMU, Run, running, wait_until

pytestmark = [
    pytest.mark.needs_qemu,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts by means of /proc"),
]

HEAD = """
import os, signal, sys, threading, time
import pytest

def tell(word, number=0):
    with open(os.environ["TOLD"], "w") as file:
        file.write(f"{word} {number}\\n")

# Each has a machine, a second one, and a socket on the file system.
@pytest.fixture(autouse=True)
def belongings(qmp_vm, qmp_vm_factory, qmp_fake_server):
    qmp_vm_factory()
    assert os.path.exists(qmp_fake_server.address)
"""

SLEEP = """
def test_it(qmp_vm):
    tell("pid", os.getpid())
    time.sleep(60)
"""


def start(folder: Path, source: str, *args: str, qemu: str = "", head: str = HEAD) -> Run:
    """A pytest of its own on a module; two machines of type none, and a fake that listens."""
    suite = folder / "suite"
    suite.mkdir()
    (suite / "pytest.ini").write_text("[pytest]\n")
    (suite / "test_it.py").write_text(head + source)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)]
    argv += ["--basetemp", str(folder / "base"), "--qmp-accel=tcg", "--qmp-machine=none"]
    argv += [f"--qmp-qemu={qemu}"] if qemu else []
    return Run(folder, [*argv, *args])


def was_busy(run: Run) -> bool:
    """Whether there was something that could have been left: else a test would prove nothing."""
    left = run.left().counts
    # pytest, two QEMUs, the keeper; a folder and a socket in it.
    return left["processes"] >= 4 and left["files"] == 2 and left["sockets"] == 1


# -- it ends by itself -----------------------------------------------------------------------------

ENDS = {
    "success": ("def test_it(): pass", 0),
    "failure": ("def test_it(): assert False", 1),
    "error in a fixture": (
        """
@pytest.fixture
def broken(qmp_vm):
    yield 1 / 0

def test_it(broken): pass
""",
        1,
    ),
    "error in a teardown": (
        """
@pytest.fixture
def broken(qmp_vm):
    yield
    1 / 0

def test_it(broken): pass
""",
        1,
    ),
    "sys.exit": ("def test_it(): sys.exit(7)", 1),
    "pytest.exit": ("def test_it(): pytest.exit('enough', 7)", 7),
    "os._exit": ("def test_it(): os._exit(7)", 7),
    "timeout by signal": (
        """
@pytest.mark.timeout(1, method="signal")
def test_it(): time.sleep(60)
""",
        1,
    ),
    "timeout by thread": (
        """
@pytest.mark.timeout(1, method="thread")
def test_it(): time.sleep(60)
""",
        1,
    ),
    "thread that launched and ended": (
        """
def test_it(qmp_vm_factory):
    machines = []
    thread = threading.Thread(target=lambda: machines.append(qmp_vm_factory()))
    thread.start()
    thread.join()
    machines[0].stop()
    machines[0].assert_status("paused")
    assert machines[0].exit_status is None
""",
        0,
    ),
    "stopped QEMU": (
        """
def test_it(qmp_vm):
    os.kill(qmp_vm.pid, signal.SIGSTOP)
""",
        0,
    ),
    "launch in a fork": (
        """
def test_it():
    from pytest_qmp import VirtualMachine
    pid = os.fork()
    if not pid:
        VirtualMachine(machine="none", accel="tcg").start()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
""",
        0,
    ),
    "fork that ends by os._exit": (
        """
def test_it(qmp_vm, qmp_fake_server):
    pid = os.fork()
    if not pid:
        qmp_vm.close()
        qmp_fake_server.close()
        os._exit(0)
    os.waitpid(pid, 0)
    qmp_vm.stop()
    assert os.path.exists(qmp_fake_server.address)
""",
        0,
    ),
    "fork that ends by sys.exit": (
        """
def test_it(qmp_vm, qmp_fake_server):
    pid = os.fork()
    if not pid:
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] >> 8 == 1  # The rest of pytest, teardown and all, ran there.
    qmp_vm.stop()
    qmp_vm.wait_for_event("STOP")
    qmp_vm.assert_status("paused")
    assert qmp_vm.exit_status is None
    assert os.path.exists(qmp_fake_server.address)
""",
        0,
    ),
}


@pytest.mark.parametrize("way", ENDS)
def test_a_run_that_ends_by_itself(way: str, tmp_path: Path) -> None:
    source, status = ENDS[way]
    with start(tmp_path, source) as run:
        said = run.end()
        assert run.process.returncode == status, said
        assert run.left_in_the_end() == NOTHING


def test_a_fork_that_outlives_the_run(tmp_path: Path) -> None:
    source = """
def test_it(qmp_vm):
    if not os.fork():
        tell("child", os.getpid())
        time.sleep(60)
        os._exit(0)
    tell("parent")
"""
    with start(tmp_path, source) as run:
        words = dict([run.told(), run.told()])
        run.process.wait(30)
        child = int(words["child"])
        # That one is the user's own, as are its copies of descriptors.
        wait_until(lambda: running(run.value) == [child])
        assert run.left().counts["files"] == 0
        os.kill(child, signal.SIGKILL)
        assert run.left_in_the_end() == NOTHING


def test_a_qemu_that_ignores_quit_and_sigterm(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(STUBBORN_QEMU)
    qemu.chmod(0o755)
    head = HEAD.partition("# Each")[0]
    with start(tmp_path, "def test_it(qmp_vm): pass", qemu=str(qemu), head=head) as run:
        assert run.told()[0] == "quit"
        assert run.told()[0] == "SIGTERM"
        assert "1 passed" in run.end()
        assert run.left_in_the_end() == NOTHING


# -- it is ended -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL"])
def test_a_run_that_gets_a_signal(number: str, tmp_path: Path) -> None:
    with start(tmp_path, SLEEP) as run:
        run.told()
        assert was_busy(run)
        run.process.send_signal(signal.Signals[number])
        said = run.end()
        status = -signal.Signals[number] if number != "SIGINT" else 2
        assert run.process.returncode == status, said
        assert run.left_in_the_end() == NOTHING


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_signal_to_the_whole_group_of_the_run(number: str, tmp_path: Path) -> None:
    with start(tmp_path, SLEEP) as run:
        run.told()
        assert was_busy(run)
        os.killpg(run.process.pid, signal.Signals[number])
        run.end()
        assert run.left_in_the_end() == NOTHING


def test_a_second_ctrl_c_in_the_middle_of_the_first_ones_teardown(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(STUBBORN_QEMU)
    qemu.chmod(0o755)
    head = HEAD.partition("# Each")[0]
    with start(tmp_path, SLEEP, qemu=str(qemu), head=head) as run:
        assert run.told()[0] == "pid"
        run.process.send_signal(signal.SIGINT)
        assert run.told()[0] == "quit"  # It does not end for that, so the teardown waits.
        run.process.send_signal(signal.SIGINT)
        said = run.end()
        assert "KeyboardInterrupt" in said
        assert run.left_in_the_end() == NOTHING


def test_sigkill_while_qemu_is_stopped(tmp_path: Path) -> None:
    source = """
def test_it(qmp_vm):
    os.kill(qmp_vm.pid, signal.SIGSTOP)
    tell("pid", os.getpid())
    time.sleep(60)
"""
    with start(tmp_path, source) as run:
        run.told()
        assert was_busy(run)
        run.process.kill()
        run.end()
        assert run.left_in_the_end() == NOTHING


def test_sigkill_while_a_fork_shares_every_descriptor(tmp_path: Path) -> None:
    source = """
def test_it(qmp_vm):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    tell("child", child)
    time.sleep(60)
"""
    with start(tmp_path, source) as run:
        child = int(run.told()[1])
        assert was_busy(run)
        run.process.kill()
        run.process.wait(30)
        wait_until(lambda: running(run.value) == [child])
        assert run.left().counts["files"] == 0
        os.kill(child, signal.SIGKILL)
        assert run.left_in_the_end() == NOTHING


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_an_xdist_worker_that_is_killed(number: str, tmp_path: Path) -> None:
    source = f"""
def test_it(qmp_vm):
    tell("pid", os.getpid())
    os.kill(os.getpid(), signal.{number})
    time.sleep(60)
"""
    with start(tmp_path, source, "-n1", "--max-worker-restart=0") as run:
        run.told()
        assert "crashed" in run.end()
        assert run.left_in_the_end() == NOTHING


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_an_xdist_controller_that_is_killed(number: str, tmp_path: Path) -> None:
    with start(tmp_path, SLEEP.replace("60", "600"), "-n1") as run:
        run.told()
        assert was_busy(run)
        run.process.send_signal(signal.Signals[number])
        # Its worker ends when it notices; execnet gives it some seconds.
        run.process.wait(30)
        assert run.left_in_the_end() == NOTHING
