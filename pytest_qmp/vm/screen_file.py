"""The file into which QEMU writes pictures of the screen."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from pytest_qmp.errors import VMError
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline

__all__ = ["ScreenFile", "screen_file"]


class ScreenFile(Protocol):
    """Somewhere to write pictures, one after the other."""

    name: str  #: for QEMU

    def clear(self) -> None:
        """Makes it empty for the next one."""

    def read(self) -> bytes:
        """What QEMU has written."""


class _PassedFile:
    def __init__(self, name: str, file: IO[bytes], writable: int) -> None:
        self.name = name
        self._file = file
        self._writable = writable

    def clear(self) -> None:
        # QEMU writes on from where the descriptor stands, which it has in common with us.
        os.lseek(self._writable, 0, os.SEEK_SET)
        self._file.truncate(0)

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()


class _NamedFile:
    def __init__(self, name: str) -> None:
        self.name = name

    def clear(self) -> None:
        pass  # QEMU opens it anew.

    def read(self) -> bytes:
        try:
            with open(self.name, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise VMError(
                f"QEMU has written the picture of the screen to {self.name!r}, where there is no "
                "file: it runs on another host. Connect to its monitor over a unix socket, which "
                "ssh -L can forward"
            ) from None


@contextmanager
def screen_file(qmp: QMPClient, deadline: Deadline) -> Iterator[ScreenFile]:
    """A file for pictures that nobody else finds, and that nothing leaves behind.

    Args:
        qmp: the machine's monitor. Over a unix socket QEMU gets a descriptor of a file without a
            name; else the path of one in a private folder.
        deadline: for passing it.
    """
    if not _passes_descriptors(qmp):
        with tempfile.TemporaryDirectory(prefix="pytest-qmp-") as folder:
            yield _NamedFile(os.path.join(folder, "screen"))
        return
    with tempfile.TemporaryFile() as file:
        # QEMU takes a descriptor of a set only for what it was opened for.
        writable = os.open(f"/dev/fd/{file.fileno()}", os.O_WRONLY)
        try:
            number = qmp.execute("add-fd", fds=[writable], timeout=deadline)["fdset-id"]
            try:
                yield _PassedFile(f"/dev/fdset/{number}", file, writable)
            finally:
                # QEMU 7.2 keeps it while the CPUs stand still, so that nothing may be in it.
                file.truncate(0)
                qmp.execute("remove-fd", {"fdset-id": number})
        finally:
            os.close(writable)


def _passes_descriptors(qmp: QMPClient) -> bool:
    with socket.socket(fileno=os.dup(qmp.fileno())) as monitor:
        return monitor.family == socket.AF_UNIX
