"""The one thread of a fake server: waits for sockets and for points in time."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .channels import Channel
from .faults import Faults
from .monitor import MonitorSession

__all__ = ["Reactor"]


class Reactor:
    """Serves channels. All state is changed under its lock, in its thread or in any other.

    Args:
        before_sending: called at the end of every change, before what came of it is sent.
        dropped: called with a channel that was closed.
        broken: called, with the exception in flight, when something raised in the thread.
    """

    def __init__(
        self,
        before_sending: Callable[[], None],
        dropped: Callable[[Channel], None],
        broken: Callable[[], None],
    ) -> None:
        self.lock = threading.RLock()
        self.channels: list[Channel] = []
        self.closed = False
        self._before_sending = before_sending
        self._dropped = dropped
        self._broken = broken
        self._depth = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._acceptors: dict[socket.socket, Callable[[], None]] = {}
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; nothing happens if it runs already."""
        if self._thread is not None:
            return
        self._selector = selectors.DefaultSelector()
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._selector.register(self._wake[0], selectors.EVENT_READ, self._awake)
        for sock, accept in self._acceptors.items():
            self._selector.register(sock, selectors.EVENT_READ, accept)
        for channel in list(self.channels):
            self._attend(channel)
        self._thread = threading.Thread(target=self._run, name="pytest-qmp-fake", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and closes every channel; it is safe to call again."""
        with self.lock:
            self.closed = True
            thread = self._thread
            self._interrupt()
        if thread is threading.current_thread():
            # Called from a function that a test gave: the thread releases all when it gets back.
            return
        if thread is not None:
            thread.join()
        with self.lock:
            self._release()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Holds the state; what came of the change is sent at the end of the outermost one."""
        with self.lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._before_sending()
                    for channel in list(self.channels):
                        channel.flush()
                        self._attend(channel)

    def schedule(self, seconds: float, function: Callable[[], None]) -> None:
        """Calls a function in the thread so many seconds from now."""
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._timer_numbers), function))
        self._interrupt()

    def add(
        self,
        sock: socket.socket,
        receive: Callable[[bytes], None],
        session: MonitorSession | None = None,
        faults: Faults | None = None,
    ) -> Channel:
        """A channel on a connected socket."""
        channel = Channel(sock, receive, session, faults)
        self.channels.append(channel)
        self._attend(channel)
        return channel

    def accept_from(self, sock: socket.socket, accept: Callable[[], None]) -> None:
        """Calls a function whenever a listening socket has a client."""
        if sock not in self._acceptors:
            self._acceptors[sock] = accept
            if self._selector is not None:
                self._selector.register(sock, selectors.EVENT_READ, accept)

    def stop_accepting(self, sock: socket.socket) -> None:
        """Lets the clients of a listening socket wait."""
        if self._acceptors.pop(sock, None) and self._selector is not None:
            self._selector.unregister(sock)

    def _run(self) -> None:
        while True:
            with self.lock:
                selector = self._selector
                if self.closed or selector is None:
                    self._release()
                    return
                due = self._timers[0][0] if self._timers else None
            timeout = None if due is None else max(0.0, due - time.monotonic())
            ready = selector.select(timeout)
            with self.change():
                try:
                    for key, _ in ready:
                        if isinstance(key.data, Channel):
                            self._read(key.data)
                        else:
                            key.data()
                    self._run_timers()
                except BaseException:  # noqa: BLE001 - kept for the test, which must not hang
                    self._broken()

    @staticmethod
    def _read(channel: Channel) -> None:
        if not channel.closed and channel.wants_input and not channel.read():
            channel.closing = True

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _awake(self) -> None:
        if self._wake is not None:
            with suppress(BlockingIOError):
                self._wake[0].recv(4096)

    def _interrupt(self) -> None:
        if self._wake is not None and threading.current_thread() is not self._thread:
            with suppress(BlockingIOError):
                self._wake[1].send(b"\0")

    def _attend(self, channel: Channel) -> None:
        """Makes the selector look for what a channel waits for; drops it when it is over."""
        if channel.closing and not channel.outgoing:
            self._drop(channel)
            return
        if self._selector is None:
            return
        wanted = selectors.EVENT_READ if channel.wants_input else 0
        if channel.wants_output:
            wanted |= selectors.EVENT_WRITE
        if wanted == channel.attended:
            return
        if not wanted:
            self._selector.unregister(channel.sock)
        elif channel.attended:
            self._selector.modify(channel.sock, wanted, channel)
        else:
            self._selector.register(channel.sock, wanted, channel)
        channel.attended = wanted

    def _drop(self, channel: Channel) -> None:
        channel.closed = True
        if channel.attended and self._selector is not None:
            self._selector.unregister(channel.sock)
        self.channels.remove(channel)
        channel.sock.close()
        self._dropped(channel)

    def _release(self) -> None:
        for channel in list(self.channels):
            self._drop(channel)
        self._acceptors.clear()
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._wake is not None:
            for end in self._wake:
                end.close()
            self._wake = None
