"""What a guest wrote to one of its ports: all of it, on disk, with a place for who reads it."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Callable

from pytest_qmp.qmp.deadline import Deadline

__all__ = ["OutputStream"]

_TAIL_BYTES = 64 * 1024
_QUIET_SECONDS = 0.005


class OutputStream:
    """A log that grows in the background and is read from where the reader left off.

    The whole text lies in an unnamed temporary file, so that memory stays bounded and nothing is
    left when the process ends, however it ends.
    """

    def __init__(self) -> None:
        # Not a context manager: it is closed by close(), with the machine.
        self._file = tempfile.TemporaryFile(prefix="pytest-qmp-", buffering=0)  # noqa: SIM115
        self._changed = threading.Condition()
        self._size = 0
        self._position = 0
        self._ended = False
        self._last = b""
        self._looks = 0

    def feed(self, data: bytes) -> None:
        """Adds what came; ``b""`` is the end."""
        with self._changed:
            if data and not self._file.closed:
                os.pwrite(self._file.fileno(), data, self._size)
                self._size += len(data)
            elif not data:
                self._ended = True
            self._changed.notify_all()

    def read(
        self, size: int, deadline: Deadline, patience: Callable[[], float] | None = None
    ) -> bytes | None:
        """The next bytes that nobody has read.

        Args:
            size: how many at most.
            deadline: of the wait for them.
            patience: how many more seconds it makes sense to wait; asked anew at each
                ``look_again()``.

        Returns:
            At most ``size`` bytes; ``b""`` at the end; None at the deadline, or when there is no
            more patience.
        """
        with self._changed:
            self._wait_for_more(deadline, patience)
            if self._position < self._size:
                data = os.pread(self._file.fileno(), size, self._position)
                self._position += len(data)
                return data
            return b"" if self._ended else None

    def _wait_for_more(self, deadline: Deadline, patience: Callable[[], float] | None) -> None:
        while self._position >= self._size and not self._ended:
            looks = self._looks
            limit = math.inf if patience is None else patience()
            left = deadline.remaining()
            limit = limit if left is None else min(limit, left)
            if limit <= 0:
                return
            self._changed.wait_for(
                lambda: self._position < self._size or self._ended or self._looks != looks,  # noqa: B023
                None if limit == math.inf else limit,
            )

    def look_again(self) -> None:
        """Makes each reader that waits ask its patience anew; for any thread."""
        with self._changed:
            self._looks += 1
            self._changed.notify_all()

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
        return self.tail(self._size)

    def end(self) -> None:
        """Ends it for readers: nothing more comes. Idempotent."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ends it for readers and drops the log, but for its last lines. Idempotent."""
        with self._changed:
            self._last = self.tail()
            self._ended = True
            self._size = self._position = 0
            self._file.close()
            self._changed.notify_all()
