"""The keeper: what it is told, what it does at the end, and what it does not disturb."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_qmp import VirtualMachine, VMError, VMLaunchError
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.keeper import client as keeper
from pytest_qmp.vm import process
from tests.leftovers import NOTHING, Run, running, wait_until

real = pytest.mark.needs_qemu
pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="counts by means of /proc"
)

HEAD = """
import os, signal, subprocess, sys, threading, time
from pytest_qmp import VirtualMachine
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.keeper import client as keeper

def tell(word, number=0):
    with open(os.environ["TOLD"], "w") as file:
        file.write(f"{word} {number}\\n")

def launch():
    return VirtualMachine(machine="none", accel="tcg").start()
"""


def script(folder: Path, source: str, first: str = "") -> Run:
    """Runs a program that knows no pytest."""
    path = folder / "script.py"
    path.write_text(first + HEAD + source)
    return Run(folder, [sys.executable, str(path)])


@pytest.fixture
def own_keeper() -> Iterator[psutil.Process]:
    """A fresh keeper."""
    keeper.end()
    keeper.mark()
    pid = keeper.keeper_pid()
    assert pid is not None
    yield psutil.Process(pid)
    keeper.end()


def sleeper(how: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A process, to be kept if it is started as what is kept is."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True, **how)


def ended(child: subprocess.Popen[bytes]) -> int:
    """Its exit status; whoever has it ended needs a moment."""
    return child.wait(20)


# -- the keeper's process --------------------------------------------------------------------------


def test_it_holds_nothing_and_is_reached_by_no_signal_of_a_terminal(
    own_keeper: psutil.Process,
) -> None:
    # Its own Python takes a moment.
    wait_until(lambda: own_keeper.cwd() == "/")
    assert os.getsid(own_keeper.pid) == own_keeper.pid
    folder = f"/proc/{own_keeper.pid}/fd"
    targets = {number: os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
    assert [targets.pop(number) for number in "012"] == ["/dev/null"] * 3
    assert sorted(one.partition(":")[0] for one in targets.values()) == [
        "anon_inode",
        "pipe",
        "socket",
    ]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        own_keeper.send_signal(number)
    child = sleeper(keeper.kept())
    assert keeper.keeper_pid() == own_keeper.pid
    keeper.end()
    assert ended(child) == -signal.SIGKILL
    assert not own_keeper.is_running()


@pytest.mark.usefixtures("own_keeper")
def test_what_was_forgotten_is_left_alone() -> None:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pidfd = os.pidfd_open(child.pid)
    keeper.watch(child.pid, pidfd)
    keeper.forget(child.pid)
    keeper.end()
    assert child.poll() is None
    child.kill()
    child.wait()
    os.close(pidfd)


@pytest.mark.usefixtures("own_keeper")
def test_what_it_could_not_be_told_of_is_found_by_its_mark() -> None:
    child, other = sleeper(keeper.kept()), sleeper({})
    keeper.end()
    assert ended(child) == -signal.SIGKILL
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_one_that_does_not_serve_any_more_is_replaced_and_told_all(
    how: str, own_keeper: psutil.Process, tmp_path: Path
) -> None:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pidfd = os.pidfd_open(child.pid)
    folder = keeper.make_folder("kept-", str(tmp_path))
    keeper.watch(child.pid, pidfd)
    own_keeper.send_signal(signal.Signals[how])
    if how == "SIGKILL":
        wait_until(lambda: own_keeper.status() == psutil.STATUS_ZOMBIE)
        keeper.mark()
    else:
        # A full socket is no reason to wait.
        for number in range(10_000):
            if keeper.keeper_pid() != own_keeper.pid:
                break
            keeper.remove_folder(keeper.make_folder(f"{number}-", str(tmp_path)))
        keeper.mark()
    assert keeper.keeper_pid() not in (None, own_keeper.pid)
    assert not own_keeper.is_running()
    keeper.end()
    assert ended(child) == -signal.SIGKILL
    assert not os.path.exists(folder)
    keeper.remove_folder(folder)
    keeper.forget(child.pid)
    os.close(pidfd)


@pytest.mark.usefixtures("own_keeper")
def test_a_folder_is_private_and_goes_with_all_in_it_but_not_what_links_lead_to(
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    folder = Path(keeper.make_folder("a \n b-", str(tmp_path)))
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "inner").mkdir()
    (folder / "inner" / "file").touch()
    (folder / "inner" / "to-folder").symlink_to(outside)
    (folder / "dangling").symlink_to("nowhere")
    keeper.end()
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"]
    keeper.remove_folder(str(folder))


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keeper.make_folder("x-", str(tmp_path / "missing"))


@real
def test_without_a_keeper_machines_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper.end()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with (
        pytest.warns(RuntimeWarning, match=r"can't start /nowhere/python .* end them yourself"),
        VirtualMachine(machine="none", accel="tcg") as vm,
    ):
        assert keeper.keeper_pid() is None
    assert vm.exit_status == 0


# -- a machine -------------------------------------------------------------------------------------


@real
def test_launches_leave_descriptors_threads_and_children_as_they_were() -> None:
    me = psutil.Process()

    def counts() -> tuple[int, int, int]:
        return me.num_fds(), threading.active_count(), len(me.children())

    def launch(number: int) -> None:
        with VirtualMachine(machine="none", accel="tcg") as vm:
            if number % 2:
                vm.kill()

    launch(0)
    gc.collect()
    before = counts()
    for number in range(60):
        launch(number)
    with suppress(TimeoutError):
        # The supervisor's thread ends soon after the last machine.
        wait_until(lambda: counts() == before, 5)
    assert counts() == before


@real
def test_what_qemu_itself_started_ends_with_it() -> None:
    with VirtualMachine(machine="none", accel="tcg") as vm:
        assert vm.pid is not None
        vm.execute("migrate", {"uri": "exec:exec sleep 600"})
        wait_until(lambda: psutil.Process(vm.pid).children())
        helpers = psutil.Process(vm.pid).children(recursive=True)
        vm.kill()
    assert psutil.wait_procs(helpers, timeout=20)[1] == []


def _raise(error: BaseException) -> None:
    raise error


@real
def test_an_interrupt_before_the_process_is_known_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def spawn(machine: Any, argv: Any, **how: Any) -> Any:
        children.append(subprocess.Popen(argv, **how))
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_Popen", spawn)
    vm = VirtualMachine(machine="none", accel="tcg")
    with pytest.raises(KeyboardInterrupt):
        vm.start()
    assert not psutil.pid_exists(children[0].pid)
    children[0].wait()


@real
def test_an_interrupt_while_the_process_is_being_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "watch", lambda pid, pidfd: _raise(KeyboardInterrupt()))
    vm = VirtualMachine(machine="none", accel="tcg")
    with pytest.raises(KeyboardInterrupt):
        vm.start()
    assert vm.pid is not None
    assert not psutil.pid_exists(vm.pid)


def test_an_interrupt_in_the_middle_of_close() -> None:
    vm = VirtualMachine(backend="fake").start()
    fake = vm.fake
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vm, "_end", lambda: _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            vm.close()
    assert fake.exit_status is not None


@real
@pytest.mark.parametrize("step", ["_end", "kill"])
def test_an_interrupt_in_the_middle_of_the_end_of_a_qemu(step: str) -> None:
    vm = VirtualMachine(machine="none", accel="tcg").start()
    assert vm.pid is not None
    with pytest.MonkeyPatch.context() as patch:
        if step == "kill":
            os.kill(vm.pid, signal.SIGSTOP)
        patch.setattr(vm, step, lambda: _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            vm.close()
    assert not psutil.pid_exists(vm.pid)


def test_a_binary_that_can_not_be_executed_is_not_kept(tmp_path: Path) -> None:
    binary = tmp_path / "qemu-system-x86_64"
    binary.write_bytes(b"\x7fELF no")
    binary.chmod(0o755)
    vm = VirtualMachine(qemu=binary, accel="tcg")
    with pytest.raises(VMLaunchError):
        vm.start()
    assert vm.pid is None


# -- a fork ----------------------------------------------------------------------------------------


def in_fork(body: Any) -> str:
    """Runs a function in a fork; returns what it returns there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, str(body()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


@real
def test_a_fork_ends_none_of_its_parents_machines() -> None:
    def body() -> str:
        said = []
        for end in (vm._backend.kill, vm._backend.terminate):
            try:
                end()
            except VMError as error:
                said.append(str(error))
        vm._backend.close()
        vm.close()
        vm.close()
        return "\n".join(said)

    with VirtualMachine(machine="none", accel="tcg") as vm:
        said = in_fork(body)
        assert said.count(f"was started by process {os.getpid()}, of which this one is a fork") == 2
        vm.stop()
        vm.assert_status("paused")
        assert vm.exit_status is None
    assert vm.exit_status == 0


@real
def test_a_fork_has_a_keeper_of_its_own() -> None:
    def body() -> str:
        assert keeper.keeper_pid() is None
        other = VirtualMachine(machine="none", accel="tcg").start()
        return f"{other.pid} {keeper.keeper_pid()}"

    with VirtualMachine(machine="none", accel="tcg") as vm:
        pids = [int(one) for one in in_fork(body).split()]
        assert keeper.keeper_pid() not in pids
        wait_until(lambda: not any(map(_alive, pids)))
        assert vm.exit_status is None


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_fork_does_not_end_its_parents_fake() -> None:
    with FakeQMPServer() as server:
        address = server.address

        def body() -> str:
            server.close()
            server.check()
            return "done"

        assert in_fork(body) == "done"
        assert os.path.exists(address)
        assert server.exit_status is None


# -- a program without pytest ----------------------------------------------------------------------

ENDS = {
    "its end": "",
    "an error": "raise SystemError",
    "KeyboardInterrupt": "signal.raise_signal(signal.SIGINT)",
    "sys.exit": "sys.exit(1)",
    "os._exit": "os._exit(1)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "abort": "os.abort()",
    "exec": "os.execv('/bin/sleep', ['sleep', '600'])",
}


@real
@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_never_closes(end: str, tmp_path: Path) -> None:
    source = f"""
vm, other = launch(), launch()
server = FakeQMPServer().start()
tell(server.address)
{ENDS[end]}
"""
    with script(tmp_path, source) as run:
        run.told()
        if end == "exec":
            # The process goes on, as another program: that one alone is left.
            wait_until(lambda: run.left().counts == {"processes": 1, "files": 0, "sockets": 0})
            run.process.kill()
        run.process.wait(20)
        assert run.left_in_the_end() == NOTHING


@real
def test_a_program_that_lost_its_machine(tmp_path: Path) -> None:
    with script(tmp_path, "launch()\ntell('done')\nos._exit(0)") as run:
        run.told()
        run.process.wait(20)
        assert run.left_in_the_end() == NOTHING


@real
def test_the_end_of_a_program_is_the_end_of_all(tmp_path: Path) -> None:
    # What was registered first is called last: when the machines have been closed.
    first = "import atexit\natexit.register(lambda: tell(vm.exit_status, other.exit_status))\n"
    with script(tmp_path, "vm, other = launch(), launch()", first) as run:
        assert run.told() == ["0", "0"]
        run.process.wait(20)
        assert run.left() == NOTHING  # At once: nobody has to look a second time.


def test_a_process_that_is_just_becoming_a_qemu_is_waited_for(tmp_path: Path) -> None:
    # Between fork and exec it has closed what QEMU shall not inherit, and bears no mark yet; here
    # that takes it a while.
    source = """
mark = keeper.mark()
becoming = "sleep 0.5; PYTEST_QMP_KEEPER=" + mark["PYTEST_QMP_KEEPER"] + " exec sleep 600"
subprocess.Popen(["sh", "-c", becoming], pass_fds=keeper.lifeline())
os.kill(os.getpid(), signal.SIGKILL)
"""
    with script(tmp_path, source) as run:
        run.process.wait(20)
        assert run.left_in_the_end() == NOTHING


def test_what_shares_its_descriptors_does_not_delay_it(tmp_path: Path) -> None:
    # As a fork does of which Python knows nothing.
    source = """
mark = {**os.environ, **keeper.mark()}
child = subprocess.Popen(["sleep", "600"], start_new_session=True, env=mark)
keeper.watch(child.pid, keeper.open_pidfd(child.pid))
link = keeper._keeper.link.socket.fileno()
other = subprocess.Popen(["sleep", "600"], pass_fds=[link, *keeper.lifeline()])
kept = f"/proc/{keeper.keeper_pid()}"
while os.readlink(f"{kept}/cwd") != "/" or open(f"{kept}/stat").read().split()[2] != "S":
    time.sleep(0.005)  # It still starts, and would only have to see that its parent is another.
tell("other", other.pid)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with script(tmp_path, source) as run:
        other = int(run.told()[1])
        run.process.wait(20)
        wait_until(lambda: running(run.value) == [other])
