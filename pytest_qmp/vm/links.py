"""A private network between machines: no privileges, no ports, gone with the test."""

from __future__ import annotations

import os
import re
import selectors
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_qmp.errors import VMConfigError, VMError
from pytest_qmp.vm.supervisor import Attendance, attend

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Link", "LinkEnd"]

_FRAME_BYTES = 70000  # More than the largest that a virtual card sends.
_QUEUED_FRAMES = 2000
_FRAMES_AT_ONCE = 64
_BUFFER_BYTES = 1024 * 1024
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MOST_ENDS = 254


@dataclass(frozen=True)
class LinkEnd:
    """Where one machine is connected to a link. Made by ``Link.end()``.

    Attributes:
        link: that it is an end of.
        mac: the hardware address of the card there.
    """

    link: Link
    mac: str

    def connect(self) -> socket.socket:
        """A new connection to the link, for QEMU to inherit.

        Raises:
            VMError: the link is closed.
        """
        __tracebackhide__ = True
        return self.link.socket()


class Link:
    """An Ethernet segment: every frame from one end comes to all others.

    ``VMConfig(links=[link])`` gives each machine that is started with it a card there. Close it
    after the machines, or use it as a context manager.

    Args:
        name: for messages; default: ``link1`` and so on.

    >>> with Link() as link, link.socket() as one, link.socket() as other:
    ...     _ = one.send(b"a frame")
    ...     other.recv(100)
    b'a frame'
    """

    def __init__(self, name: str | None = None) -> None:
        self._number = _numbers.take()
        self.name = name or f"link{self._number}"
        self._process = os.getpid()
        self._lock = threading.Lock()
        # Never taken in the background, which may have to be waited for.
        self._attending = threading.Lock()
        self._ends = 0
        self._ports: dict[int, _Port] = {}
        self._selector = selectors.DefaultSelector()
        self._attendance: Attendance | None = None
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Frames that were lost because an end did not take them for too long."""
        return self._dropped

    def end(self, mac: str | None = None) -> LinkEnd:
        """An end for one machine, to know its hardware address or to choose it.

        Args:
            mac: of the card; default: ``52:54:00:4c:LINK:END``, counted from 01, so that a test
                sees the same ones in each run.

        Raises:
            VMConfigError: that is no address of a card.
        """
        __tracebackhide__ = True
        with self._lock:
            self._ends += 1
            number = self._ends
        if mac is None:
            if number > _MOST_ENDS:
                raise VMConfigError(f"{self} has {_MOST_ENDS} ends at most: give mac= yourself")
            mac = f"52:54:00:4c:{self._number & 0xFF:02x}:{number:02x}"
        mac = str(mac).lower()
        if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
            raise VMConfigError(
                f"a network card's address is written like '52:54:00:12:34:56', and its first "
                f"byte is even, as an odd one is a group's: not {mac!r}"
            )
        return LinkEnd(self, mac)

    def socket(self) -> socket.socket:
        """An end for the test itself: each ``send()`` and ``recv()`` is one Ethernet frame.

        Returns:
            A datagram socket, which is the caller's to close.

        Raises:
            VMError: the link is closed.
        """
        __tracebackhide__ = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        ours.setblocking(False)
        with self._lock:
            closed = self._closed
            if not closed:
                self._ports[ours.fileno()] = port = _Port(ours)
                self._selector.register(ours, selectors.EVENT_READ, port)
        if closed:
            ours.close()
            theirs.close()
            raise VMError(f"{self} is closed: make a new one, and close it after the machines")
        with self._attending:
            if self._attendance is None:
                self._attendance = attend(self._selector.fileno(), self._on_ready)
        return theirs

    def _on_ready(self) -> bool:
        with self._lock:
            if self._closed:
                return False
            for key, ready in self._selector.select(0):
                port: _Port = key.data
                if ready & selectors.EVENT_WRITE and port.sock.fileno() >= 0:
                    self._empty_queue(port)
                if ready & selectors.EVENT_READ and port.sock.fileno() >= 0:
                    self._forward_from(port)
        return True

    def _forward_from(self, port: _Port) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = port.sock.recv(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                frame = b""
            if not frame:
                self._drop(port)
                return
            for other in tuple(self._ports.values()):
                if other is not port:
                    self._send(other, frame)

    def _send(self, port: _Port, frame: bytes) -> None:
        if port.queue:
            if len(port.queue) < _QUEUED_FRAMES:
                port.queue.append(frame)
            else:
                self._dropped += 1
            return
        try:
            port.sock.send(frame)
        except BlockingIOError:
            port.queue.append(frame)
            self._selector.modify(port.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, port)
        except OSError:
            # The machine has ended.
            self._drop(port)

    def _empty_queue(self, port: _Port) -> None:
        try:
            while port.queue:
                port.sock.send(port.queue[0])
                port.queue.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._drop(port)
            return
        self._selector.modify(port.sock, selectors.EVENT_READ, port)

    def _drop(self, port: _Port) -> None:
        del self._ports[port.sock.fileno()]
        self._selector.unregister(port.sock)
        port.sock.close()

    def close(self) -> None:
        """Pulls all cables. Idempotent; in a fork it does nothing: the cables are the parent's."""
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._attendance is not None:
            self._attendance.stop()
        for port in tuple(self._ports.values()):
            self._drop(port)
        self._selector.close()
        _numbers.give_back(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Link {self.name}{', closed' if self._closed else ''}>"


@dataclass(eq=False)
class _Port:
    """Our side of one end, and the frames that it did not take yet."""

    sock: socket.socket
    queue: deque[bytes] = field(default_factory=deque)


class _Numbers:
    """The lowest number that no open link has: a test's links have the same in each run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[int] = set()

    def take(self) -> int:
        with self._lock:
            number = next(n for n in range(1, len(self._taken) + 2) if n not in self._taken)
            self._taken.add(number)
            return number

    def give_back(self, number: int) -> None:
        with self._lock:
            self._taken.discard(number)


_numbers = _Numbers()
