"""What a VMConfig says of the network: checked, and brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pytest_qmp.errors import VMConfigError

if TYPE_CHECKING:
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.links import Link, LinkEnd

__all__ = [
    "NETWORK_MODES",
    "NetworkLike",
    "PortLike",
    "check_network",
    "checked_ports",
    "ends_of",
    "port_and_protocol",
    "port_key",
]

PortLike = int | tuple[str, int]
NetworkLike = bool | Literal["restricted", "user"] | None

NETWORK_MODES = ("restricted", "user")

_PROTOCOLS = ("tcp", "udp")
_LAST_PORT = 65535


def check_network(config: VMConfig) -> None:
    """Raises VMConfigError for fields of the network that no machine could be given."""
    if config.network not in (None, False, True, *NETWORK_MODES):
        raise VMConfigError(
            "VMConfig.network is True or 'restricted' (the guest reaches nothing outside), 'user' "
            f"(it reaches what this host reaches), or None (no such card), not {config.network!r}"
        )
    if config.network is False and config.ports:
        raise VMConfigError(
            "VMConfig.ports needs a network card, and network=False says that there is none"
        )
    for link in config.links:
        if not (hasattr(link, "end") or hasattr(link, "connect")):
            raise VMConfigError(
                f"VMConfig.links holds Link objects, as in links=[Link()], not {link!r}"
            )
    if config.nic is not None and (not isinstance(config.nic, str) or not config.nic):
        raise VMConfigError(
            f"VMConfig.nic is the model of the network cards, as 'e1000', not {config.nic!r}"
        )


def checked_ports(ports: Sequence[PortLike]) -> tuple[PortLike, ...]:
    """The ports of a VMConfig, each once.

    Raises:
        VMConfigError: one is none.
    """
    return tuple(dict.fromkeys(port_key(*_parts(one)) for one in ports))


def port_key(port: int, protocol: str = "tcp") -> PortLike:
    """How a port is written: the number alone for TCP, the protocol and the number for UDP.

    Raises:
        VMConfigError: it is none.

    >>> port_key(22), port_key(53, "udp")
    (22, ('udp', 53))
    """
    __tracebackhide__ = True
    if protocol not in _PROTOCOLS:
        raise VMConfigError(f"the protocol of a port is 'tcp' or 'udp', not {protocol!r}")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= _LAST_PORT:
        raise VMConfigError(
            f"a port of the guest is a number from 1 to {_LAST_PORT}, as in ports=[22, 80, "
            f"('udp', 53)], not {port!r}"
        )
    return port if protocol == "tcp" else (protocol, port)


def port_and_protocol(key: PortLike) -> tuple[int, str]:
    """The number and the protocol of a port as ``port_key`` writes it."""
    return (key, "tcp") if isinstance(key, int) else (key[1], key[0])


def _parts(given: Any) -> tuple[Any, ...]:
    if isinstance(given, (tuple, list)) and len(given) == 2:
        protocol, port = given
        return port, protocol
    return (given,)


def ends_of(links: Sequence[Link | LinkEnd]) -> tuple[LinkEnd, ...]:
    """An end for each link, where the config does not name one itself."""
    if not links:
        return ()
    from pytest_qmp.vm.links import Link

    return tuple(one.end() if isinstance(one, Link) else one for one in links)
