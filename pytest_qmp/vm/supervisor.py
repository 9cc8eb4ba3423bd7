"""One background thread that keeps draining what guests write, so that none is ever stalled."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable

__all__ = ["drain"]

_READ_SIZE = 65536
_JOIN_SECONDS = 1.0
_lock = threading.Lock()
_current: _Loop | None = None


class Drain:
    """A socket that is being drained; ``stop()`` ends it. Made by ``drain()``."""

    def __init__(self, loop: _Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock

    def stop(self) -> None:
        """Stops reading. Idempotent. When it returns, no callback runs or will run."""
        self._loop.remove(self._sock)


def drain(sock: socket.socket, on_data: Callable[[bytes], None]) -> Drain:
    """Reads a socket in the background, from now until its end.

    Args:
        sock: a stream socket, which stays the caller's to close (after ``stop()``).
        on_data: gets each piece as it comes, in the background thread, and ``b""`` at the end.
    """
    global _current
    sock.setblocking(False)
    with _lock:
        if _current is None or not _current.add(sock, on_data):
            _current = _Loop()
            _current.add(sock, on_data)
            _current.start()
        return Drain(_current, sock)


class _Loop:
    """The thread: lives while it has something to drain, and leaves no descriptor behind."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="pytest-qmp supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, sock: socket.socket, on_data: Callable[[bytes], None]) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._selector.register(sock, selectors.EVENT_READ, on_data)
            self._wake_write.send(b"\0")
            return True

    def remove(self, sock: socket.socket) -> None:
        with self._lock:
            if self._ended:
                return
            try:
                self._selector.unregister(sock)
            except (KeyError, ValueError):
                return
            if not self._idle():
                return
            self._wake_write.send(b"\0")
        # Nothing is left to drain: when this returns, thread and descriptors are gone too.
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _idle(self) -> bool:
        return len(self._selector.get_map()) == 1

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            with self._lock:
                for key, _ in ready:
                    self._serve(key)
                if self._idle():
                    self._ended = True
                    self._selector.close()
                    self._wake_read.close()
                    self._wake_write.close()
                    return

    def _serve(self, key: selectors.SelectorKey) -> None:
        sock = key.fileobj
        if not isinstance(sock, socket.socket) or key.fd not in self._selector.get_map():
            return
        try:
            data = sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if sock is self._wake_read:
            return
        if not data:
            self._selector.unregister(sock)
        key.data(data)
