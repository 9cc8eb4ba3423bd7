"""The bytes of a migration on their way: commands, descriptors, files, sockets; none blocks."""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pytest_qmp.keeper import client as keeper

from .migration_address import Address
from .replies import CommandFailed

__all__ = ["Listening", "Pipe", "connect", "listen", "open_reader", "open_writer"]

_CHUNK = 65536
#: How long, in seconds, a command of ours may take to end once it is told to.
_PATIENCE = 2.0

TakeDescriptor = Callable[[str], "int | None"]
#: A copy of a descriptor of the set that a path names, None if it names none.
CopyDescriptor = Callable[[str, int], "int | None"]


class Pipe:
    """One end of a channel.

    Args:
        descriptor: to read or write; it is closed with the channel.
        process: the command at the other end.

    Attributes:
        is_command: whether a command is at the other end.
    """

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self._descriptor = descriptor
        self._process = process
        self.is_command = process is not None
        os.set_blocking(descriptor, False)

    @property
    def over(self) -> bool:
        """Whether the command at the other end has ended; True where there is none."""
        return self._process is None or self._process.poll() is not None

    @property
    def is_stream(self) -> bool:
        """Whether it is a socket or a pipe, and no file."""
        mode = os.fstat(self._descriptor).st_mode
        return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)

    def write(self, data: memoryview) -> int:
        """Sends what the peer takes now; says how much that was.

        Raises:
            OSError: nobody reads any more.
        """
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    def read(self) -> bytes | None:
        """What has come: b"" at the end, None for nothing yet."""
        try:
            return os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def wait(self, seconds: float, *, writing: bool) -> bool:
        """Waits until there is something to read, or room to write; says whether there is."""
        ours = [self._descriptor]
        ready = select.select([] if writing else ours, ours if writing else [], [], seconds)
        return bool(ready[0] or ready[1])

    def ends_within(self, seconds: float) -> bool:
        """Waits for the end of the command; says whether it has come."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                return False
        return True

    def finish(self) -> None:
        """Nothing more is sent or read; the command may go on."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Ends it, and the command."""
        self.finish()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Listening:
    """A socket on which the source of a migration is awaited."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)

    def accept(self) -> Pipe | None:
        """The source, None while there is none; no other is taken after it."""
        try:
            client = self._socket.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None
        return Pipe(client.detach())

    def shown(self) -> list[dict[str, object]]:
        """As ``query-migrate`` says it."""
        name = self._socket.getsockname()
        if name[0] == "::":
            everywhere = {"type": "inet", "port": str(name[1])}
            return [
                {**everywhere, "host": "::", "ipv6": True},
                {**everywhere, "host": "0.0.0.0", "ipv4": True},
            ]
        if self._socket.family == socket.AF_UNIX:
            return [{"type": "unix", "path": name}]
        family = "ipv6" if self._socket.family == socket.AF_INET6 else "ipv4"
        return [{"type": "inet", "host": name[0], "port": str(name[1]), family: True}]

    def close(self) -> None:
        """Listens no longer; the path of a unix socket goes as well."""
        if self._socket.fileno() >= 0 and self._socket.family == socket.AF_UNIX:
            with suppress(OSError):
                os.unlink(self._socket.getsockname())
        self._socket.close()


def open_writer(address: Address, take: TakeDescriptor, copy: CopyDescriptor) -> Pipe:
    """The channel to what is no socket.

    Raises:
        CommandFailed: it can't be had, in QEMU's words.
    """
    if address.kind == "exec":
        theirs, ours = os.pipe()
        return _run(address, ours, theirs, stdin=theirs)
    if address.kind == "fd":
        return Pipe(_descriptor(address.name, take))
    flags = os.O_WRONLY | os.O_CREAT
    of_set = copy(address.name, flags)
    try:
        create = flags | os.O_CLOEXEC
        descriptor = os.open(address.name, create, 0o660) if of_set is None else of_set
        if not address.offset and stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
    except OSError as error:
        text = f"Could not create '{address.name}': {os.strerror(error.errno or 0)}"
        raise CommandFailed(text) from None
    os.lseek(descriptor, address.offset, os.SEEK_SET)
    return Pipe(descriptor)


def open_reader(address: Address, take: TakeDescriptor, copy: CopyDescriptor) -> Pipe:
    """The channel from what is no socket.

    Raises:
        CommandFailed: it can't be had, in QEMU's words.
    """
    if address.kind == "exec":
        ours, theirs = os.pipe()
        return _run(address, ours, theirs, stdout=theirs)
    if address.kind == "fd":
        if address.name[:1].isdecimal():
            return Pipe(_inherited(address.name))
        return Pipe(_descriptor(address.name, take))
    of_set = copy(address.name, os.O_RDONLY)
    try:
        read = os.O_RDONLY | os.O_CLOEXEC
        descriptor = os.open(address.name, read) if of_set is None else of_set
    except OSError as error:
        text = f"Could not open '{address.name}': {os.strerror(error.errno or 0)}"
        raise CommandFailed(text) from None
    os.lseek(descriptor, address.offset, os.SEEK_SET)
    return Pipe(descriptor)


def connect(address: Address) -> Pipe:
    """A connection to a socket.

    Raises:
        CommandFailed: there is none, in QEMU's words.
    """
    failure = f"Failed to connect to '{address}'"
    for family, target in _targets(address):
        sock = socket.socket(family)
        try:
            sock.settimeout(_PATIENCE)
            sock.connect(target)
        except OSError as error:
            sock.close()
            failure = f"Failed to connect to '{address}': {os.strerror(error.errno or 0)}"
            continue
        return Pipe(sock.detach())
    raise CommandFailed(failure)


def listen(address: Address) -> Listening:
    """A socket for the source to connect to.

    Raises:
        CommandFailed: it can't be had, in QEMU's words.
    """
    failure = f"Failed to find an available port at {address}"
    if address.kind == "unix":
        with suppress(OSError):
            os.unlink(address.name)
    for family, target in _targets(address, passive=True):
        sock = socket.socket(family)
        try:
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not address.name:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(target)
            sock.listen()
        except OSError as error:
            sock.close()
            reason = os.strerror(error.errno or 0)
            failure = (
                f"Failed to bind socket to {address.name}: {reason}"
                if address.kind == "unix"
                else f"Failed to find an available port: {reason}"
            )
            continue
        return Listening(sock)
    raise CommandFailed(failure)


def _targets(address: Address, *, passive: bool = False) -> list[tuple[int, Any]]:
    """Where to connect, or to listen: there an empty host stands for every address."""
    if address.kind == "unix":
        return [(socket.AF_UNIX, address.name)]
    host = "::" if passive and not address.name else address.name
    try:
        if not host:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise CommandFailed(
            f"address resolution failed for {address}: {error.strerror or error}"
        ) from None
    return [(int(family), target) for family, _, _, _, target in found]


def _run(
    address: Address,
    ours: int,
    theirs: int,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Pipe:
    """Runs a command with one end of a pipe; the other end is the channel."""
    try:
        process = subprocess.Popen(
            address.command,
            stdin=stdin,
            stdout=stdout,
            **keeper.kept(),
        )
    except OSError as error:
        os.close(ours)
        raise CommandFailed(
            f"Failed to execute child process “{address.command[0]}” "
            f"({os.strerror(error.errno or 0)})"
        ) from None
    finally:
        os.close(theirs)
    return Pipe(ours, process)


def _descriptor(name: str, take: TakeDescriptor) -> int:
    found = take(name)
    if found is None:
        raise CommandFailed(f"File descriptor named '{name}' has not been found")
    return found


def _inherited(number: str) -> int:
    """A copy of a descriptor that the process was started with."""
    try:
        return os.dup(int(number))
    except (OSError, ValueError) as error:
        reason = os.strerror(getattr(error, "errno", 0) or 22)
        raise CommandFailed(f"Failed to get migration channel '{number}': {reason}") from None
