"""One background thread for all machines: what they write and what becomes of them is seen."""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Attendance", "Reminder", "attend", "drain", "remind"]

_READ_SIZE = 65536
_JOIN_SECONDS = 1.0
_lock = threading.Lock()
_current: _Loop | None = None


class Attendance:
    """Something that is attended to; ``stop()`` ends it. Made by ``attend()`` and ``drain()``."""

    def __init__(self, loop: _Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd

    def stop(self) -> None:
        """Ends it. Idempotent. When it returns, no callback runs or will run."""
        self._loop.remove(self._fd)


class Reminder:
    """A call that is due at some moment; ``cancel()`` calls it off. Made by ``remind()``."""

    def __init__(self, loop: _Loop, call: Callable[[], object]) -> None:
        self._loop = loop
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Calls it off. Idempotent. When it returns, it does not run and will not run."""
        self._loop.cancel(self)


def attend(fd: int, on_ready: Callable[[], bool]) -> Attendance:
    """Waits for a descriptor in the background, until the callback says that it is over.

    Args:
        fd: readable when there is something to do; it stays the caller's to close, after
            ``stop()``.
        on_ready: called in the background each time; False ends the attendance. It must not
            block.
    """
    return Attendance(_with_loop(lambda loop: loop.add(fd, on_ready)), fd)


def drain(sock: socket.socket, on_data: Callable[[bytes], None]) -> Attendance:
    """Reads a socket in the background, from now until its end.

    Args:
        sock: a stream socket, which stays the caller's to close (after ``stop()``).
        on_data: gets each piece as it comes, in the background thread, and ``b""`` at the end.
    """
    sock.setblocking(False)

    def read() -> bool:
        try:
            data = sock.recv(_READ_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        on_data(data)
        return bool(data)

    return attend(sock.fileno(), read)


def remind(moment: float, call: Callable[[], object]) -> Reminder:
    """Calls something in the background at a moment of ``time.monotonic()``."""
    made: list[Reminder] = []

    def add(loop: _Loop) -> bool:
        made[:] = [Reminder(loop, call)]
        return loop.remind(moment, made[0])

    _with_loop(add)
    return made[0]


def _with_loop(add: Callable[[_Loop], bool]) -> _Loop:
    global _current
    with _lock:
        if _current is None or not add(_current):
            _current = _Loop()
            add(_current)
            _current.start()
        return _current


def _forget_loop() -> None:
    # Threads do not survive a fork; the parent's may have held the lock.
    global _current, _lock
    _current = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_loop)


class _Loop:
    """The thread: lives while it has something to attend to, and leaves no descriptor behind."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._awake)
        self._reminders: list[tuple[float, int, Reminder]] = []
        self._numbers = itertools.count()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="pytest-qmp supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, fd: int, on_ready: Callable[[], bool]) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._selector.register(fd, selectors.EVENT_READ, on_ready)
            self._wake()
            return True

    def remind(self, moment: float, reminder: Reminder) -> bool:
        with self._lock:
            if self._ended:
                return False
            heapq.heappush(self._reminders, (moment, next(self._numbers), reminder))
            self._wake()
            return True

    def remove(self, fd: int) -> None:
        if os.getpid() != self._process:
            return
        with self._lock:
            if not self._ended:
                # Over already, where the callback has said so.
                with suppress(KeyError, ValueError):
                    self._selector.unregister(fd)
        self._leave()

    def cancel(self, reminder: Reminder) -> None:
        if os.getpid() != self._process:
            return
        reminder.call = None
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            if not self._ended:
                if not self._idle():
                    return
                self._wake()
        # Nothing is left to do: when this returns, thread and descriptors are gone too.
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            return  # It has enough to wake from.

    def _awake(self) -> bool:
        self._wake_read.recv(_READ_SIZE)
        return True

    def _idle(self) -> bool:
        while self._reminders and self._reminders[0][2].call is None:
            heapq.heappop(self._reminders)
        return len(self._selector.get_map()) == 1 and not self._reminders

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._idle():
                    self._ended = True
                    self._selector.close()
                    self._wake_read.close()
                    self._wake_write.close()
                    return
                due = self._reminders[0][0] if self._reminders else None
            ready = self._selector.select(None if due is None else max(0.0, due - time.monotonic()))
            with self._lock:
                for key, _ in ready:
                    if self._selector.get_map().get(key.fd) is key:
                        self._serve(key)
                self._remind_of_what_is_due()

    def _serve(self, key: selectors.SelectorKey) -> None:
        goes_on = self._call(key.data)
        if not goes_on and self._selector.get_map().get(key.fd) is key:
            self._selector.unregister(key.fd)

    def _remind_of_what_is_due(self) -> None:
        while self._reminders and self._reminders[0][0] <= time.monotonic():
            call = heapq.heappop(self._reminders)[2].call
            if call is not None:
                self._call(call)

    def _call(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except BaseException:  # noqa: BLE001 - told by the hook; the other machines go on
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))
            return False
