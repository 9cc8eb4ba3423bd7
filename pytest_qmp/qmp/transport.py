"""The bytes of a connection: a stream socket, read and written in the caller's thread."""

from __future__ import annotations

import array
import errno
import fcntl
import io
import math
import os
import select
import socket
import stat
import struct
import termios
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from pytest_qmp.errors import QMPConnectError, QMPDisconnectedError, QMPError, QMPTimeoutError
from pytest_qmp.qmp.address import Address
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.session import Call

__all__ = [
    "Listener",
    "SocketTransport",
    "connect_socket",
    "nobody_there",
    "refuse_hopeless",
    "require_connected",
    "require_passable",
    "send_queued",
]

_READ_SIZE = (65536,)
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_MOST_FDS = 253  # SCM_MAX_FD of Linux
_FIRST_RETRY = 0.001
_LONGEST_RETRY = 0.05


class SocketTransport:
    """Moves bytes, and can be woken from another thread.

    An exception out of a signal handler (Ctrl-C, an alarm) loses nothing that was read or sent,
    wherever it strikes: Python looks for signals after calls, at the start of functions and at
    the end of loops, so each change of state here is one call of a C function, or a plain
    assignment before one.

    Args:
        sock: a connected stream socket; the transport owns it from here on.

    Attributes:
        inbox: what was read and not yet looked at; ``(b"",)`` is the end of the stream.
        outbox: what is still to be sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        require_connected(sock)
        sock.setblocking(False)
        self.sock = sock
        self.inbox: deque[tuple[bytes]] = deque()
        self.outbox: deque[Call] = deque()
        self._wake_read, self._wake_write = _wake_pair()
        self._wake_fd = self._wake_read.fileno()
        self._mask = select.POLLIN
        self._poll = self._new_poll(self._mask)
        self._polling = False
        self._closed = False

    def _new_poll(self, mask: int) -> select.poll:
        poll = select.poll()
        poll.register(self.sock, mask)
        poll.register(self._wake_fd, select.POLLIN)
        return poll

    def wait(self, deadline: Deadline, longest: float = math.inf) -> None:
        """Waits until bytes came, were sent, the peer left, the deadline, or a wake-up.

        Args:
            deadline: of the whole wait.
            longest: seconds after which this returns in any case.
        """
        mask = select.POLLIN | select.POLLOUT if self.outbox else select.POLLIN
        nested = self._polling
        if nested:
            # From a signal handler in the middle of poll(), whose object can't be used twice.
            poll = self._new_poll(mask)
        else:
            poll = self._poll
            if mask != self._mask:
                self._mask = mask
                poll.modify(self.sock, mask)
        try:
            self._polling = True
            ready = poll.poll(deadline.poll_milliseconds(longest))
        finally:
            self._polling = nested
        if self._closed:
            return
        for fd, found in ready:
            if fd == self._wake_fd:
                self._wake_read.read(8)
            elif found & _READABLE:
                self._read()

    def _read(self) -> None:
        try:
            # zip() and map() inside extend() are one C call: no signal handler runs between the
            # read and the storing of what was read.
            self.inbox.extend(zip(map(self.sock.recv, _READ_SIZE)))
        except BlockingIOError:
            return
        except OSError:
            self.inbox.append((b"",))

    def queued(self) -> int:
        """How many bytes have arrived and were not read."""
        answer = fcntl.ioctl(self.sock, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def withdraw(self, call: Call) -> bool:
        """Takes back a message of which nothing was sent.

        Returns:
            False if some of it, or all, is on its way.
        """
        if call.sent:
            return False
        with suppress(ValueError):
            self.outbox.remove(call)
        return True

    def require_passable(self, fds: Sequence[int]) -> None:
        """Checks that descriptors can be passed.

        Raises:
            QMPError: not over this socket, or not so many.
            OSError: one of them is not open.
        """
        require_passable(self.sock, fds)

    def wake(self) -> None:
        """Ends a wait() in another thread."""
        if not self._closed:
            self._wake_write.write(b"\1\0\0\0\0\0\0\0")

    def close(self) -> None:
        """Closes the socket and the wake-up descriptors. Idempotent."""
        self._closed = True
        self.sock.close()
        self._wake_read.close()
        self._wake_write.close()


def send_queued(sock: socket.socket, outbox: deque[Call]) -> None:
    """Sends what the kernel takes now, and removes from the outbox what has gone.

    Args:
        sock: a non-blocking one.
        outbox: commands in their order.

    Raises:
        OSError: if the peer is gone.
    """
    while outbox:
        call = outbox[0]
        done = sum(call.sent)
        if done < len(call.data):
            rest = memoryview(call.data)[done:] if done else call.data
            try:
                if call.fds and not done:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", call.fds))
                    call.sent.extend(map(sock.sendmsg, ([rest],), ([rights],)))
                else:
                    call.sent.extend(map(sock.send, (rest,)))
            except BlockingIOError:
                return
        else:
            outbox.popleft()


def require_passable(sock: socket.socket, fds: Sequence[int]) -> None:
    """Checks that descriptors can be passed over a socket.

    Raises:
        QMPError: not over this socket, or not so many.
        OSError: one of them is not open.
    """
    if sock.family != socket.AF_UNIX:
        raise QMPError("descriptors can be passed over a unix socket only, not over TCP")
    if len(fds) > _MOST_FDS:
        raise QMPError(f"{len(fds)} descriptors are more than one message passes ({_MOST_FDS})")
    for fd in fds:
        os.fstat(fd)


def require_connected(sock: socket.socket) -> None:
    """Checks that a socket is a connected stream; closes it if it is not.

    Raises:
        QMPConnectError: says what it is instead.
    """
    if sock.fileno() < 0:
        raise QMPConnectError("the socket is closed. Give one that is open and connected")
    try:
        if sock.type != socket.SOCK_STREAM:
            raise QMPConnectError(f"the socket is no stream but a {sock.type.name}")
        sock.getpeername()
    except (QMPConnectError, OSError) as error:
        sock.close()
        if isinstance(error, QMPConnectError):
            raise
        raise QMPConnectError(
            f"the socket is not connected ({error.strerror}). Give its address, to connect to it"
        ) from error


def _wake_pair() -> tuple[io.FileIO, io.FileIO]:
    if hasattr(os, "eventfd"):
        event = io.FileIO(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), "r+")
        return event, event
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return io.FileIO(read, "r"), io.FileIO(write, "w")


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
            mode = os.stat(address.path).st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a file, not a socket"
            raise QMPConnectError(f"{asked}: that is {what}. Check the path") from error
    elif error.errno in (errno.EACCES, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
        raise QMPConnectError(f"{asked}: {error.strerror}. Check the address") from error


def nobody_there(address: Address, error: OSError, deadline: Deadline) -> QMPConnectError:
    """The error of a connect that was tried until the deadline; ``error`` is the last one."""
    waited = f"waited {deadline.words}"
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
            QMPDisconnectedError: if it is closed, or gets closed meanwhile.
        """
        left = deadline.remaining()
        try:
            # Zero would mean "do not block", which accept() reports with another error.
            self._sock.settimeout(max(left, 1e-6) if left is not None else None)
            sock = self._sock.accept()[0]
        except (TimeoutError, BlockingIOError) as error:
            raise QMPTimeoutError(
                f"nobody connected to {self.address} within {deadline.words}. Check "
                f"that QEMU runs with -qmp {self.address}"
            ) from error
        except OSError as error:
            # Closed before, or in another thread meanwhile.
            raise self._closed() from error
        if self._sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _closed(self) -> QMPDisconnectedError:
        return QMPDisconnectedError(f"the listener at {self.address} was closed here")

    def close(self) -> None:
        """Stops listening, at once also in other threads, and removes the socket's file.

        Idempotent.
        """
        if self._sock.fileno() < 0:
            return
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        if self.address.path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.address.path)
