"""What stands behind the chardevs of ``chardev-add``: files, sockets, pseudo-terminals, buffers."""

from __future__ import annotations

import errno
import os
import tty
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from .chardev_sockets import SocketBackend, UDPBackend
from .descriptors import Descriptors
from .replies import CommandFailed, NotModelled
from .versions import Dialect

__all__ = ["AnyBackend", "Backend", "FileBackend", "PtyBackend", "RingBackend", "open_backend"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class AnyBackend(Protocol):
    """What a chardev has behind it; ``filename`` is as ``query-chardev`` says."""

    kind: str

    @property
    def filename(self) -> str: ...

    def close(self) -> None: ...


class Backend:
    """A kind of chardev of which there is nothing to say but its name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def filename(self) -> str:
        """As ``query-chardev`` says."""
        return self.kind

    def close(self) -> None:
        """Gives back what it has open."""


class FileBackend(Backend):
    """Open files: of the kinds ``file``, ``pipe`` and ``serial``."""

    def __init__(self, kind: str, descriptors: list[int]) -> None:
        super().__init__(kind)
        self._descriptors = descriptors

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


class PtyBackend(Backend):
    """A pseudo-terminal, with a symbolic link to it where one is asked for."""

    def __init__(self, link: str | None = None) -> None:
        super().__init__("pty")
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        self._link = link
        if link is not None:
            try:
                os.symlink(self.path, link)
            except OSError as error:
                self._link = None
                self.close()
                raise CommandFailed(
                    f"Failed to create PTY symbolic link: {error.strerror}"
                ) from error

    @property
    def filename(self) -> str:
        return f"pty:{self.path}"

    def close(self) -> None:
        if self._link is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._link)
            self._link = None
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


class RingBackend(Backend):
    """A buffer that keeps the latest bytes."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__(kind)
        if size <= 0 or size & (size - 1):
            raise CommandFailed("size of ringbuf chardev must be power of two")
        self._size = size
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        """Adds bytes; the oldest go when there is no room."""
        self._data += data
        del self._data[: -self._size]

    def read(self, size: int) -> bytes:
        """Takes out the oldest bytes, at most so many."""
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken


def open_backend(
    kind: str,
    data: Mapping[str, Any],
    dialect: Dialect,
    descriptors: Descriptors,
    take_named: Callable[[str], int | None],
) -> AnyBackend:
    """Opens what a ``chardev-add`` describes.

    Args:
        kind: the type of the backend.
        data: its options.
        dialect: the version that is emulated.
        descriptors: the sets that a path may name.
        take_named: gives the descriptor that ``getfd`` named.

    Raises:
        CommandFailed: it can't be opened; the text is QEMU's.
    """
    log = data.get("logfile")
    if log is not None:
        os.close(_open(log, _CREATE | _log_mode(data), descriptors, "create"))
    if kind == "file":
        return _open_file(data, descriptors)
    if kind == "pipe":
        return _open_pipe(data["device"], descriptors)
    if kind == "serial":
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return FileBackend(kind, [_open(data["device"], flags, descriptors)])
    if kind == "parallel":
        os.close(_open(data["device"], os.O_RDWR | os.O_CLOEXEC, descriptors))
        raise CommandFailed("not a parallel port: Inappropriate ioctl for device")
    if kind == "pty":
        return PtyBackend(data.get("path"))
    if kind in ("ringbuf", "memory"):
        return RingBackend(kind, data.get("size") or 65536)
    if kind == "socket":
        return SocketBackend(data, dialect, take_named)
    if kind == "udp":
        return UDPBackend(data)
    if kind == "braille":
        raise CommandFailed("brlapi__openConnection: connect: No such file or directory")
    if kind in ("null", "msmouse", "wctablet", "testdev", "vc", "stdio", "qemu-vdagent"):
        return Backend(kind)
    raise NotModelled(f"chardevs of the type {kind}")


def _log_mode(data: Mapping[str, Any]) -> int:
    return os.O_APPEND if data.get("logappend") else os.O_TRUNC


def _open_file(data: Mapping[str, Any], descriptors: Descriptors) -> Backend:
    flags = _CREATE | (os.O_APPEND if data.get("append") else os.O_TRUNC)
    opened = [_open(data["out"], flags, descriptors)]
    if "in" in data:
        try:
            opened.append(_open(data["in"], os.O_RDONLY | os.O_CLOEXEC, descriptors))
        except CommandFailed:
            os.close(opened[0])
            raise
    return FileBackend("file", opened)


def _open_pipe(path: str, descriptors: Descriptors) -> Backend:
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    opened: list[int] = []
    try:
        for name in (f"{path}.in", f"{path}.out"):
            opened.append(_open(name, flags, descriptors))
    except CommandFailed:
        # Without the pair, one file serves both ways.
        for descriptor in opened:
            os.close(descriptor)
        opened = [_open(path, flags, descriptors)]
    return FileBackend("pipe", opened)


def _open(path: str, flags: int, descriptors: Descriptors, verb: str = "open") -> int:
    try:
        of_set = descriptors.open(path, flags)
        return os.open(path, flags, 0o666) if of_set is None else of_set
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number or errno.ENOENT)
        raise CommandFailed(f"Could not {verb} '{path}': {reason}") from error
