"""What can go wrong between a client and its QEMU, on demand; ``FakeQMPServer.faults``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import FakeQMPServerError

if TYPE_CHECKING:
    from .channels import Channel
    from .core import Core
    from .monitor import MonitorSession

__all__ = ["Faults"]

_NO_QMP = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"
_LINE_END = b"\r\n"


class Faults:
    """Makes the server misbehave on its connections; ``FakeQMPServer.faults``.

    What is about the greeting or about connecting is for the clients that connect from then on,
    all else for every connection. It lasts until :meth:`heal`, unless it says how often. Seconds
    are of the machine's time: :meth:`FakeQMPServer.advance` moves them on.

    Args:
        core: whose monitors these are.
        change: holds the server's state, and sends what came of it at the end.
        refuse: makes the server's address refuse connections, or take them again.
    """

    def __init__(
        self,
        core: Core,
        change: Callable[[], AbstractContextManager[object]],
        refuse: Callable[[bool], None],
    ) -> None:
        self._core = core
        self._change = change
        self._refuse = refuse
        core.greet = self._greet
        self._forget()

    def _forget(self) -> None:
        self._size = 0
        self._every = 0.0
        self._joined = 0
        self._cut_after: int | None = None
        self._silent = False
        self._deaf = False
        self._greeting: bytes | None = None
        self._first: list[tuple[str, Mapping[str, Any] | None]] = []
        self._turned_away = 0
        self._resets = 0

    def heal(self) -> None:
        """Ends all of them; what was held back is sent."""
        with self._change():
            self._forget()
            self._refuse(False)

    def split_writes(self, size: int = 1, *, every: float = 0.0) -> None:
        """Sends so many bytes at a time, with so many seconds between; a slow server.

        A greeting that comes in pieces is this, before the client connects.
        """
        _check(size >= 1, f"nothing can be sent in pieces of {size!r} bytes")
        _check(every >= 0, f"time can't go back: every={every!r}")
        with self._change():
            self._size, self._every = size, every

    def join_writes(self, messages: int = 2) -> None:
        """Holds messages back until there are so many, then sends them in one write."""
        _check(messages >= 1, f"a write can't have {messages!r} messages")
        with self._change():
            self._joined = messages

    def eof_mid_line(self, after: int = 10) -> None:
        """Cuts the next message, whatever it is, after so many bytes, and closes its connection."""
        _check(after >= 0, f"a line can't be cut after {after!r} bytes")
        with self._change():
            self._cut_after = after

    def storm(self, name: str, data: Mapping[str, Any] | None = None, *, count: int = 1000) -> None:
        """Sends an event so many times, at once.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        _check_count("an event can't be sent", count)
        with self._change():
            for _ in range(count):
                self._core.emit(name, data)

    def event_before_greeting(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Sends an event to the clients that connect from now on, before their greeting.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        with self._change():
            self._core.checker.check_event(name, data)
            self._first.append((name, data))

    def event_in_handshake(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Sends an event between the next ``qmp_capabilities`` and its reply.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        with self._change():
            self._core.stubs.add("qmp_capabilities", {}).once().emit_before(name, data)

    def no_greeting(self) -> None:
        """Greets nobody from now on."""
        self.garbage_greeting(b"")

    def garbage_greeting(self, data: bytes = _NO_QMP) -> None:
        """Greets with these bytes from now on, which are no QMP: something else listens there."""
        with self._change():
            self._greeting = bytes(data)

    def stop_answering(self) -> None:
        """Sends nothing any more, greetings included; reads and carries out what comes."""
        with self._change():
            self._silent = True

    def stop_reading(self) -> None:
        """Reads nothing any more: what a client sends fills its buffers until it blocks."""
        with self._change():
            self._deaf = True

    def refuse_connections(self, seconds: float | None = None) -> None:
        """Refuses connections to the address; those that there are stay.

        Args:
            seconds: for how long; None until :meth:`heal`.
        """
        with self._change():
            self._refuse(True)
            if seconds is not None:
                self._core.clock.call_later(seconds, lambda: self._refuse(False))

    def close_after_accept(self, times: int = 1) -> None:
        """Closes the next so many connections as soon as they are there."""
        _check_count("connections can't be closed", times)
        with self._change():
            self._turned_away = times

    def reset(self, times: int = 1) -> None:
        """Resets the next so many connections on which something comes, without reading it.

        The client finds ``ConnectionResetError``, where an orderly end would be an EOF.
        """
        _check_count("connections can't be reset", times)
        with self._change():
            self._resets = times

    # What follows is for the server.

    @property
    def is_deaf(self) -> bool:
        """Whether nothing is to be read."""
        return self._deaf

    def turns_away(self) -> bool:
        """Whether the connection that has just come is to be closed; counts it."""
        if self._turned_away:
            self._turned_away -= 1
            return True
        return False

    def resets(self) -> bool:
        """Whether the connection on which something came is to be reset; counts it."""
        if self._resets:
            self._resets -= 1
            return True
        return False

    def allowed(self, channel: Channel) -> int:
        """How many bytes of what is to be sent may be sent now, in one write."""
        out = channel.outgoing
        if self._silent:
            if channel.closing:
                out.clear()
            return 0
        if out.count(_LINE_END) < self._joined and not channel.closing:
            return 0
        if self._cut_after is not None:
            end = out.find(_LINE_END)
            del out[min(self._cut_after, max(end, 1) - 1) :]
            self._cut_after = None
            channel.hang_up()
            return len(out)
        if not self._size:
            return len(out)
        if not self._every:
            return self._size
        if channel.paused:
            return 0
        channel.paused = True
        self._core.clock.call_later(self._every, channel.go_on)
        return self._size

    def _greet(self, session: MonitorSession) -> None:
        for name, data in self._first:
            session.send(self._core.event(name, data))
        if self._greeting is None:
            session.greet()
        else:
            session.outgoing += self._greeting


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise FakeQMPServerError(message)


def _check_count(what: str, times: int) -> None:
    if times < 1:
        raise FakeQMPServerError(f"{what} {times!r} times")
