"""The server's end of a connection: non-blocking bytes in and out."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from .faults import Faults
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
        faults: what goes wrong on the way, None for nothing.

    Attributes:
        outgoing: bytes that are still to be sent.
        paused: nothing is sent for now.
        closing: close it once everything is sent.
        closed: it is closed.
        attended: the selector events that are looked for now.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[bytes], None],
        session: MonitorSession | None = None,
        faults: Faults | None = None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.session = session
        self.outgoing = session.outgoing if session else bytearray()
        self.closing = False
        self.closed = False
        self.attended = 0
        self.paused = False
        self._receive = receive
        self._faults = faults
        self._held = False

    @property
    def wants_input(self) -> bool:
        """Whether the peer's bytes should be read now."""
        if self._faults is not None and self._faults.is_deaf:
            return False
        return not self.closing and (self.session is None or self.session.wants_input)

    @property
    def wants_output(self) -> bool:
        """Whether there is something to be sent as soon as the peer takes it."""
        return bool(self.outgoing) and not self._held

    def read(self) -> bool:
        """Takes what there is; False once the peer has nothing more to say."""
        if self._faults is not None and self._faults.resets():
            return self._reset()
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
                piece = self.outgoing
                if self._faults is not None:
                    allowed = self._faults.allowed(self)
                    self._held = not allowed
                    if self._held:
                        return
                    if allowed < len(piece):
                        piece = piece[:allowed]
                del self.outgoing[: self.sock.send(piece)]
        except BlockingIOError:
            return
        except OSError:
            # The peer is gone: the same end as reading its EOF.
            self.outgoing.clear()
            self.closing = True
        if self.session is not None and self.session.hangs_up:
            self.closing = True

    def hang_up(self) -> None:
        """Ends the conversation: nothing is read or run any more."""
        self.closing = True
        if self.session is not None:
            self.session.ended = self.session.hangs_up = True

    def go_on(self) -> None:
        """Sends again after a pause."""
        self.paused = False
        if not self.closed:
            self.flush()

    def _reset(self) -> bool:
        """Ends the connection so that the peer is told of a reset; always False."""
        # Where the protocol has no reset, closing with bytes unread is one.
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.outgoing.clear()
        self.hang_up()
        return False
