"""The bytes of a connection: a stream socket, read and written in the caller's thread."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import stat
import time
from collections import deque
from pathlib import Path

from pytest_qmp.errors import QMPConnectError, QMPTimeoutError
from pytest_qmp.qmp.address import Address
from pytest_qmp.qmp.deadline import Deadline, seconds

__all__ = ["Listener", "SocketTransport", "connect_socket", "nobody_there", "refuse_hopeless"]

_READ_SIZE = (65536,)
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_FIRST_RETRY = 0.001
_LONGEST_RETRY = 0.05


class SocketTransport:
    """Moves bytes, and can be woken from another thread.

    What was read lies in ``inbox`` before any Python code of ours has run: an exception out of a
    signal handler (Ctrl-C, an alarm) at any point loses none of it.

    Args:
        sock: a connected stream socket; the transport owns it from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.inbox: deque[bytes] = deque()
        self.outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._sent: list[int] = []
        self._head = 0
        self._wake_read, self._wake_write = _wake_pair()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        self._closed = False

    def wait(self, deadline: Deadline) -> None:
        """Waits until bytes came, were sent, the peer left, the deadline, or a wake-up."""
        if self.outbox:
            self._poll.modify(self.sock, select.POLLIN | select.POLLOUT)
        try:
            ready = self._poll.poll(deadline.poll_milliseconds())
        finally:
            if self.outbox:
                self._poll.modify(self.sock, select.POLLIN)
        for fd, mask in ready:
            if fd == self._wake_read:
                os.read(fd, 8)
            elif mask & _READABLE:
                self._read()

    def _read(self) -> None:
        try:
            # map() inside extend() is one C call: no signal handler runs between the read and
            # the storing of what was read.
            self.inbox.extend(map(self.sock.recv, _READ_SIZE))
        except BlockingIOError:
            return
        except OSError:
            self.inbox.append(b"")

    def flush(self) -> bool:
        """Sends what the kernel takes now.

        Returns:
            True if nothing is left to send.

        Raises:
            OSError: if the peer is gone.
        """
        self._settle()
        while self.outbox:
            data, fds = self.outbox[0]
            try:
                if fds and not self._head:
                    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                    self._sent.append(self.sock.sendmsg([data], ancillary))
                else:
                    rest = data[self._head :] if self._head else data
                    self._sent.extend(map(self.sock.send, (rest,)))
            except BlockingIOError:
                return False
            self._settle()
        return True

    def _settle(self) -> None:
        # Counts what was sent, also by a call that an interrupt ended before it could count.
        while self._sent:
            self._head += self._sent.pop()
        if self.outbox and self._head >= len(self.outbox[0][0]):
            self._head = 0
            self.outbox.popleft()

    def withdraw(self, data: bytes) -> bool:
        """Takes back a message of which nothing was sent.

        Returns:
            False if some of it, or all, is on its way.
        """
        for index, (queued, _) in enumerate(self.outbox):
            if queued is data and (index or not self._head):
                del self.outbox[index]
                return True
        return False

    def wake(self) -> None:
        """Ends a wait() in another thread."""
        if not self._closed:
            os.write(self._wake_write, b"\1\0\0\0\0\0\0\0")

    def close(self) -> None:
        """Closes the socket and the wake-up descriptors. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.sock.close()
        os.close(self._wake_read)
        if self._wake_write != self._wake_read:
            os.close(self._wake_write)


def _wake_pair() -> tuple[int, int]:
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def connect_socket(address: Address, deadline: Deadline) -> socket.socket:
    """Connects, trying again while the server is not there yet.

    Args:
        address: where.
        deadline: of all tries together.

    Raises:
        QMPConnectError: at once when no retry can help (permission, not a socket, a path that is
            too long, a host without address), else at the deadline; the text says what was seen.
    """
    family, sockaddr = address.sockaddr()
    pause = _FIRST_RETRY
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            left = deadline.remaining()
            sock.settimeout(None if left is None else max(left, _FIRST_RETRY))
            sock.connect(sockaddr)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            refuse_hopeless(address, error)
            left = deadline.remaining()
            if left is not None and left <= 0:
                raise nobody_there(address, error, deadline) from error
            # There is no descriptor to wait on for a socket that does not exist yet.
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 2, _LONGEST_RETRY)
        except BaseException:
            sock.close()
            raise


def refuse_hopeless(address: Address, error: OSError) -> None:
    """Raises if no retry of a connect that failed so can help.

    Raises:
        QMPConnectError: says why not, and what to do.
    """
    asked = f"can't connect to {address}"
    if address.path is not None:
        path = Path(address.path)
        if "too long" in str(error):
            raise QMPConnectError(
                f"{asked}: the path has {len(os.fsencode(address.path))} bytes, and that of a unix "
                "socket may have 107. Use a shorter one, such as in a folder of tempfile.mkdtemp()"
            ) from error
        if isinstance(error, PermissionError):
            raise QMPConnectError(
                f"{asked}: permission denied. Check the rights of the socket and its folder, and "
                "which user runs QEMU"
            ) from error
        if error.errno == errno.ENOTDIR:
            raise QMPConnectError(f"{asked}: a part of its path is no folder") from error
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a file, not a socket"
            raise QMPConnectError(f"{asked}: that is {what}. Check the path") from error
    elif error.errno in (errno.EACCES, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
        raise QMPConnectError(f"{asked}: {error.strerror}. Check the address") from error


def nobody_there(address: Address, error: OSError, deadline: Deadline) -> QMPConnectError:
    """The error of a connect that was tried until the deadline; ``error`` is the last one."""
    waited = f"waited {seconds(deadline.timeout)}"
    if address.path is not None and not os.path.lexists(address.path):
        folder = os.path.dirname(address.path) or "."
        seen = (
            "there is no such socket"
            if os.path.isdir(folder)
            else f"there is no such socket, nor its folder {folder}"
        )
    elif error.errno == errno.EAGAIN:
        seen = (
            "its queue of waiting clients is full: a QMP socket serves one client at a time, and "
            "this one takes no more"
        )
    elif address.path is not None:
        seen = "the socket's file is there but nobody listens: its server has ended, or not begun"
    else:
        seen = f"nobody listens there ({error.strerror or error})"
    return QMPConnectError(
        f"can't connect to {address}: {seen} ({waited}). Check the address, and that QEMU runs "
        f"with {address.qemu_option}"
    )


class Listener:
    """Waits for a server that connects to us (QEMU with ``server=off``).

    Args:
        address: where to listen. TCP is as open as the address says: give a loopback one.

    Raises:
        QMPConnectError: if the address can't be listened at.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        family, sockaddr = address.sockaddr()
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if family != socket.AF_UNIX:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind(sockaddr)
            self._sock.listen(1)
        except OSError as error:
            self._sock.close()
            raise QMPConnectError(
                f"can't listen at {address}: {error}. Check that nobody else does, and that the "
                "folder exists"
            ) from error

    def fileno(self) -> int:
        """The listening socket's descriptor, -1 once closed; readable when somebody has come."""
        return self._sock.fileno()

    def accept(self, deadline: Deadline) -> socket.socket:
        """The next connection.

        Raises:
            QMPTimeoutError: if nobody connects before the deadline.
        """
        # Zero would mean "do not block", which accept() reports with another error.
        left = deadline.remaining()
        self._sock.settimeout(max(left, 1e-6) if left is not None else None)
        try:
            return self._sock.accept()[0]
        except (TimeoutError, BlockingIOError) as error:
            raise QMPTimeoutError(
                f"nobody connected to {self.address} within {seconds(deadline.timeout)}. Check "
                f"that QEMU runs with -qmp {self.address}"
            ) from error

    def close(self) -> None:
        """Stops listening and removes the unix socket's file. Idempotent."""
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        if self.address.path is not None:
            Path(self.address.path).unlink(missing_ok=True)
