"""Whether a server in the guest listens, found out without a connection that it would notice.

QEMU accepts on a forwarded port before it has asked the guest, goes on to ask it for a minute
after the caller has left, and then the guest's server meets a caller who is gone. So the question
is put to the guest's network card directly: one frame that asks for a connection (SYN). What the
guest answers, tells; what was asked for is taken back (RST) before any program sees it.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from contextlib import suppress

from pytest_qmp.errors import QMPError
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.supervisor import drain

__all__ = ["PortProbe", "address_bytes", "tcp_frame"]

_numbers = itertools.count()

_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_FIRST_PORT, _PORTS = 20000, 10000
_ETHERNET_IP, _ETHERNET_ARP, _TCP = 0x0800, 0x0806, 6
_WINDOW = 1024
_TTL = 64
_CLEANUP_SECONDS = 2.0


class PortProbe:
    """Asks a guest whether a TCP port is open, as often as ``ask()`` is called.

    A context manager; meanwhile two filters lie on the machine's network.

    Args:
        qmp: the machine's client.
        netdev: the id of the network.
        mac: the hardware address of the guest's card.
        guest: the guest's IPv4 address.
        host: the address that the guest knows the host by.
        port: that is asked for.
        deadline: of the wait.

    Attributes:
        open: True once the guest has said that somebody listens.
        refusals: how often it said that nobody does.
        addresses: the IPv4 addresses that the guest was seen to use.
    """

    def __init__(
        self,
        qmp: QMPClient,
        netdev: str,
        mac: str,
        guest: str,
        host: str,
        port: int,
        deadline: Deadline,
    ) -> None:
        self.open = False
        self.refusals = 0
        self.addresses: set[str] = set()
        self._qmp = qmp
        self._netdev = netdev
        self._name = f"port-probe-{next(_numbers)}"
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._guest, self._host = address_bytes(guest), address_bytes(host)
        self._port = port
        self._asked = int.from_bytes(os.urandom(2), "big")
        self._deadline = deadline
        self._received = b""
        self._inject, self._their_inject = socket.socketpair()
        self._observe, self._their_observe = socket.socketpair()
        self._inject.setblocking(False)
        self._attendance = drain(self._observe, self._on_data)
        self._added: list[tuple[str, str]] = []

    def __enter__(self) -> PortProbe:
        __tracebackhide__ = True
        try:
            with self._their_observe, self._their_inject:
                for way, theirs in (("out", self._their_observe), ("in", self._their_inject)):
                    self._add_chardev(f"{self._name}-{way}", theirs)
            self._add_filter("filter-mirror", "out", "rx")
            self._add_filter("filter-redirector", "in", "tx")
        except BaseException:
            self.close()
            raise
        return self

    def _add_chardev(self, name: str, sock: socket.socket) -> None:
        __tracebackhide__ = True
        self._qmp.execute("getfd", fdname=name, fds=[sock.fileno()], timeout=self._deadline)
        address = {"type": "fd", "data": {"str": name}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        self._qmp.execute("chardev-add", id=name, backend=backend, timeout=self._deadline)
        self._added.append(("chardev-remove", name))

    def _add_filter(self, kind: str, way: str, queue: str) -> None:
        __tracebackhide__ = True
        name = f"{self._name}-{way}"
        arguments = {"qom-type": kind, "id": f"{name}-filter", "netdev": self._netdev}
        arguments |= {"queue": queue, f"{way}dev": name}
        self._qmp.execute("object-add", arguments, timeout=self._deadline)
        self._added.append(("object-del", f"{name}-filter"))

    def ask(self) -> None:
        """Asks once more; what comes of it is in ``open`` and ``refusals``, later."""
        self._asked += 1
        self._send(_FIRST_PORT + self._asked % _PORTS, _SYN, 0)

    def _send(self, own_port: int, flags: int, sequence: int) -> None:
        frame = tcp_frame(
            self._mac, (self._host, own_port), (self._guest, self._port), flags, sequence
        )
        # A machine that takes none now gets the next one; a machine that is gone, ends the wait.
        with suppress(OSError):
            self._inject.send(struct.pack("!I", len(frame)) + frame)

    def _on_data(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 4:
            length = int.from_bytes(self._received[:4], "big")
            if len(self._received) < 4 + length:
                return
            frame = self._received[4 : 4 + length]
            self._received = self._received[4 + length :]
            self._on_frame(frame)

    def _on_frame(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == _ETHERNET_ARP and len(frame) >= 32:
            self._note(frame[28:32])
            return
        if kind != _ETHERNET_IP or len(frame) < 34:
            return
        self._note(frame[26:30])
        tcp = frame[14 + 4 * (frame[14] & 0x0F) :]
        if frame[23] != _TCP or len(tcp) < 20 or frame[26:34] != self._guest + self._host:
            return
        source, target, _, acknowledged, _, flags = struct.unpack("!HHIIBB", tcp[:14])
        if source != self._port or not _FIRST_PORT <= target < _FIRST_PORT + _PORTS:
            return
        if acknowledged != 1:
            return  # A connection of somebody's.
        if flags & _RST:
            self.refusals += 1
        elif flags & (_SYN | _ACK) == _SYN | _ACK:
            self._send(target, _RST, acknowledged)
            self.open = True

    def _note(self, address: bytes) -> None:
        if any(address):
            self.addresses.add(socket.inet_ntoa(address))

    def close(self) -> None:
        """Takes the filters away. Idempotent."""
        deadline = Deadline(_CLEANUP_SECONDS)
        while self._added:
            command, name = self._added.pop()
            # Gone with the machine, if it is gone.
            with suppress(QMPError):
                self._qmp.execute(command, id=name, timeout=deadline)
        self._attendance.stop()
        self._observe.close()
        self._inject.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def address_bytes(address: str) -> bytes:
    """The four bytes of an IPv4 address."""
    return socket.inet_aton(address)


def tcp_frame(
    mac: bytes, source: tuple[bytes, int], target: tuple[bytes, int], flags: int, sequence: int
) -> bytes:
    """An Ethernet frame from the host of a user-mode network, with a TCP segment without data.

    Args:
        mac: of the card that it goes to.
        source: address and port.
        target: address and port.
        flags: of TCP.
        sequence: the number of its first byte.
    """
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], sequence, 0, 5 << 4, flags, _WINDOW, 0, 0)
    pseudo = source[0] + target[0] + struct.pack("!BBH", 0, _TCP, len(tcp))
    tcp = tcp[:16] + _checksum(pseudo + tcp) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, _TTL, _TCP, 0)
    ip += source[0] + target[0]
    ip = ip[:10] + _checksum(ip) + ip[12:]
    # What QEMU gives the host of such a network for a hardware address.
    return mac + b"\x52\x55" + source[0] + struct.pack("!H", _ETHERNET_IP) + ip + tcp


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
