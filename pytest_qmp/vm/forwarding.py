"""Ports of the host that lead into a guest, and servers there that are waited for."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_qmp.errors import NeedsRealGuestError, QMPTimeoutError, VMConfigError, VMError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.network_config import PortLike, port_key
from pytest_qmp.vm.usernet import Connection, NetworkCard, parse_cards, parse_connections

if TYPE_CHECKING:
    from pytest_qmp.vm.port_probe import PortProbe

__all__ = ["ForwardedPorts", "MachineForwarding"]

_HOST = "127.0.0.1"
_HOST_ADDRESSES = (_HOST, "0.0.0.0", "*")
_FIRST_ASK_SECONDS = 0.01
_LAST_ASK_SECONDS = 0.25
_CONNECT_SECONDS = 1.0
_READ_SIZE = 65536


class ForwardedPorts(Mapping[PortLike, int]):
    """Which port of 127.0.0.1 leads to which of the guest's: ``vm.ports[22]``.

    Args:
        ports: the host's, by the guest's: a number for TCP, ``("udp", number)`` for UDP.
    """

    def __init__(self, ports: Mapping[PortLike, int]) -> None:
        self._ports = dict(ports)

    def __getitem__(self, key: PortLike) -> int:
        if key not in self._ports:
            known = ", ".join(map(repr, self._ports)) or "none"
            raise KeyError(
                f"the port {key!r} of the guest is not forwarded (forwarded: {known}); "
                f"VMConfig(ports=[{key!r}]) or vm.forward_port() does"
            )
        return self._ports[key]

    def __iter__(self) -> Iterator[PortLike]:
        return iter(self._ports)

    def __len__(self) -> int:
        return len(self._ports)

    def __repr__(self) -> str:
        return repr(self._ports)


class MachineForwarding(MachineCommands):
    """The forwarded ports of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._forwarding = threading.Lock()

    @property
    def ports(self) -> ForwardedPorts:
        """The ports of 127.0.0.1 that lead into the guest, by the guest's; as QEMU has them now.

        Raises:
            VMError: the machine has no user-mode network.
            NeedsRealGuestError: the fake forwards nothing.
        """
        __tracebackhide__ = True
        deadline = self._deadline(DEFAULT)
        self._user_card(deadline)
        return ForwardedPorts(
            {
                port_key(one.target[1], one.protocol): one.source[1]
                for one in reversed(self._forwards(deadline))
            }
        )

    def forward_port(self, port: int, protocol: str = "tcp") -> int:
        """Has a free port of 127.0.0.1 lead to one of the guest's. The same one, asked again.

        QEMU itself takes a port that the operating system has free, and listens on it from then
        on: no other process can have it, however many machines start at once.

        Args:
            port: of the guest.
            protocol: ``tcp`` or ``udp``.

        Returns:
            The port of 127.0.0.1.

        Raises:
            VMConfigError: that is no port.
            VMError: the machine has no user-mode network: ``VMConfig(network=True)`` gives one.
            NeedsRealGuestError: the fake forwards nothing.
        """
        __tracebackhide__ = True
        port_key(port, protocol)
        return self._forward_to(port, protocol, self._deadline(DEFAULT)).source[1]

    def _forward_to(self, port: int, protocol: str, deadline: Deadline) -> Connection:
        __tracebackhide__ = True
        card = self._user_card(deadline)
        with self._forwarding:
            found = self._forwarded(port, protocol, deadline)
            if found is not None:
                return found
            said = self._ask_monitor(
                f"hostfwd_add {card.netdev} {protocol}:{_HOST}:0-:{port}", deadline
            )
            found = self._forwarded(port, protocol, deadline)
        if found is None:
            raise VMError(
                f"{self} can't forward {protocol} port {port} of the guest: QEMU says "
                f"{said.strip() or 'nothing, and does not'!r}"
            )
        return found

    def _forwarded(self, port: int, protocol: str, deadline: Deadline) -> Connection | None:
        __tracebackhide__ = True
        for one in reversed(self._forwards(deadline)):
            if (one.protocol, one.target[1]) == (protocol, port):
                return one
        return None

    def _forwards(self, deadline: Deadline) -> list[Connection]:
        """The latest first."""
        __tracebackhide__ = True
        return [
            one
            for one in parse_connections(self._ask_monitor("info usernet", deadline))
            if one.state == "HOST_FORWARD" and one.source[0] in _HOST_ADDRESSES
        ]

    def _user_card(self, deadline: Deadline) -> NetworkCard:
        __tracebackhide__ = True
        if self._backend.kind == "fake":
            raise NeedsRealGuestError(
                "a forwarded port needs a real guest, and this test runs on the fake: install "
                "QEMU, or stub what your code asks for"
            )
        for card in self._network_cards(deadline):
            if card.kind == "user":
                return card
        raise VMError(
            f"{self} has no user-mode network, through which a port could be forwarded: "
            "VMConfig(network=True) gives it one, and VMConfig(ports=[22]) a forwarded port, too"
        )

    def _network_cards(self, deadline: Deadline) -> list[NetworkCard]:
        __tracebackhide__ = True
        return parse_cards(self._ask_monitor("info network", deadline))

    def _ask_monitor(self, line: str, deadline: Deadline) -> str:
        __tracebackhide__ = True
        return str(self.qmp.execute("human-monitor-command", command_line=line, timeout=deadline))

    def wait_for_port(
        self, port: int, timeout: Timeout = DEFAULT, *, banner: str | bytes | None = None
    ) -> int:
        """Waits until a server in the guest listens on a TCP port; forwards it if it is not yet.

        That QEMU accepts a connection on the forwarded port says nothing: it does so before it
        asks the guest. So the guest is asked, by frames to its card: the wait ends once its TCP
        agrees to a connection, which is taken back before a program there sees it.

        Args:
            port: of the guest.
            timeout: seconds for the whole wait.
            banner: a regular expression for what the server says first, as ``"SSH-2.0"``; the
                wait then connects, and ends once it was said. For servers that speak first only.

        Returns:
            The port of 127.0.0.1 that leads there.

        Raises:
            QMPTimeoutError: nobody listened, or the banner did not come; the text tells what the
                guest answered, and has the console's last lines.
            VMVerdictError: something happened to the machine meanwhile.
            VMError: the machine has no user-mode network.
            NeedsRealGuestError: the fake has no guest.
        """
        __tracebackhide__ = True
        from pytest_qmp.vm.port_probe import PortProbe

        port_key(port)
        pattern = _compiled(banner)
        deadline = self._deadline(timeout)
        forward = self._forward_to(port, "tcp", deadline)
        card = self._user_card(deadline)
        guest = forward.target[0]
        with PortProbe(
            self.qmp, card.netdev, card.mac, guest, _gateway(card, guest), port, deadline
        ) as probe:
            pause = _FIRST_ASK_SECONDS
            while not probe.open:
                if deadline.expired:
                    raise self._no_answer(probe, port, guest, deadline)
                probe.ask()
                self._pass_time(pause, deadline)
                pause = min(1.5 * pause, _LAST_ASK_SECONDS)
        if pattern is not None:
            self._await_banner(forward, pattern, deadline)
        return forward.source[1]

    def _pass_time(self, seconds: float, deadline: Deadline) -> None:
        """Lets time pass, unless something happens to the machine."""
        __tracebackhide__ = True
        left = deadline.remaining()
        seen = self.events.total
        self.qmp.wait_for_news(seen, Deadline(seconds if left is None else min(seconds, left)))

    def _no_answer(
        self, probe: PortProbe, port: int, guest: str, deadline: Deadline
    ) -> QMPTimeoutError:
        if probe.refusals:
            seen = f"the guest is there and says that no server listens ({probe.refusals} times)"
        elif guest in probe.addresses:
            seen = "the guest uses the network, but answers nothing on that port: a firewall?"
        elif probe.addresses:
            seen = (
                f"the guest uses the address {', '.join(sorted(probe.addresses))}, but ports are "
                f"forwarded to {guest}: have it configure its card by DHCP"
            )
        else:
            seen = (
                f"nothing came from a guest with the address {guest}: has its network card a "
                "driver, and is it up (by DHCP, or with that address)?"
            )
        return QMPTimeoutError(
            f"waited {deadline.words} for a server on port {port} in the guest of {self}, in "
            f"vain: {seen}{self._status_now()}.{self._shown_console()}"
        )

    def _await_banner(
        self, forward: Connection, pattern: re.Pattern[bytes], deadline: Deadline
    ) -> None:
        __tracebackhide__ = True
        said = b""
        pause = _FIRST_ASK_SECONDS
        while not deadline.expired:
            said = b""
            # What goes wrong on the way is met by the next round, or by the machine's verdict.
            with (
                suppress(OSError),
                socket.create_connection((_HOST, forward.source[1]), _CONNECT_SECONDS) as server,
            ):
                server.setblocking(False)
                while not deadline.expired:
                    try:
                        data = server.recv(_READ_SIZE)
                    except BlockingIOError:
                        self._pass_time(_FIRST_ASK_SECONDS, deadline)
                        continue
                    said += data
                    if pattern.search(said):
                        return
                    if not data:
                        break
            # It hung up: a server that is just starting, perhaps.
            self._pass_time(pause, deadline)
            pause = min(1.5 * pause, _LAST_ASK_SECONDS)
        raise QMPTimeoutError(
            f"waited {deadline.words} for the banner {pattern.pattern!r} of the server on port "
            f"{forward.target[1]} in the guest of {self}, in vain: it listens, and said "
            f"{said[-500:]!r}. A server that does not speak first is waited for without banner="
            f"{self._status_now()}.{self._shown_console()}"
        )


def _compiled(banner: str | bytes | None) -> re.Pattern[bytes] | None:
    __tracebackhide__ = True
    if banner is None:
        return None
    try:
        return re.compile(banner.encode() if isinstance(banner, str) else banner)
    except (re.error, TypeError) as error:
        raise VMConfigError(
            f"wait_for_port(): banner= is a regular expression, and {banner!r} is none: {error}"
        ) from None


def _gateway(card: NetworkCard, guest: str) -> str:
    """What the guest knows the host by: the second address of its network."""
    net = card.net or f"{guest.rpartition('.')[0]}.0"
    first, _, last = net.rpartition(".")
    return f"{first}.{int(last) | 2}"
