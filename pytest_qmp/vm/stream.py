"""What a guest wrote to one of its ports: all of it, on disk."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable

from pytest_qmp.qmp.deadline import Deadline

__all__ = ["OutputStream"]

_TAIL_BYTES = 64 * 1024
_QUIET_SECONDS = 0.005


class OutputStream:
    """A log that grows in the background, and is read from any place.

    The whole text lies in an unnamed temporary file, so that memory stays bounded and nothing is
    left when the process ends, however it ends.
    """

    def __init__(self) -> None:
        # Not a context manager: it is closed by close(), with the machine.
        self._file = tempfile.TemporaryFile(prefix="pytest-qmp-", buffering=0)  # noqa: SIM115
        self._changed = threading.Condition()
        self._size = 0
        self._ended = False
        self._last = b""
        self._looks = 0
        self._listeners: list[Callable[[], object]] = []

    def feed(self, data: bytes) -> None:
        """Adds what came; ``b""`` is the end."""
        with self._changed:
            if data and not self._file.closed:
                os.pwrite(self._file.fileno(), data, self._size)
                self._size += len(data)
            elif not data:
                self._ended = True
            self._tell()

    def read_at(self, position: int, size: int) -> bytes:
        """What was written from a position on, at most ``size`` bytes of it; waits for nothing."""
        with self._changed:
            if self._file.closed:
                # Of what was dropped, the end is left.
                begin = position - self._size + len(self._last)
                return self._last[max(0, begin) : max(0, begin + size)]
            return os.pread(self._file.fileno(), min(size, self._size - position), position)

    def wait_beyond(self, position: int, looks: int, seconds: float | None) -> None:
        """Waits until there is more than that many bytes, or the end.

        Args:
            position: how many bytes are known.
            looks: what ``looks`` was when it was decided to wait: a ``look_again()`` since then
                ends it.
            seconds: at most; None: no limit.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_news(position, looks), seconds)

    def is_news(self, position: int, looks: int) -> bool:
        """Whether ``wait_beyond()`` with the same arguments would return at once."""
        return self._size > position or self._ended or self._looks != looks

    @property
    def looks(self) -> int:
        """How often ``look_again()`` was called."""
        return self._looks

    @property
    def ended(self) -> bool:
        """True once nothing more comes."""
        return self._ended

    def add_listener(self, call: Callable[[], object]) -> Callable[[], None]:
        """Calls something, in the background, at each news; what it returns ends that."""
        with self._changed:
            self._listeners.append(call)

        def remove() -> None:
            with self._changed:
                self._listeners.remove(call)

        return remove

    def _tell(self) -> None:
        self._changed.notify_all()
        for call in self._listeners:
            call()

    def look_again(self) -> None:
        """Makes each reader that waits ask its patience anew; for any thread."""
        with self._changed:
            self._looks += 1
            self._tell()

    def settle(self, deadline: Deadline, *, until_end: bool) -> None:
        """Waits until nothing more comes for a moment, or its end; not beyond the deadline."""
        with self._changed:
            while not self._ended and not deadline.expired:
                size = self._size
                left = deadline.remaining() or 0.0
                moment = left if until_end else min(left, _QUIET_SECONDS)
                grew = self._changed.wait_for(
                    lambda: self._ended or self._size > size,  # noqa: B023
                    moment,
                )
                if not grew:
                    return

    def wait_for_end(self, deadline: Deadline) -> bool:
        """Waits until the guest's side has closed; False at the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, deadline.remaining())

    @property
    def size(self) -> int:
        """How many bytes the guest has written."""
        return self._size

    def tail(self, size: int = _TAIL_BYTES) -> bytes:
        """The last bytes that came, read or not."""
        with self._changed:
            if self._file.closed:
                return self._last[-size:]
            start = max(0, self._size - size)
            return os.pread(self._file.fileno(), self._size - start, start)

    def everything(self) -> bytes:
        """All that came since the start."""
        with self._changed:
            return self.tail(self._size)

    def end(self) -> None:
        """Ends it for readers: nothing more comes. Idempotent."""
        with self._changed:
            self._ended = True
            self._tell()

    def close(self) -> None:
        """Ends it for readers and drops the log, but for its last lines. Idempotent."""
        with self._changed:
            self._last = self.tail()
            self._ended = True
            self._file.close()
            self._tell()
