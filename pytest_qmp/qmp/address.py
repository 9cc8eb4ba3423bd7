"""Where a QMP server is: a unix socket's path, or a TCP host and port."""

from __future__ import annotations

import os
import re
import socket
from typing import NamedTuple, Union

from pytest_qmp.errors import QMPAddressError

__all__ = ["Address", "AddressLike", "parse_address"]

AddressLike = Union[str, "os.PathLike[str]", tuple[str, int]]

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^/:,=]*)):(?P<port>\d+)")
_QEMU_OPTION = re.compile(r",(server|wait|nowait|reconnect|ipv[46]|nodelay|telnet)\b")
_EXAMPLES = "give a path, unix:PATH, HOST:PORT, tcp:HOST:PORT, or (host, port)"


class Address(NamedTuple):
    """A parsed address. Exactly one of ``path`` and ``host`` is set.

    Attributes:
        path: of a unix socket, or None.
        host: of a TCP server, or None.
        port: its port.
    """

    path: str | None = None
    host: str | None = None
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"

    @property
    def qemu_option(self) -> str:
        """The option that makes a QEMU listen here."""
        return f"-qmp {self},server=on,wait=off"

    def sockaddr(self) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
        """The family and the address that ``socket`` takes.

        Raises:
            QMPAddressError: if the host has no address.
        """
        if self.path is not None:
            return socket.AF_UNIX, self.path
        host = self.host or "localhost"
        try:
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise QMPAddressError(
                f"can't connect to {self}: the host name {host!r} has no address: {error}"
            ) from error
        # QEMU listens on the first address of a name unless told otherwise: IPv4 for localhost.
        family, _, _, _, sockaddr = min(found, key=lambda one: one[0] != socket.AF_INET)
        return family, (str(sockaddr[0]), int(sockaddr[1]))


def parse_address(address: AddressLike) -> Address:
    """Reads an address in any form that people write.

    Args:
        address: a path, ``unix:PATH``, ``HOST:PORT``, ``tcp:HOST:PORT``, ``(host, port)`` or a
            ``Path``. A text without a slash that ends in ``:NUMBER`` is a host and a port.

    Returns:
        The address.

    Raises:
        QMPAddressError: for anything else, and for QEMU's own option syntax (``server=on``).
    """
    if isinstance(address, Address):
        return address
    if isinstance(address, tuple):
        if len(address) == 2 and isinstance(address[0], str) and isinstance(address[1], int):
            return _tcp(address[0], address[1], address)
        raise QMPAddressError(f"{address!r} is no QMP address: {_EXAMPLES}")
    if isinstance(address, os.PathLike):
        return Address(path=os.fspath(address))
    if not isinstance(address, str) or not address or "\0" in address:
        raise QMPAddressError(f"{address!r} is no QMP address: {_EXAMPLES}")
    if _QEMU_OPTION.search(address) and not os.path.exists(address.removeprefix("unix:")):
        raise QMPAddressError(
            f"{address!r} looks like QEMU's option; for a client leave out what follows the "
            f"first comma: {address.split(',')[0]!r}"
        )
    if address.startswith("unix:"):
        path = address[5:]
        if not path:
            raise QMPAddressError(f"{address!r} has no path after 'unix:': {_EXAMPLES}")
        return Address(path=path)
    tcp = address.startswith("tcp:")
    match = _HOST_PORT.fullmatch(address[4:] if tcp else address)
    if match:
        return _tcp(match["v6"] or match["host"] or "localhost", int(match["port"]), address)
    if tcp:
        raise QMPAddressError(f"{address!r} is no QMP address: after 'tcp:' comes HOST:PORT")
    return Address(path=address)


def _tcp(host: str, port: int, given: object) -> Address:
    if not 0 < port < 65536:
        raise QMPAddressError(f"{given!r} has no port between 1 and 65535")
    return Address(host=host, port=port)
