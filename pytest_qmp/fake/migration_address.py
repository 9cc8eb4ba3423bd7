"""Where a migration goes to or comes from: URIs and channels, and how QEMU refuses them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .replies import CommandFailed, NotModelled
from .versions import Dialect

__all__ = ["Address", "UnknownProtocol", "read_address"]

_INET = re.compile(r"(?:\[(?P<v6>.{1,64}?)\]|(?P<host>[^:]{0,64})):(?P<port>[^,:]{1,32})(?:,.*)?")
_SIZE = re.compile(r"(\d+)([bkmgtpe]?)", re.IGNORECASE)
_UNITS = "bkmgtpe"


class UnknownProtocol(CommandFailed):
    """The URI begins with nothing that QEMU knows."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to.

    Attributes:
        kind: ``exec``, ``fd``, ``file``, ``inet``, ``unix``, ``rdma`` or ``vsock``.
        command: program and arguments, of ``exec``.
        name: the path, the host, or the descriptor's name.
        port: of ``inet``, ``rdma`` and ``vsock``.
        offset: of ``file``.
    """

    kind: str
    command: tuple[str, ...] = ()
    name: str = ""
    port: str = ""
    offset: int = 0

    @property
    def takes_channels(self) -> bool:
        """Whether several connections can be made to it."""
        return self.kind in ("inet", "unix", "vsock")

    def __str__(self) -> str:
        return f"{self.name}:{self.port}" if self.port else self.name


def read_address(
    dialect: Dialect, uri: str | None, channels: list[Mapping[str, Any]] | None
) -> Address:
    """The address that the arguments of a command name.

    Raises:
        CommandFailed: they name none; UnknownProtocol for a URI of an unknown kind.
    """
    if bool(channels) == (uri is not None):
        raise CommandFailed("need either 'uri' or 'channels' argument")
    if channels:
        return _of_channels(channels)
    return _of_uri(dialect, uri or "")


def _of_channels(channels: list[Mapping[str, Any]]) -> Address:
    mains = [channel["addr"] for channel in channels if channel["channel-type"] == "main"]
    if len(mains) > 1:
        raise CommandFailed("Channel list has more than one main entry")
    if not mains:
        raise NotModelled("channels of which none is the main one, on which QEMU breaks down")
    address = mains[0]
    transport = address["transport"]
    if transport == "exec":
        if not address["args"]:
            raise NotModelled("a command without a name, on which QEMU breaks down")
        return Address("exec", tuple(address["args"]))
    if transport == "file":
        return Address("file", name=address["filename"], offset=address["offset"])
    if transport == "rdma":
        return Address("rdma", name=address["host"], port=address["port"])
    kind = address["type"]
    if kind == "unix":
        return Address("unix", name=address["path"])
    if kind == "fd":
        return Address("fd", name=address["str"])
    if kind == "vsock":
        return Address("vsock", name=address["cid"], port=address["port"])
    return Address("inet", name=address["host"], port=address["port"])


def _of_uri(dialect: Dialect, uri: str) -> Address:
    protocol, colon, rest = uri.partition(":")
    kind = protocol if colon else ""
    new = dialect.version >= (10, 0, 0)
    if kind == "exec":
        return Address("exec", ("/bin/sh", "-c", rest))
    if kind == "tcp":
        return _inet(rest)
    if kind == "rdma":
        if not new and not _INET.fullmatch(rest):
            raise CommandFailed(f"RDMA ERROR: bad RDMA migration address '{rest}'")
        return Address("rdma", name=_inet(rest).name, port=_inet(rest).port)
    if kind == "unix":
        if not rest:
            raise CommandFailed("invalid Unix socket address")
        return Address("unix", name=rest)
    if kind == "vsock":
        cid, _, port = rest.partition(":")
        return Address("vsock", name=cid, port=port)
    if kind == "fd":
        if not rest and new:
            raise CommandFailed("invalid file descriptor address")
        return Address("fd", name=rest)
    if kind == "file" and new:
        return _file(rest)
    raise UnknownProtocol(f"unknown migration protocol: {uri}")


def _inet(text: str) -> Address:
    found = _INET.fullmatch(text)
    if found is None:
        if text.startswith(":"):
            raise CommandFailed(f"error parsing port in address '{text}'")
        if text.startswith("["):
            raise CommandFailed(f"error parsing IPv6 address '{text}'")
        raise CommandFailed(f"error parsing address '{text}'")
    return Address("inet", name=found["v6"] or found["host"], port=found["port"])


def _file(text: str) -> Address:
    path, comma, given = text.partition(",offset=")
    if not comma:
        return Address("file", name=text)
    size = _SIZE.fullmatch(given)
    if size is None:
        raise CommandFailed(f"file URI has bad offset {given}: Invalid argument")
    offset = int(size[1]) << 10 * _UNITS.index(size[2].lower() or "b")
    return Address("file", name=path, offset=offset)
