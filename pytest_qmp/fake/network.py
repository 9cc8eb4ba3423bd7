"""The network of a machine: backends, the cards at them, their links."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from .identifiers import is_identifier
from .options import Options, parse_value
from .replies import CommandFailed

__all__ = ["Card", "Network", "parse_mac"]

_FIRST_MAC = 0x525400123456
_MACS = 256
_TAKES_FD = ("tap", "socket")


def parse_mac(text: str) -> str | None:
    """A hardware address in QEMU's own writing; None if it is none."""
    parts = text.replace("-", ":").split(":") if ":" not in text or "-" not in text else []
    if len(parts) != 6 or not all(0 < len(part) <= 2 for part in parts):
        return None
    try:
        return ":".join(f"{int(part, 16):02x}" for part in parts)
    except ValueError:
        return None


@dataclass
class Card:
    """A network card.

    Attributes:
        name: its id, or a name of QEMU's making.
        kind: its QOM type.
        path: in QOM.
        mac: its hardware address.
        netdev: the backend at the other end, None without one.
    """

    name: str
    kind: str
    path: str
    mac: str
    netdev: str | None
    up: bool = True


@dataclass
class Network:
    """The backends of ``-netdev`` and ``netdev_add``, and the cards.

    Attributes:
        netdevs: what each was made with, by id.
        cards: by path in QOM, the latest last.
    """

    netdevs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)
    _down: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, options: Options) -> Network:
        """The network of a command line, without its cards."""
        found = cls()
        for option, text in options.pairs:
            if option == "netdev":
                given = parse_value(text, "type")
                if isinstance(given.get("id"), str):
                    found.netdevs[given["id"]] = given
        return found

    def add(
        self,
        arguments: Mapping[str, Any],
        chardevs: Container[str],
        take_descriptor: Callable[[str], bool],
    ) -> None:
        """``netdev_add``; CommandFailed if the id is taken, or the backend can't be made.

        Args:
            arguments: of the command.
            chardevs: the names of the chardevs that there are.
            take_descriptor: takes what ``getfd`` named; False if there is none of that name.
        """
        name = arguments["id"]
        if not is_identifier(name):
            raise CommandFailed("Parameter 'id' expects an identifier")
        if name in self.netdevs:
            raise CommandFailed(f"Duplicate ID '{name}'")
        _check_netdev(arguments, chardevs)
        name_of_peer = arguments.get("netdev") if arguments["type"] == "hubport" else None
        if name_of_peer is not None and name_of_peer not in self.netdevs:
            raise CommandFailed(f"netdev '{name_of_peer}' not found")
        descriptor = arguments.get("fd", "0") if arguments["type"] in _TAKES_FD else "0"
        if not descriptor[:1].isdigit() and not take_descriptor(descriptor):
            raise CommandFailed(f"File descriptor named '{descriptor}' has not been found")
        self.netdevs[name] = arguments

    def remove(self, name: str) -> None:
        """``netdev_del``; CommandFailed if there is none of that id."""
        if name not in self.netdevs:
            raise CommandFailed(f"Device '{name}' not found", "DeviceNotFound")
        del self.netdevs[name]
        for card in self.cards.values():
            if card.netdev == name:
                card.netdev = None

    def check_free(self, owner: str, name: str) -> None:
        """CommandFailed if a card can't have a netdev; ``owner`` is its type in the error."""
        if name not in self.netdevs:
            raise CommandFailed(f"Property '{owner}.netdev' can't find value '{name}'")
        if any(card.netdev == name for card in self.cards.values()):
            raise CommandFailed(f"Property '{owner}.netdev' can't take value '{name}', it's in use")

    def free_mac(self) -> str:
        """The hardware address that a card gets when it is given none."""
        taken = {card.mac for card in self.cards.values()}
        for number in range(_MACS):
            text = f"{_FIRST_MAC + number:012x}"
            mac = ":".join(text[at : at + 2] for at in range(0, 12, 2))
            if mac not in taken:
                return mac
        return "00:00:00:00:00:00"

    def plug(self, device_id: str | None, kind: str, path: str, mac: str, netdev: str) -> None:
        """A card is there."""
        if device_id is None:
            number = sum(card.kind == kind for card in self.cards.values())
            device_id = f"{kind}.{number}"
        self.cards[path] = Card(device_id, kind, path, mac, netdev or None)

    def unplug(self, path: str) -> None:
        """A device has gone; nothing happens if it was no card."""
        self.cards.pop(path, None)

    def set_link(self, name: str, up: bool) -> None:
        """``set_link``; CommandFailed if there is neither a netdev nor a card of that name."""
        if name not in self.netdevs and all(c.name != name for c in self.cards.values()):
            raise CommandFailed(f"Device '{name}' not found", "DeviceNotFound")
        for card in self.cards.values():
            if card.name == name or card.netdev == name:
                card.up = up

    def rx_filters(self, name: str | None) -> list[dict[str, Any]]:
        """``query-rx-filter``; CommandFailed if there is no card of that name."""
        cards = [card for card in self.cards.values() if name is None or card.name == name]
        shown = [_rx_filter(card) for card in cards if card.kind.startswith("virtio-net-")]
        if name is not None and not shown:
            if cards:
                raise CommandFailed(f"net client({name}) doesn't support rx-filter querying")
            if name in self.netdevs:
                raise CommandFailed(f"net client({name}) isn't a NIC")
            raise CommandFailed(f"invalid net client name: {name}")
        return shown


def _check_netdev(arguments: Mapping[str, Any], chardevs: Container[str]) -> None:
    kind = arguments["type"]
    if kind in ("none", "nic"):
        raise CommandFailed(f"network backend '{kind}' is not compiled into this binary")
    if kind == "socket":
        ways = ("fd", "listen", "connect", "mcast", "udp")
        if sum(way in arguments for way in ways) != 1:
            raise CommandFailed("exactly one of listen=, connect=, mcast= or udp= is required")
        for way in ways[1:]:
            if ":" not in arguments.get(way, ":"):
                raise CommandFailed(
                    f"host address '{arguments[way]}' doesn't contain ':' separating host from port"
                )
    if kind == "vhost-user" and arguments["chardev"] not in chardevs:
        raise CommandFailed(f'chardev "{arguments["chardev"]}" not found')
    if kind == "bridge":
        raise CommandFailed("bridge helper failed")


def _rx_filter(card: Card) -> dict[str, Any]:
    # As a card is that no driver of the guest's has set up.
    return {
        "name": card.name,
        "promiscuous": True,
        "multicast": "normal",
        "unicast": "normal",
        "vlan": "all",
        "broadcast-allowed": False,
        "multicast-overflow": False,
        "unicast-overflow": False,
        "main-mac": card.mac,
        "vlan-table": list(range(4095, -1, -1)),
        "unicast-table": [],
        "multicast-table": [],
    }
