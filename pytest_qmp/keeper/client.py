"""This process's side of its keeper: started with the first thing that could be left behind.

The keeper is told of each process and each path as it comes and as it goes. When this process
ends, however it does, the keeper kills and removes what is left, and ends too.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "ENVIRONMENT",
    "end",
    "folder",
    "forget",
    "keeper_pid",
    "kept",
    "lifeline",
    "lost",
    "make_folder",
    "mark",
    "open_pidfd",
    "remove_folder",
    "watch",
]

#: The variable in the environment of what a keeper watches over.
ENVIRONMENT = "PYTEST_QMP_KEEPER"
_SCRIPT = Path(__file__).with_name("process.py")
_END_SECONDS = 10.0
# An exec takes microseconds once the new environment is there.
_EXEC_SECONDS = 2.0
# A reader that has gone is an error to be handled, also where SIGPIPE would kill.
_SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)


class _Link:
    """A running keeper, and the socket to it."""

    def __init__(self, session: str) -> None:
        with ExitStack() as undo, ExitStack() as theirs:
            ours, other = socket.socketpair()
            undo.callback(ours.close)
            theirs.callback(other.close)
            # A test must not wait for a keeper that somebody stopped.
            ours.setblocking(False)
            pidfd = open_pidfd(os.getpid())
            end, self.lifeline = os.pipe()
            theirs.callback(os.close, end)
            undo.callback(os.close, self.lifeline)
            fds = [other.fileno(), end]
            if pidfd is not None:
                theirs.callback(os.close, pidfd)
                fds.append(pidfd)
            numbers = [*fds[:2], os.getpid(), -1 if pidfd is None else pidfd]
            # A session of its own: what a terminal or a CI sends to our group is not for it.
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", _SCRIPT, *map(str, numbers), f"{session}."],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,
            )
            undo.pop_all()
        self.socket = ours

    def send(self, line: str, fd: int | None = None) -> None:
        data = f"{line}\n".encode()
        if fd is None:
            self.socket.send(data, _SEND_FLAGS)
        else:
            socket.send_fds(self.socket, [data], [fd], _SEND_FLAGS)

    def close(self) -> None:
        """By which the keeper knows that it is no longer needed. Idempotent."""
        self.socket.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def end(self) -> None:
        """Waits until it has cleared up."""
        self.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends one that does not do its work."""
        self.close()
        self.process.kill()
        self.process.wait()

    def disown(self) -> None:
        """In a fork: it is the parent's, who alone can wait for it."""
        self.close()
        self.process.returncode = 0


