"""The chardevs that are sockets: they listen, connect and say who is there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .replies import CommandFailed, NotModelled
from .versions import Dialect

__all__ = ["SocketBackend", "UDPBackend", "shown_connection"]

_CONNECT_LIMIT = 5.0
_SUN_PATH = 108


class SocketBackend:
    """A stream socket, listening or connecting.

    Args:
        data: the options of the backend.
        dialect: the version that is emulated.
        take_named: gives the descriptor that ``getfd`` named.

    Raises:
        CommandFailed: it can't be opened.
    """

    kind = "socket"

    def __init__(
        self,
        data: Mapping[str, Any],
        dialect: Dialect,
        take_named: Callable[[str], int | None],
    ) -> None:
        self._dialect = dialect
        self._server = data.get("server", True)
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._unlink: str | None = None
        self._prefix = (
            "telnet:" if data.get("telnet") or data.get("tn3270") else
            "websocket:" if data.get("websocket") else "tcp:"
        )  # fmt: skip
        self._check(data)
        address = data["addr"]["data"]
        kind = data["addr"]["type"]
        retries = bool(data.get("reconnect") or data.get("reconnect-ms"))
        if kind == "unix":
            self._shown = f"unix:{address['path']}"
            self._open_unix(address["path"], retries)
        elif kind == "inet":
            self._shown = f"{self._prefix}{address['host']}:{address['port']}"
            self._open_inet(address, retries)
        elif kind == "fd":
            self._shown = "fd:"
            self._adopt(address["str"], take_named)
        else:
            raise NotModelled(f"chardevs on {kind} sockets")

    @property
    def filename(self) -> str:
        """As ``query-chardev`` says: who is connected at this moment."""
        self._look()
        role = ",server=on" if self._server else ""
        if self._peer is None:
            return f"disconnected:{self._shown}{role}"
        shown = self._shown
        if self._peer.family == socket.AF_UNIX and not self._server:
            # Older ones call a client by its own address, which has no name.
            shown = shown if self._dialect.version >= (10, 0, 0) else "unix:"
        return shown_connection(self._peer, shown, role)

    def yank(self) -> None:
        """Cuts the connection."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def close(self) -> None:
        """Gives back what it has open."""
        self.yank()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._unlink is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._unlink)
            self._unlink = None

    def _check(self, data: Mapping[str, Any]) -> None:
        if self._server:
            for option in ("reconnect", "reconnect-ms"):
                late = option == "reconnect-ms" and self._dialect.version < (11, 0, 0)
                if data.get(option) and not late:
                    raise CommandFailed(
                        f"'{option}' option is incompatible with socket in server listen mode"
                    )
        else:
            for option in ("websocket", "wait"):
                if option in data and (option == "wait" or data[option]):
                    shown = "Websocket client is not implemented"
                    if option == "wait":
                        shown = "'wait' option is incompatible with socket in client connect mode"
                    raise CommandFailed(shown)
        if "tls-creds" in data:
            raise CommandFailed(f"No TLS credentials with id '{data['tls-creds']}'")
        if "tls-authz" in data:
            raise CommandFailed("'tls_authz' option requires 'tls_creds' option")

    def _open_unix(self, path: str, retries: bool) -> None:
        if len(os.fsencode(path)) > _SUN_PATH:
            raise CommandFailed(
                f"UNIX socket path '{path}' is too long\nPath must be less than {_SUN_PATH} bytes"
            )
        sock = socket.socket(socket.AF_UNIX)
        try:
            if self._server:
                self._clear(path)
                sock.bind(path)
                self._unlink = path
                self._listen(sock)
            else:
                sock.connect(path)
                self._peer = sock
        except CommandFailed:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            if self._server:
                raise CommandFailed(f"Failed to bind socket to {path}: {error.strerror}") from error
            if not retries:
                raise CommandFailed(f"Failed to connect to '{path}': {error.strerror}") from error

    @staticmethod
    def _clear(path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CommandFailed(f"Failed to unlink socket {path}: {error.strerror}") from error

    def _open_inet(self, address: Mapping[str, Any], retries: bool) -> None:
        host, port = address["host"], address["port"]
        family, target = _resolve(address, self._server)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if self._server:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(target)
                self._listen(sock)
                self._shown = f"{self._prefix}{_joined(sock.getsockname())}"
            else:
                sock.settimeout(_CONNECT_LIMIT)
                sock.connect(target)
                sock.setblocking(False)
                self._peer = sock
        except OSError as error:
            sock.close()
            reason = error.strerror or str(error)
            if self._server:
                raise CommandFailed(f"Failed to find an available port: {reason}") from error
            if not retries:
                raise CommandFailed(f"Failed to connect to '{host}:{port}': {reason}") from error

    def _adopt(self, name: str, take_named: Callable[[str], int | None]) -> None:
        descriptor = None if name[:1].isdigit() else take_named(name)
        if descriptor is None:
            raise CommandFailed(f"File descriptor named '{name}' has not been found")
        sock = socket.socket(fileno=descriptor)
        if self._server:
            self._listen(sock)
        else:
            self._peer = sock

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(1)
        sock.setblocking(False)
        self._listener = sock

    def _look(self) -> None:
        """Takes note of who has come; without a user in front, nobody notices who goes."""
        if self._peer is None and self._listener is not None:
            with suppress(OSError):
                self._peer = self._listener.accept()[0]


def shown_connection(peer: socket.socket, address: str, role: str) -> str:
    """What ``query-chardev`` says of a connected socket.

    Args:
        peer: the connection.
        address: as it was given: ``unix:PATH``, ``tcp:HOST:PORT``, ….
        role: ``,server=on`` for one that listens.
    """
    if peer.family == socket.AF_UNIX:
        return address + role
    prefix = address.partition(":")[0]
    return f"{prefix}:{_joined(peer.getsockname())}{role} <-> {_joined(peer.getpeername())}"


class UDPBackend:
    """A datagram socket."""

    kind = filename = "udp"

    def __init__(self, data: Mapping[str, Any]) -> None:
        if data["remote"]["type"] != "inet":
            raise CommandFailed("socket type unsupported for datagram")
        family, remote = _resolve(data["remote"]["data"], False)
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        local = data.get("local")
        try:
            if local is not None:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._sock.bind(_resolve(local["data"], True)[1])
            self._sock.connect(remote)
        except OSError as error:
            self._sock.close()
            raise CommandFailed(f"Failed to bind socket: {error.strerror}") from error
        except CommandFailed:
            self._sock.close()
            raise

    def close(self) -> None:
        """Gives back what it has open."""
        self._sock.close()


def _resolve(address: Mapping[str, Any], passive: bool) -> tuple[int, Any]:
    host, port = address["host"], address["port"]
    family = socket.AF_UNSPEC
    if address.get("ipv4") and not address.get("ipv6"):
        family = socket.AF_INET
    elif address.get("ipv6") and not address.get("ipv4"):
        family = socket.AF_INET6
    flags = socket.AI_PASSIVE if passive else 0
    try:
        # Like QEMU's C library, takes a port beyond 65535 modulo 65536.
        number = str(int(port) % 65536) if port.isdecimal() else port
        found = socket.getaddrinfo(host or None, number, family, socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        raise CommandFailed(
            f"address resolution failed for {host}:{port}: {error.strerror}"
        ) from error
    return found[0][0], found[0][4]


def _joined(address: Any) -> str:
    return f"{address[0]}:{address[1]}"
