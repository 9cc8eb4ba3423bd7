"""What goes over a machine's network, written to a file as it goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

__all__ = ["Capture"]


class Capture:
    """A capture of a machine's frames, in the pcap format. Made by ``vm.capture()``.

    It runs from its making until ``stop()``, or the end of its ``with`` block; QEMU writes each
    frame at once. The file is in a folder of the machine's, and goes with it: ``save()`` what is
    to stay. A failed test's artifacts have it as ``NAME.pcap``.

    Args:
        path: the file.
        stop: has QEMU end it.
    """

    def __init__(self, path: Path, stop: Callable[[], None]) -> None:
        self.path = path
        self._stop: Callable[[], None] | None = stop
        self._kept: bytes | None = None

    @property
    def data(self) -> bytes:
        """The bytes of the file by now, as scapy's ``rdpcap(BytesIO(…))`` and others read it."""
        return self.path.read_bytes() if self._kept is None else self._kept

    def save(self, path: str | Path) -> Path:
        """Copies what was captured by now.

        Args:
            path: of the copy.

        Raises:
            OSError: it can't be written.
        """
        target = Path(path)
        if self._kept is not None:
            target.write_bytes(self._kept)
        else:
            shutil.copyfile(self.path, target)
        return target

    def stop(self) -> None:
        """Ends it. Idempotent."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def keep(self) -> None:
        """Keeps in memory what is there, before the machine's folder goes."""
        self._stop = None
        if self._kept is None:
            self._kept = self.path.read_bytes()

    def __repr__(self) -> str:
        return f"<Capture {self.path}{'' if self._stop else ', ended'}>"

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
