"""Character devices of a command line, opened: sockets, files, terminals, and who is there."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import stat
import threading
import tty
from collections.abc import Callable

from .channels import Channel
from .chardev_options import ChardevOptions
from .reactor import Reactor

__all__ = ["Link", "Links", "open_link"]

_CHUNK = 65536
#: How long a connection may take, in seconds, before it counts as refused.
_CONNECT_LIMIT = 30.0
#: What the path of a unix socket has to be shorter than.
_PATH_LIMIT = 108


class Link:
    """An open character device.

    Args:
        options: what it is.

    Attributes:
        listener: where clients come from, None for other kinds.
        waiting: a connected socket that nothing is attached to yet.
        terminal: the path of a pseudo-terminal, None for other kinds.
        greeted: whoever is there has been greeted.
        channel: the connection that is served.
        join: makes a channel of a connected socket; set by what uses the device.
    """

    def __init__(self, options: ChardevOptions) -> None:
        self.options = options
        self.listener: socket.socket | None = None
        self.waiting: socket.socket | None = None
        self.terminal: str | None = None
        self.greeted = False
        self.channel: Channel | None = None
        self.join: Callable[[socket.socket], Channel | None] | None = None
        self._pumps: list[threading.Thread] = []

    def listen(self) -> None:
        """Listens where the device is to; StartFailed if it can't."""
        keys, failed = self.options.keys, self.options.argument.failed
        if "fd" in keys:
            self.listener = self._inherited()
        elif "path" in keys:
            path = _socket_path(self.options)
            self.listener = socket.socket(socket.AF_UNIX)
            # QEMU takes over the path of a socket, whoever listens there.
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)
            try:
                self.listener.bind(path)
            except OSError as error:
                raise failed(f"Failed to bind socket to {path}: {error.strerror}") from error
        else:
            self.listener = self._listen_tcp()
        self.listener.listen(1)

    def accept(self) -> socket.socket | None:
        """The next client; None if it has left already."""
        if self.listener is None:
            return None
        try:
            return self.listener.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None

    def connect(self) -> socket.socket:
        """Connects to where the device is to; OSError if nobody is there."""
        keys = self.options.keys
        if "fd" in keys:
            return self._inherited()
        if "path" in keys:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(_socket_path(self.options))
            except OSError:
                client.close()
                raise
            return client
        found = socket.getaddrinfo(keys["host"] or None, keys["port"], type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            client = socket.socket(family, kind, protocol)
            client.settimeout(_CONNECT_LIMIT)
            try:
                client.connect(address)
            except OSError as error:
                client.close()
                refused = error
                continue
            return client
        raise refused

    def bridge(self, source: int | None, sink: int | None) -> None:
        """Makes a socket of two descriptors, with a thread for each direction."""
        ours, self.waiting = socket.socketpair()
        for end, task in ((source, _read_all), (sink, _write_all)):
            if end is not None:
                thread = threading.Thread(target=_pump, args=(task, end, ours), daemon=True)
                self._pumps.append(thread)
                thread.start()

    def finish_writing(self, limit: float) -> None:
        """Waits, so many seconds at most, until what was sent to a file or terminal is there."""
        for pump in self._pumps[-1:]:
            pump.join(limit)

    def close(self, *, remove: bool) -> None:
        """Lets go of it.

        Args:
            remove: the path of a socket, as an orderly end does.
        """
        for sock in (self.listener, self.waiting):
            if sock is not None:
                sock.close()
        if remove and self.listener is not None and "path" in self.options.keys:
            with contextlib.suppress(OSError):
                os.unlink(self.options.keys["path"])
        self.listener = self.waiting = None

    def _inherited(self) -> socket.socket:
        number = self.options.keys["fd"]
        try:
            if stat.S_ISSOCK(os.fstat(int(number)).st_mode):
                return socket.socket(fileno=int(number))
        except OSError:
            pass
        raise self.options.argument.failed(f"File descriptor '{number}' is not a socket")

    def _listen_tcp(self) -> socket.socket:
        keys, failed = self.options.keys, self.options.argument.failed
        host, port = keys["host"], keys["port"]
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as error:
            reason = f"address resolution failed for {host}:{port}: {error.strerror}"
            raise failed(reason) from error
        reason = "Failed to find an available port: Address already in use"
        for family, kind, protocol, _, address in found:
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(address)
            except OSError:
                listener.close()
                continue
            return listener
        raise failed(reason)


class Links:
    """The open character devices of one server, each served by one client at a time.

    Args:
        reactor: waits for the clients.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._links: list[Link] = []
        self._over = False

    def serve(self, link: Link, join: Callable[[socket.socket], Channel | None]) -> None:
        """Gives every client of a device, one after the other, to ``join``."""
        link.join = join
        self._links.append(link)
        if link.listener is not None:
            link.listener.setblocking(False)
        self._next(link)

    def serves(self, channel: Channel) -> bool:
        """Whether a channel is a client of one of them."""
        return any(link.channel is channel for link in self._links)

    def dropped(self, channel: Channel) -> None:
        """A channel was closed: its place is free for the next client."""
        for link in self._links:
            if link.channel is channel:
                link.channel = None
                self._next(link)

    def end(self, *, remove: bool) -> None:
        """No more clients.

        Args:
            remove: the paths of sockets, as an orderly end does.
        """
        self._over = True
        for link in self._links:
            if link.listener is not None:
                self._reactor.stop_accepting(link.listener)
            link.close(remove=remove)

    def finish_writing(self, limit: float) -> None:
        """Waits until files and terminals have what was sent, so many seconds each at most."""
        for link in self._links:
            link.finish_writing(limit)

    def _next(self, link: Link) -> None:
        if self._over or link.join is None:
            return
        if link.waiting is not None:
            client, link.waiting = link.waiting, None
            link.channel = link.join(client)
        elif link.listener is not None:
            self._reactor.accept_from(link.listener, lambda: self._accept(link))
        elif link.options.reconnect and "fd" not in link.options.keys:
            self._reconnect(link)

    def _accept(self, link: Link) -> None:
        client = link.accept()
        if client is not None and link.listener is not None and link.join is not None:
            self._reactor.stop_accepting(link.listener)
            link.channel = link.join(client)

    def _reconnect(self, link: Link) -> None:
        """Tries from a thread of its own: a host that does not answer stalls nobody."""

        def attempt() -> None:
            try:
                link.waiting = link.connect()
            except OSError:
                with self._reactor.change():
                    self._reactor.schedule(link.options.reconnect, lambda: self._next(link))
                return
            with self._reactor.change():
                if self._over:
                    link.close(remove=False)
                else:
                    self._next(link)

        threading.Thread(target=attempt, daemon=True).start()


def open_link(options: ChardevOptions, announce: Callable[[str], None]) -> Link:
    """Opens a character device as QEMU does when it starts.

    Blocks, with ``wait=on`` (which is what a server does unless told otherwise), until the first
    client is there.

    Args:
        options: what to open.
        announce: writes a line to the standard output (``char device redirected…``) or, when it
            begins with the option's text, error.

    Raises:
        StartFailed: it can't be opened.
    """
    options.check()
    link = Link(options)
    failed = options.argument.failed
    backend, keys = options.backend, options.keys
    if backend == "socket":
        _open_socket(link, announce)
    elif backend == "stdio":
        link.bridge(0, 1)
    elif backend in ("file", "pipe", "serial", "parallel"):
        path = keys.get("path", "")
        try:
            _open_path(link, path, backend, options.flag("append"))
        except OSError as error:
            raise failed(f"Could not open '{path}': {error.strerror}") from error
    elif backend == "pty":
        master, slave = pty.openpty()
        tty.setraw(slave)
        link.bridge(master, master)
        link.terminal = os.ttyname(slave)
        announce(f"char device redirected to {link.terminal} (label {options.id})")
    else:
        # Nobody is at the other end, and what is sent there is lost.
        link.bridge(None, os.open(os.devnull, os.O_WRONLY))
    return link


def _open_socket(link: Link, announce: Callable[[str], None]) -> None:
    options = link.options
    if options.flag("server"):
        link.listen()
        if options.flag("wait", default=True):
            address = _shown_address(options)
            announce(
                f"{options.argument.text}: info: QEMU waiting for connection on: "
                f"disconnected:{address},server=on"
            )
            link.waiting = link.accept()
    elif not options.reconnect or "fd" in options.keys:
        try:
            link.waiting = link.connect()
        except OSError as error:
            address = (
                options.keys["path"]
                if "path" in options.keys
                else f"{options.keys['host']}:{options.keys['port']}"
            )
            reason = f"Failed to connect to '{address}': {error.strerror or error}"
            raise options.argument.failed(reason) from error


def _open_path(link: Link, path: str, backend: str, append: bool) -> None:
    if backend == "file":
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        link.bridge(None, os.open(path, flags, 0o666))
        return
    if backend == "pipe" and os.path.exists(path + ".in") and os.path.exists(path + ".out"):
        # Open both ways, so that neither end waits for somebody to come.
        source = os.open(path + ".in", os.O_RDWR)
        link.bridge(source, os.open(path + ".out", os.O_RDWR))
        return
    both = os.open(path, os.O_RDWR | os.O_NOCTTY)
    link.bridge(both, both)


def _socket_path(options: ChardevOptions) -> str:
    path = options.keys["path"]
    if len(os.fsencode(path)) >= _PATH_LIMIT:
        raise options.argument.failed(
            f"UNIX socket path '{path}' is too long\nPath must be less than {_PATH_LIMIT} bytes"
        )
    return path


def _shown_address(options: ChardevOptions) -> str:
    if "path" in options.keys:
        return f"unix:{options.keys['path']}"
    if "fd" in options.keys:
        return f"fd:{options.keys['fd']}"
    return f"tcp:{options.keys['host']}:{options.keys['port']}"


def _pump(task: Callable[[int, socket.socket], None], end: int, ours: socket.socket) -> None:
    # Signals are for the main thread, or for the one that it gives them to.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    task(end, ours)


def _read_all(source: int, ours: socket.socket) -> None:
    # Either end may go away at any time, which is the end of this direction. The other goes on:
    # where standard input has ended, QEMU still writes to standard output.
    with contextlib.suppress(OSError):
        while data := os.read(source, _CHUNK):
            ours.sendall(data)


def _write_all(sink: int, ours: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := ours.recv(_CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]
