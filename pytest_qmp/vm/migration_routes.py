"""The ways that a migration's stream takes: a descriptor, a socket, a file, or any address."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pytest_qmp.errors import QMPCommandError, VMMigrationError
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.text import nearest

__all__ = [
    "WAYS",
    "FileRoute",
    "Route",
    "capability_states",
    "is_address",
    "route_of",
]

#: What ``via`` may be, for a migration from one machine to another.
WAYS = ("fd", "unix", "file")

_ADDRESS = re.compile(r"(tcp|unix|vsock|exec|fd|file|rdma):")
# From this version on QEMU knows files of itself, and 11.1 takes them in no other way.
_KNOWS_FILES = (8, 2)
# These want several connections, and a pair of sockets is one.
_NEED_SEVERAL = frozenset({"multifd", "postcopy-preempt"})

_numbers = itertools.count(1)


class Route:
    """An address that QEMU itself understands.

    Args:
        uri: as for QMP's ``migrate``.
    """

    two_way = False
    #: Whether all of it is there only when the source is done.
    stored = False

    def __init__(self, uri: str) -> None:
        self._uri = uri
        #: Whether a destination has a stream, which ends it when it breaks off.
        self.begun = False

    def receive(self, destination: QMPClient, deadline: Deadline) -> None:
        """Has the destination listen, or read."""
        destination.execute("migrate-incoming", {"uri": self._uri}, timeout=deadline)
        self.begun = True

    def send(self, source: QMPClient, deadline: Deadline) -> None:
        """Has the source begin."""
        source.execute("migrate", {"uri": self._uri}, timeout=deadline)

    def close(self) -> None:
        """Takes away what was only there for the migration. Idempotent."""

    def __str__(self) -> str:
        return self._uri


class DescriptorRoute(Route):
    """A pair of sockets, of which each machine is handed one."""

    two_way = True

    def __init__(self) -> None:
        self._name = f"migration-{next(_numbers)}"
        self._ours, self._theirs = socket.socketpair()
        super().__init__(f"fd:{self._name}")

    def receive(self, destination: QMPClient, deadline: Deadline) -> None:
        """Hands the destination its end."""
        _hand_over(destination, self._name, self._theirs.fileno(), deadline)
        self._theirs.close()
        super().receive(destination, deadline)

    def send(self, source: QMPClient, deadline: Deadline) -> None:
        """Hands the source the other one."""
        _hand_over(source, self._name, self._ours.fileno(), deadline)
        # A copy here would hide from either machine that the other one is gone.
        self._ours.close()
        try:
            super().send(source, deadline)
        except QMPCommandError:
            # It keeps what it has not used.
            source.execute("closefd", {"fdname": self._name}, timeout=deadline)
            raise

    def close(self) -> None:
        """Closes what nobody was handed. Idempotent."""
        self._ours.close()
        self._theirs.close()

    def __str__(self) -> str:
        return "a pair of sockets"


class SocketRoute(Route):
    """A unix socket in a folder of its own."""

    two_way = True

    def __init__(self) -> None:
        self._folder = _private_folder()
        super().__init__(f"unix:{self._folder}/migration")

    def receive(self, destination: QMPClient, deadline: Deadline) -> None:
        """Has the destination listen."""
        super().receive(destination, deadline)
        self.begun = False

    def send(self, source: QMPClient, deadline: Deadline) -> None:
        """Has the source connect."""
        super().send(source, deadline)
        self.begun = True

    def close(self) -> None:
        """Takes the folder away. Idempotent."""
        shutil.rmtree(self._folder, ignore_errors=True)


class FileRoute(Route):
    """A file.

    Args:
        path: of the file; None for one in a folder of its own, which goes with the migration.
    """

    stored = True

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._folder = _private_folder() if path is None else None
        self.path = os.path.abspath(
            os.fspath(path) if path is not None else f"{self._folder}/state"
        )
        super().__init__(f"file:{self.path}")

    def receive(self, destination: QMPClient, deadline: Deadline) -> None:
        """Has the destination read it.

        Raises:
            VMMigrationError: it can't be read.
        """
        self._use("migrate-incoming", destination, os.O_RDONLY, deadline)
        self.begun = True

    def send(self, source: QMPClient, deadline: Deadline) -> None:
        """Has the source write it; what was in it before is lost.

        Raises:
            VMMigrationError: it can't be written.
        """
        self._use("migrate", source, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, deadline)

    def _use(self, command: str, machine: QMPClient, flags: int, deadline: Deadline) -> None:
        __tracebackhide__ = True
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            verb = "read" if flags == os.O_RDONLY else "write"
            raise VMMigrationError(
                f"can't {verb} the migration's file {self.path!r}: {error.strerror}"
            ) from None
        try:
            if machine.version >= _KNOWS_FILES:
                # Not by a URI, in which a comma of the path would begin an option.
                where = {"transport": "file", "filename": self.path, "offset": 0}
                arguments: dict[str, Any] = {"channels": [{"channel-type": "main", "addr": where}]}
            else:
                name = f"migration-{next(_numbers)}"
                _hand_over(machine, name, fd, deadline)
                arguments = {"uri": f"fd:{name}"}
        finally:
            os.close(fd)
        machine.execute(command, arguments, timeout=deadline)

    def close(self) -> None:
        """Takes the file away, if it was only there for the migration. Idempotent."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __str__(self) -> str:
        return f"the file {self.path}" if self._folder is None else "a file"


