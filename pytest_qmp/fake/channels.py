"""The server's end of a connection: non-blocking bytes in and out."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from .monitor import MonitorSession

__all__ = ["Channel"]

_CHUNK = 65536
#: How many descriptors QEMU takes at once.
_MOST_DESCRIPTORS = 16
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Channel:
    """A connected socket and what it is for.

    Args:
        sock: the server's end.
        receive: takes what came.
        session: the monitor at this end, None for a console.

    Attributes:
        outgoing: bytes that are still to be sent.
        closing: close it once everything is sent.
        closed: it is closed.
        attended: the selector events that are looked for now.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[bytes], None],
        session: MonitorSession | None = None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.session = session
        self.outgoing = session.outgoing if session else bytearray()
        self.closing = False
        self.closed = False
        self.attended = 0
        self._receive = receive

    @property
    def wants_input(self) -> bool:
        """Whether the peer's bytes should be read now."""
        return not self.closing and (self.session is None or self.session.wants_input)

    def read(self) -> bool:
        """Takes what there is; False once the peer has nothing more to say."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.sock, _CHUNK, _MOST_DESCRIPTORS, _CLOSE_ON_EXEC
            )
        except BlockingIOError:
            return True
        except OSError:
            return False
        if descriptors:
            self._take(descriptors)
        if data:
            self._receive(data)
        return bool(data)

    def _take(self, descriptors: list[int]) -> None:
        if self.session is not None:
            self.session.descriptors.arrive(descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)

    def flush(self) -> None:
        """Sends what the peer takes, and closes if that was to follow."""
        try:
            while self.outgoing:
                del self.outgoing[: self.sock.send(self.outgoing)]
        except BlockingIOError:
            return
        except OSError:
            # The peer is gone: the same end as reading its EOF.
            self.outgoing.clear()
            self.closing = True
        if self.session is not None and self.session.hangs_up:
            self.closing = True
