"""The keeper's own process: waits for the end of the one that started it, then clears up after it.

A script that needs the standard library alone: ``process.py SOCKET LIFELINE PARENT PIDFD MARK``.
On the socket come lines: ``+run PID 1`` (with a pidfd) or ``+run PID 0``, ``-run PID``,
``+path HEX``, ``-path HEX``. On the lifeline comes nothing but its end.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["becoming", "marked", "serve"]

# A process that shares the socket with the one that died may be about to become a QEMU.
_GRACE_SECONDS = 2.0
# What was killed is gone in milliseconds, unless the kernel is busy for it.
_KILL_SECONDS = 5.0
_LOOK_MILLISECONDS = 20
# Where the system has no descriptor of a process to wait on.
_PARENT_MILLISECONDS = 500
_MESSAGE_SIZE = 65536
_MOST_DESCRIPTORS = 253


def marked(mark: str) -> list[int]:
    """The processes whose environment has this mark; none where there is no ``/proc``.

    Args:
        mark: ``NAME=value``, or the beginning of that.
    """
    return [pid for pid in _processes() if pid != os.getpid() and _is_marked(pid, mark)]


def becoming(parent: int) -> bool:
    """Whether a child of a process is in the middle of its exec, and bears no mark yet."""
    return any(_is_child(pid, parent) and _environment(pid) == b"" for pid in _processes())


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _is_child(pid: int, parent: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before these may have anything in it, parentheses too.
            state, ppid = file.read().rpartition(b")")[2].split()[:2]
    except OSError:  # It has ended.
        return False
    return int(ppid) == parent and state != b"Z"


def _environment(pid: int) -> bytes | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:  # It has ended, or is another user's.
        return None


def _is_marked(pid: int, mark: str) -> bool:
    return b"\0" + os.fsencode(mark) in b"\0" + (_environment(pid) or b"")


class _Keeper:
    def __init__(
        self, link: socket.socket, lifeline: int, parent: int, pidfd: int, mark: str
    ) -> None:
        self._link = link
        self._lifeline = lifeline
        self._parent = parent
        self._pidfd = pidfd
        self._mark = mark
        self._linked = True
        self._unread = b""
        self._descriptors: deque[int] = deque()
        self._running: dict[int, int] = {}
        self._paths: set[bytes] = set()

    def wait(self) -> None:
        """Until nobody can tell anything any more: the parent is dead, or has closed the link.

        Death is looked for beside the end of the link, which a fork of the parent keeps open.
        """
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        patience = None if self._pidfd >= 0 else _PARENT_MILLISECONDS
        while self._linked and os.getppid() == self._parent:
            ready = [fd for fd, _ in poll.poll(patience)]
            if self._link.fileno() in ready:
                self._read()
            elif self._pidfd in ready:
                break
        while self._linked and self._read():
            pass

    def _read(self) -> bool:
        """Takes what has come; False if that is nothing."""
        space = socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        try:
            data, ancillary, _, _ = self._link.recvmsg(_MESSAGE_SIZE, space, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data, ancillary = b"", []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % 4
                self._descriptors.extend(memoryview(content[:whole]).cast("i"))
        self._linked = bool(data)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._obey(line.split())
        return self._linked

    def _obey(self, words: list[bytes]) -> None:
        if words[0] == b"+path":
            self._paths.add(bytes.fromhex(words[1].decode()))
        elif words[0] == b"-path":
            self._paths.discard(bytes.fromhex(words[1].decode()))
        else:
            pid = int(words[1])
            old = self._running.pop(pid, -1)
            if old >= 0:
                os.close(old)
            if words[0] == b"+run":
                sent = words[2] == b"1" and self._descriptors
                self._running[pid] = self._descriptors.popleft() if sent else -1

    def clear_up(self) -> None:
        """Kills what is left, until there is nothing and nobody who could start more."""
        now = time.monotonic()
        grace, limit = now + _GRACE_SECONDS, now + _KILL_SECONDS
        while True:
            # Looked at before the search, so that nobody can escape between the two. A fork of
            # the parent may hold the line for ever.
            alone = _has_ended(self._lifeline) or time.monotonic() > grace
            left = self._kill()
            if (alone and not left) or time.monotonic() > limit:
                break
            self._wait_for_news()
        for path in self._paths:
            _remove(path)

    def _wait_for_news(self) -> None:
        poll = select.poll()
        for pidfd in self._running.values():
            if pidfd >= 0:
                poll.register(pidfd, select.POLLIN)
        poll.poll(_LOOK_MILLISECONDS)

    def _kill(self) -> bool:
        """Sends SIGKILL to all that is left; False if that is nothing."""
        killed = [self._kill_told(pid, pidfd) for pid, pidfd in list(self._running.items())]
        killed += [_kill_if_marked(pid, self._mark) for pid in marked(self._mark)]
        return any(killed)

    def _kill_told(self, pid: int, pidfd: int) -> bool:
        try:
            if pidfd >= 0:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                alive = not _has_ended(pidfd)
            else:
                # Each leads a session of its own: another process of that number hardly would.
                alive = os.getsid(pid) == pid
                if alive:
                    os.kill(pid, signal.SIGKILL)
        except OSError:
            alive = False
        if not alive:
            del self._running[pid]
        return alive


def _kill_if_marked(pid: int, mark: str) -> bool:
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Looked at once more: the number may have got another process meanwhile.
        if not _is_marked(pid, mark):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def _has_ended(fd: int) -> bool:
    """Whether a process has ended, or nobody holds the other end of a pipe."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _remove(path: bytes) -> None:
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            _try(os.unlink, os.path.join(folder, name))
        for name in folders:
            # A link to a folder is removed itself, never what it leads to.
            inner = os.path.join(folder, name)
            _try(os.unlink if os.path.islink(inner) else os.rmdir, inner)
    _try(os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink, path)


def _try(remove: Callable[[bytes], None], path: bytes) -> None:
    # Gone already, or no longer ours to remove: nobody is left to be told.
    with suppress(OSError):
        remove(path)


def serve(arguments: list[str]) -> None:
    """Keeps, clears up, and returns.

    Args:
        arguments: the numbers of the descriptors of the socket and of the lifeline, the parent's
            process, the number of a descriptor of that (-1 if there is none), and the mark.
    """
    link, lifeline, parent, pidfd = map(int, arguments[:4])
    keeper = _Keeper(socket.socket(fileno=link), lifeline, parent, pidfd, arguments[4])
    keeper.wait()
    keeper.clear_up()


if __name__ == "__main__":
    for _one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(_one, signal.SIG_IGN)
    os.chdir("/")  # So that it holds no folder that somebody wants to unmount.
    serve(sys.argv[1:])
    os._exit(0)  # At once: there is nothing to finalize.