_ROUTES: dict[str, Callable[[], Route]] = {
    "fd": DescriptorRoute,
    "unix": SocketRoute,
    "file": FileRoute,
}


def is_address(text: object) -> bool:
    """Whether it is an address for QMP's ``migrate``, and not a path."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def route_of(via: str | None, capabilities: Iterable[str]) -> Route:
    """The way from one machine to another; closed by whoever takes it.

    Args:
        via: one of ``WAYS``; None takes the best.
        capabilities: that the migration has.

    Raises:
        VMMigrationError: there is no such way, or it can't carry that.
    """
    __tracebackhide__ = True
    several = sorted(_NEED_SEVERAL.intersection(capabilities))
    if via is None:
        via = "unix" if several else "fd"
    if via not in WAYS:
        raise VMMigrationError(
            f"no machine migrates via={via!r}{nearest(str(via), WAYS)}\n"
            f"The ways to another machine are: {', '.join(WAYS)}"
        )
    if via == "fd" and several:
        raise VMMigrationError(
            f"{several[0]} needs several connections, and via='fd' is one: take via='unix'"
        )
    return _ROUTES[via]()


def capability_states(capabilities: Iterable[str] | Mapping[str, bool]) -> dict[str, bool]:
    """Capabilities as a mapping: those that are only named are wanted.

    Raises:
        VMMigrationError: it is a text, or holds something else than names.
    """
    __tracebackhide__ = True
    if isinstance(capabilities, Mapping):
        states = {name: bool(state) for name, state in capabilities.items()}
    else:
        states = {} if isinstance(capabilities, str) else dict.fromkeys(capabilities, True)
    if isinstance(capabilities, str) or not all(isinstance(name, str) for name in states):
        raise VMMigrationError(
            f"capabilities is a list of names, as in capabilities=['postcopy-ram'], or a mapping "
            f"of names to True and False: not {capabilities!r}"
        )
    return states


def _hand_over(machine: QMPClient, name: str, fd: int, deadline: Deadline) -> None:
    __tracebackhide__ = True
    machine.execute("getfd", {"fdname": name}, fds=[fd], timeout=deadline)


def _private_folder() -> str:
    # A socket's path may have 108 bytes; pytest's own folders are often deeper.
    return tempfile.mkdtemp(prefix="qmp-migration-")