class _Keeper:
    """What this process has its keeper watch over. A fork has one of its own."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may end a machine while another is being started.
        self.lock = threading.RLock()
        self.link: _Link | None = None
        self.session = f"{ENVIRONMENT}={os.urandom(8).hex()}"
        self.numbers = itertools.count()
        self.running: dict[int, int | None] = {}
        self.paths: set[str] = set()
        self.warned = False

    def start(self) -> None:
        """Makes sure that there is a keeper: one that was killed is replaced."""
        if self.link is not None:
            if self.link.process.poll() is None:
                return
            self.link.kill()
            self.link = None
        try:
            self.link = link = _Link(self.session)
        except OSError as error:
            if not self.warned:
                self.warned = True
                warnings.warn(
                    f"can't start {sys.executable} to watch over what is started here: {error}. "
                    "If this process is killed, its QEMUs may stay: end them yourself",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return
        for pid, pidfd in self.running.items():
            link.send(*_arrival(pid, pidfd))
        for path in self.paths:
            link.send(f"+path {_hex(path)}")

    def tell(self, line: str, fd: int | None = None, *, restart: bool = True) -> None:
        """Tells what was noted already; a keeper that does not listen is replaced, and told all."""
        if self.link is None:
            return
        try:
            self.link.send(line, fd)
        except OSError:
            self.link.kill()
            self.link = None
            if restart:
                self.start()


_keeper = _Keeper()


def _arrival(pid: int, pidfd: int | None) -> tuple[str, int | None]:
    return f"+run {pid} {int(pidfd is not None)}", pidfd


def _hex(path: str) -> str:
    return os.fsencode(path).hex()


def open_pidfd(pid: int) -> int | None:
    """A descriptor that is readable once a process has ended; None where there is no such thing."""
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):  # An old kernel, or a sandbox.
            return os.pidfd_open(pid)
    return None


def mark() -> dict[str, str]:
    """What to add to the environment of a process that is to be watched over.

    By it the keeper finds also what it could not be told of any more. A keeper is started if
    there is none, and that is not waited for.
    """
    with _keeper.lock:
        _keeper.start()
        name, _, value = f"{_keeper.session}.{next(_keeper.numbers)}".partition("=")
        return {name: value}


def lifeline() -> list[int]:
    """The descriptor, if there is one, that a process which is to be watched over inherits.

    The keeper sees its end once nobody has it any more: not this process, nor one that was forked
    from it a moment ago and does not yet bear the mark, nor one that does.
    """
    with _keeper.lock:
        return [_keeper.link.lifeline] if _keeper.link is not None else []


def kept() -> dict[str, Any]:
    """What to call ``subprocess`` with, for a process that is waited for at once."""
    return {"env": {**os.environ, **mark()}, "pass_fds": lifeline()}


def lost(given: dict[str, str]) -> list[int]:
    """The processes that were started with what ``mark()`` gave."""
    from pytest_qmp.keeper.process import becoming, marked

    deadline = time.monotonic() + _EXEC_SECONDS
    while True:
        # Looked at first: nobody can get the mark between the two.
        unsure = becoming(os.getpid())
        found = marked(f"{ENVIRONMENT}={given[ENVIRONMENT]}\0")
        if found or not unsure or time.monotonic() > deadline:
            return found


def watch(pid: int, pidfd: int | None) -> None:
    """Has a process killed that runs when this one ends.

    Args:
        pid: the process, which leads a session of its own and was started with ``mark()``.
        pidfd: a descriptor of it, which stays open until ``forget()``.
    """
    with _keeper.lock:
        _keeper.running[pid] = pidfd
        _keeper.tell(*_arrival(pid, pidfd))


def forget(pid: int) -> None:
    """A process has ended and was waited for. Unknown ones are ignored."""
    with _keeper.lock:
        if pid in _keeper.running:
            del _keeper.running[pid]
            _keeper.tell(f"-run {pid}", restart=False)


def make_folder(prefix: str, base: str | None = None) -> str:
    """Makes a folder that nobody else can look into, and that is removed with this process.

    Args:
        prefix: what its name begins with.
        base: the folder that it is made in; default: that of temporary files.

    Raises:
        OSError: it can't be made there.
    """
    name = f"{prefix}{os.urandom(8).hex()}"
    path = os.path.join(os.path.abspath(base or tempfile.gettempdir()), name)
    with _keeper.lock:
        _keeper.start()
        # Told before it is there: a kill between the two leaves nothing.
        _keeper.paths.add(path)
        _keeper.tell(f"+path {_hex(path)}")
    try:
        os.mkdir(path, 0o700)
    except BaseException:
        _forget_path(path)
        raise
    return path


def remove_folder(path: str) -> None:
    """Removes a folder that ``make_folder`` made, with all that is in it. Idempotent."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
    _forget_path(path)


@contextmanager
def folder(prefix: str) -> Iterator[str]:
    """A folder for temporary files, for the length of a block; see ``make_folder``."""
    path = make_folder(prefix)
    try:
        yield path
    finally:
        remove_folder(path)


def _forget_path(path: str) -> None:
    with _keeper.lock:
        if path in _keeper.paths:
            _keeper.paths.discard(path)
            _keeper.tell(f"-path {_hex(path)}", restart=False)


def keeper_pid() -> int | None:
    """The keeper's process; None where there is none."""
    with _keeper.lock:
        return _keeper.link.process.pid if _keeper.link is not None else None


def end() -> None:
    """Ends the keeper, which first clears up; the next thing to watch over starts another."""
    with _keeper.lock:
        if _keeper.link is not None:
            _keeper.link.end()
            _keeper.link = None


def _in_fork() -> None:
    global _keeper
    # Without the lock, which another thread of the parent may have held.
    link = _keeper.link
    _keeper = _Keeper()
    if link is not None:
        link.disown()


os.register_at_fork(after_in_child=_in_fork)
atexit.register(end)
