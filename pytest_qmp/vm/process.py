"""A QEMU process: started over inherited sockets, waited for, always reaped."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import VMError, VMLaunchError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.argv import build_argv, needs_preparation
from pytest_qmp.vm.backend import Wires
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.drive import Drive
from pytest_qmp.vm.host import choose_accelerator, find_qemu, qemu_version
from pytest_qmp.vm.network_config import ends_of
from pytest_qmp.vm.timing import wanted_accelerator

if TYPE_CHECKING:
    from pytest_qmp.vm.preparation import Preparation

__all__ = ["QEMUProcess", "describe_exit"]

_STDERR_BYTES = 64 * 1024
_KILL_SECONDS = 5.0
# Of the system call; Python does not name it. The group of a leader that is gone is meant exactly.
_PIDFD_SIGNAL_PROCESS_GROUP = 4
# Names of their chardevs: the test's, and that of the background.
_MONITORS = ("qmp", "watch")
# A guest that prints faster than it is read must not stall on a small buffer.
_CONSOLE_BUFFER = 1024 * 1024


class QEMUProcess:
    """Runs a machine in a QEMU process.

    Args:
        config: what to start; its ``arch`` is set.

    Raises:
        QEMUNotFoundError: there is no such binary.
    """

    kind = "qemu"

    def __init__(self, config: VMConfig) -> None:
        self._config = config
        self._arch = config.arch or "x86_64"
        self._qemu = find_qemu(self._arch, config.qemu)
        self._accel = choose_accelerator(wanted_accelerator(config), self._qemu, self._arch)
        self._owner = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._stderr = -1
        self._preparation: Preparation | None = None
        self.argv = build_argv(config, self._qemu, self._accel.name, {}, {})

    @property
    def pid(self) -> int | None:
        """The process, or None before the start."""
        return getattr(self._popen, "pid", None)

    @property
    def description(self) -> str:
        """Such as ``QEMU 7.2.22 (/usr/bin/qemu-system-x86_64, tcg)``."""
        try:
            version = qemu_version(self._qemu)
        except VMError:
            version = "of a version that it does not tell"
        return f"QEMU {version} ({self._qemu}, {self._accel.name})"

    def configure(self, config: VMConfig) -> None:
        """Takes another config for the same binary, before the start."""
        self._config = config

    @property
    def drives(self) -> list[Drive]:
        """The drives as QEMU has them, once it was started."""
        return [one if isinstance(one, Drive) else Drive(one) for one in self._config.drives]

    def start(self, consoles: Sequence[str], deadline: Deadline) -> Wires:
        """Starts QEMU with a socket pair for QMP and for each console: no path, no port, no race.

        Raises:
            VMLaunchError: the binary can't be executed.
        """
        self._stderr = _unnamed_file()
        self._prepare(deadline)
        with ExitStack() as theirs, ExitStack() as ours:
            count = len(_MONITORS) + len(consoles) + self._config.guest_agent
            pairs = [socket.socketpair() for _ in range(count)]
            for our, their in pairs:
                ours.callback(our.close)
                theirs.callback(their.close)
            for our, their in pairs[len(_MONITORS) :]:
                our.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CONSOLE_BUFFER)
                their.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BUFFER)
            fds = [their.fileno() for _, their in pairs]
            links = [
                theirs.enter_context(end.connect()).fileno() for end in ends_of(self._config.links)
            ]
            self.argv = build_argv(
                self._config,
                self._qemu,
                self._accel.name,
                dict(zip(_MONITORS, fds, strict=False)),
                dict(zip(consoles, fds[len(_MONITORS) :], strict=False)),
                fds[-1] if self._config.guest_agent else None,
                links,
            )
            self._spawn([*fds, *links])
            ours.pop_all()
        monitor, second, *sockets = (our for our, _ in pairs)
        agent = sockets.pop() if self._config.guest_agent else None
        return Wires(monitor, dict(zip(consoles, sockets, strict=True)), second, agent)

    def _prepare(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        if not needs_preparation(self._config):
            return
        from pytest_qmp.vm.preparation import Preparation

        self._preparation = Preparation(self._qemu, self._stderr)
        self._config = self._preparation.prepare(self._config, deadline)

    def _spawn(self, fds: list[int]) -> None:
        passed = self._config.passed_descriptors()
        mark = keeper.mark()
        self._owner = os.getpid()
        try:
            # A session of its own: Ctrl-C in the terminal is for pytest, which then asks QEMU to
            # quit and can still look at it.
            popen = _Popen(
                self,
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[*fds, *passed, *keeper.lifeline()],
                env={**os.environ, **self._config.env, **mark},
                start_new_session=True,
            )
            self._pidfd = keeper.open_pidfd(popen.pid)
            keeper.watch(popen.pid, self._pidfd)
        except OSError as error:
            self._popen = None
            self.close()
            raise VMLaunchError(
                f"can't execute {self._qemu}: {error.strerror or error}", argv=self.argv
            ) from error
        except BaseException:
            if self.pid is None:
                # Ctrl-C in the middle: a process may be there whose number nobody was told.
                self._popen = None
                for pid in keeper.lost(mark):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            raise

    def disown(self) -> None:
        """In a fork: the process is the parent's, who alone can wait for it and may end it."""
        if self._popen is not None:
            self._popen.returncode = 0

    def wait(self, deadline: Deadline) -> int | None:
        """Waits for the end; returns the exit status, negative for a signal, None if it runs.

        In a fork of the process that started it, None at once: only that one is told.
        """
        popen = self._popen
        # Another thread may be about to start it.
        if popen is None or self.pid is None or os.getpid() != self._owner:
            return None
        if popen.returncode is None and self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(deadline.poll_milliseconds()):
                return None
            popen.wait()
        try:
            status = popen.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            return None
        keeper.forget(popen.pid)
        return status

    def stderr(self) -> str:
        """The end of what QEMU wrote to its standard output and error."""
        if self._stderr < 0:
            return ""
        size = os.fstat(self._stderr).st_size
        start = max(0, size - _STDERR_BYTES)
        return os.pread(self._stderr, size - start, start).decode("utf-8", "replace")

    def terminate(self) -> None:
        """Sends SIGTERM.

        Raises:
            VMError: this is a fork of the process that started it.
        """
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL.

        Raises:
            VMError: this is a fork of the process that started it.
        """
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        __tracebackhide__ = True
        if os.getpid() != self._owner:
            raise VMError(
                f"QEMU was started by process {self._owner}, of which this one is a fork: only "
                "that one may end it"
            )
        if self._popen is not None:
            self._popen.send_signal(number)

    def close(self) -> None:
        """Ends the process if it still runs, and closes the descriptors. Idempotent."""
        popen = self._popen
        if popen is not None and os.getpid() == self._owner:
            if popen.returncode is None:
                popen.kill()
                self.wait(Deadline(_KILL_SECONDS))
            self._kill_helpers()
            _running.discard(self)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._preparation is not None:
            self._preparation.close()
            self._preparation = None
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1

    def _kill_helpers(self) -> None:
        """Kills what QEMU itself started, such as the command of ``migrate exec:…``."""
        if self._pidfd is not None:
            # No such group is the usual case. Linux before 6.9 can't: the keeper does, later.
            with suppress(OSError):
                signal.pidfd_send_signal(
                    self._pidfd, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP
                )


class _Popen(subprocess.Popen[bytes]):
    """Known to its machine before it runs: an interrupt in the middle of it loses no process."""

    def __init__(self, machine: QEMUProcess, argv: Sequence[str], **how: Any) -> None:
        machine._popen = self
        _running.add(machine)
        super().__init__(argv, **how)


# Forks have to know of them.
_running: weakref.WeakSet[QEMUProcess] = weakref.WeakSet()


def _in_fork() -> None:
    for machine in _running:
        machine.disown()
    _running.clear()


os.register_at_fork(after_in_child=_in_fork)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pytest-qmp-stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def describe_exit(status: int) -> str:
    """An exit status in words.

    >>> describe_exit(1), describe_exit(-9)
    ('exited with status 1', 'was killed by SIGKILL')
    """
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
