"""A QEMU process: started over inherited sockets, waited for, always reaped."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from pytest_qmp.errors import VMError, VMLaunchError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.argv import build_argv
from pytest_qmp.vm.backend import Wires
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.host import choose_accelerator, find_qemu, qemu_version

__all__ = ["QEMUProcess", "describe_exit"]

_STDERR_BYTES = 64 * 1024
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
        self._accel = choose_accelerator(config.accel or "auto", self._qemu, self._arch)
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._stderr = -1
        self.argv = build_argv(config, self._qemu, self._accel.name, None, {})

    @property
    def pid(self) -> int | None:
        """The process, or None before the start."""
        return self._popen.pid if self._popen else None

    @property
    def description(self) -> str:
        """Such as ``QEMU 7.2.22 (/usr/bin/qemu-system-x86_64, tcg)``."""
        try:
            version = qemu_version(self._qemu)
        except VMError:
            version = "of a version that it does not tell"
        return f"QEMU {version} ({self._qemu}, {self._accel.name})"

    def start(self, consoles: Sequence[str], deadline: Deadline) -> Wires:
        """Starts QEMU with a socket pair for QMP and for each console: no path, no port, no race.

        Raises:
            VMLaunchError: the binary can't be executed.
        """
        with ExitStack() as theirs, ExitStack() as ours:
            names = ["", *consoles]
            pairs = [socket.socketpair() for _ in names]
            for our, their in pairs:
                ours.callback(our.close)
                theirs.callback(their.close)
            for our, their in pairs[1:]:
                our.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CONSOLE_BUFFER)
                their.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BUFFER)
            fds = {name: their.fileno() for name, (_, their) in zip(names, pairs, strict=True)}
            monitor = fds.pop("")
            self.argv = build_argv(self._config, self._qemu, self._accel.name, monitor, fds)
            self._stderr = _unnamed_file()
            try:
                # A session of its own: Ctrl-C in the terminal is for pytest, which then asks
                # QEMU to quit and can still look at it.
                self._popen = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr,
                    stderr=self._stderr,
                    pass_fds=[monitor, *fds.values()],
                    env={**os.environ, **self._config.env} if self._config.env else None,
                    start_new_session=True,
                )
            except OSError as error:
                self.close()
                raise VMLaunchError(
                    f"can't execute {self._qemu}: {error.strerror or error}", argv=self.argv
                ) from error
            if hasattr(os, "pidfd_open"):
                self._pidfd = os.pidfd_open(self._popen.pid)
            ours.pop_all()
        sockets = [our for our, _ in pairs]
        return Wires(sockets[0], dict(zip(consoles, sockets[1:], strict=True)))

    def wait(self, deadline: Deadline) -> int | None:
        """Waits for the end; returns the exit status, negative for a signal, None if it runs."""
        if self._popen is None:
            return None
        if self._popen.returncode is None and self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(deadline.poll_milliseconds()):
                return None
            return self._popen.wait()
        try:
            return self._popen.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            return None

    def stderr(self) -> str:
        """The end of what QEMU wrote to its standard output and error."""
        if self._stderr < 0:
            return ""
        size = os.fstat(self._stderr).st_size
        start = max(0, size - _STDERR_BYTES)
        return os.pread(self._stderr, size - start, start).decode("utf-8", "replace")

    def terminate(self) -> None:
        """Sends SIGTERM."""
        if self._popen is not None:
            self._popen.terminate()

    def kill(self) -> None:
        """Sends SIGKILL."""
        if self._popen is not None:
            self._popen.kill()

    def close(self) -> None:
        """Closes the descriptors. The process must have been waited for. Idempotent."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1


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
