"""The VNC servers that a command line asks for; nobody can connect to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .command_line import parse_keys
from .options import Options
from .replies import NotModelled

__all__ = ["VNCServer", "read_vnc_servers"]

_FIRST_PORT = 5900


@dataclass(frozen=True)
class VNCServer:
    """A VNC server.

    Attributes:
        id: its name.
        address: where it listens, as ``query-vnc`` says; None for nowhere.
        auth: ``none``, or ``vnc`` for a password.
    """

    id: str
    address: dict[str, Any] | None
    auth: str


def read_vnc_servers(options: Options) -> list[VNCServer]:
    """Those of a command line; NotModelled for what goes beyond an address and a password."""
    return [_read(value) for option, value in options.pairs if option == "vnc"]


def _read(value: str) -> VNCServer:
    first = value.partition(",")[0]
    keys = parse_keys(value)
    beyond = set(keys) - {"id", "password", "password-secret", "to", "share", "power-control"}
    if beyond:
        raise NotModelled(f"VNC servers with {', '.join(sorted(beyond))}")
    secret = keys.get("password", "off") in ("on", "yes", "true", "y") or "password-secret" in keys
    auth = "vnc" if secret or ",password" in value.replace(",password=off", "") else "none"
    return VNCServer(keys.get("id", "default"), _address(first), auth)


def _address(first: str) -> dict[str, Any] | None:
    if first == "none":
        return None
    if first.startswith("unix:"):
        return {"host": "", "service": first.removeprefix("unix:"), "family": "unix"}
    host, _, display = first.rpartition(":")
    host = host.strip("[]")
    if not display.isdecimal():
        raise NotModelled(f"a VNC server at {first}")
    family = "ipv6" if ":" in host else "ipv4"
    shown = {"localhost": "127.0.0.1", "": "0.0.0.0"}.get(host, host)
    return {"host": shown, "service": str(_FIRST_PORT + int(display)), "family": family}
