"""What QEMU's human monitor tells of a machine's network, read."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Connection", "NetworkCard", "parse_cards", "parse_connections"]

_CLIENT = re.compile(r"^( \\ )?(.+?): index=\d+,type=(\w+)(.*)$", re.MULTILINE)
_MAC = re.compile(r"macaddr=([0-9a-f:]{17})")
_NET = re.compile(r",net=([\d.]+)")
_CONNECTION = re.compile(
    r"^ +(TCP|UDP)\[(\w+)\] +-?\d+ +(\S+) +(\d+) +(\S+) +(\d+) +\d+ +\d+", re.MULTILINE
)


@dataclass(frozen=True)
class NetworkCard:
    """A card, and what it is connected to.

    Attributes:
        name: the card's id, or a name of QEMU's making.
        mac: its hardware address.
        netdev: the id of the other side.
        kind: of the other side: ``user``, ``socket``, ….
        net: the address of the network, where the other side has one.
    """

    name: str
    mac: str
    netdev: str
    kind: str
    net: str | None


@dataclass(frozen=True)
class Connection:
    """A line of ``info usernet``.

    Attributes:
        protocol: ``tcp`` or ``udp``.
        state: ``HOST_FORWARD`` for a port that is forwarded.
        source: address and port at the side of the host.
        target: address and port at the side of the guest.
    """

    protocol: str
    state: str
    source: tuple[str, int]
    target: tuple[str, int]


def parse_cards(text: str) -> list[NetworkCard]:
    r"""The cards that ``info network`` tells of.

    >>> parse_cards("c: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\r\n"
    ...             " \\ n: index=0,type=user,net=10.0.2.0,restrict=on\r\n")[0].netdev
    'n'
    """
    cards = []
    card: tuple[str, str] | None = None
    for inner, name, kind, rest in _CLIENT.findall(text.replace("\r", "")):
        mac = _MAC.search(rest)
        if not inner:
            card = (name, mac[1]) if kind == "nic" and mac else None
        elif card is not None:
            net = _NET.search(rest)
            cards.append(NetworkCard(*card, name, kind, net[1] if net else None))
    return cards


def parse_connections(text: str) -> list[Connection]:
    """The connections and forwarded ports that ``info usernet`` tells of."""
    return [
        Connection(protocol.lower(), state, (source, int(port)), (target, int(target_port)))
        for protocol, state, source, port, target, target_port in _CONNECTION.findall(
            text.replace("\r", "")
        )
    ]
