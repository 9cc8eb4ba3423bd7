"""The character devices of the emulated machine: which there are, who uses them, what they do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .chardev_backends import AnyBackend, Backend, PtyBackend, RingBackend, open_backend
from .chardev_line import LineChardev, read_line_chardevs
from .chardev_sockets import SocketBackend, shown_connection
from .descriptors import Descriptors
from .member_order import StringTable
from .options import Options
from .replies import CommandFailed
from .versions import Dialect

__all__ = ["Chardev", "Chardevs"]

_STACKED = (
    "hub: multiplexers and hub devices can't be stacked, check chardev '{}', "
    "chardev should not be a hub device or have 'mux=on' enabled"
)
#: Devices that leave a chardev closed until the guest opens them.
_OPENED_BY_GUEST = frozenset({"virtserialport", "usb-serial", "usb-braille"})
#: Devices that cope with another backend.
_SWAPPABLE = frozenset({"isa-serial", "pci-serial", "virtserialport", "virtconsole"})
#: Kinds that take a descriptor of QEMU's.
_WITH_DESCRIPTOR = frozenset({"file", "pipe", "serial", "pty", "socket", "udp"})
#: How many users a multiplexer takes.
_MUX_USERS = 4


@dataclass
class Chardev:
    """A character device.

    Attributes:
        label: its name.
        backend: what stands behind it.
        users: who is in front of it: devices, monitors, multiplexers.
        is_open: the user in front of it listens.
        swappable: the user copes with another backend.
        numbers: the descriptors of QEMU's that it takes.
    """

    label: str
    backend: AnyBackend
    users: list[str] = field(default_factory=list)
    is_open: bool = False
    swappable: bool = False
    numbers: list[int] = field(default_factory=list)

    @property
    def shares(self) -> bool:
        """Whether it hands out what others send, and so can't be changed."""
        return self.backend.kind in ("mux", "hub")


class _LineBackend:
    """What a command line describes; whoever serves the machine opens it."""

    def __init__(self, described: LineChardev) -> None:
        self.kind = described.kind
        self._described = described
        self.connection: Callable[[], socket.socket | None] | None = None

    @property
    def filename(self) -> str:
        address = self._described.address
        if not address:
            return self.kind
        role = ",server=on" if self._described.server else ""
        if self.connection is None and self._described.serves_client:
            return address + role
        peer = self.connection() if self.connection is not None else None
        if peer is None:
            return f"disconnected:{address}{role}"
        return shown_connection(peer, address, role)

    def close(self) -> None:
        """There is nothing open here."""


class Chardevs:
    """All of a machine's.

    Args:
        options: the command line.
        dialect: the version that is emulated.
        descriptors: that clients have passed.

    Attributes:
        monitor_path: where the server listens, if the command line does not say it.
    """

    def __init__(self, options: Options, dialect: Dialect, descriptors: Descriptors) -> None:
        self._dialect = dialect
        self._descriptors = descriptors
        self._all: dict[str, Chardev] = {}
        self._order = StringTable()
        self.monitor_path = ""
        for described in read_line_chardevs(options, dialect.version):
            self._describe(described)

    def __getitem__(self, label: str) -> Chardev:
        """The device of that name; KeyError if there is none."""
        return self._all[label]

    def __contains__(self, label: str) -> bool:
        return label in self._all

    def listed(self) -> list[Chardev]:
        """In the order in which QEMU lists them."""
        return [self._all[label] for label in reversed(list(self._order))]

    def sockets(self) -> list[Chardev]:
        """Those that can be yanked, oldest first."""
        return [chardev for chardev in self._all.values() if chardev.backend.kind == "socket"]

    @property
    def has_text_console(self) -> bool:
        """Whether one of them is a text console on the screen."""
        return any(chardev.backend.kind == "vc" for chardev in self._all.values())

    def check_free(self, label: str) -> None:
        """Raises CommandFailed if nothing more can use a device, which is there."""
        chardev = self._all[label]
        if len(chardev.users) >= (_MUX_USERS if chardev.shares else 1):
            if self._dialect.version >= (10, 0, 0):
                raise CommandFailed(f"chardev '{label}' is already in use")
            raise CommandFailed(f"Device '{label}' is in use")

    def take(self, label: str, user: str) -> None:
        """Something uses a device from now on.

        Raises:
            CommandFailed: there is none of that name, or nothing more can use it.
        """
        if label not in self._all:
            raise CommandFailed(f"Device '{label}' not found", "DeviceNotFound")
        self.check_free(label)
        self.attach(label, user)

    def attach(self, label: str, user: str, kind: str = "") -> None:
        """Something uses a device from now on; nothing happens if there is none of that name.

        Args:
            label: of the device.
            user: who, to name when it lets go.
            kind: the type of a device in the machine.
        """
        chardev = self._all.get(label)
        if chardev is not None:
            chardev.users.append(user)
            chardev.is_open = chardev.is_open or kind not in _OPENED_BY_GUEST
            chardev.swappable = kind in _SWAPPABLE

    def detach(self, user: str) -> None:
        """Somebody lets go of what it used."""
        for chardev in self._all.values():
            if user in chardev.users:
                chardev.users.remove(user)
                chardev.is_open = bool(chardev.users)

    def opened(
        self,
        label: str,
        connection: Callable[[], socket.socket | None],
        terminal: str | None = None,
    ) -> None:
        """Somebody else has opened a device of the command line.

        Args:
            label: its name.
            connection: says who is at the other end of a socket.
            terminal: the path of a pseudo-terminal.
        """
        chardev = self._all.get(label)
        if chardev is None:
            return
        if isinstance(chardev.backend, _LineBackend):
            chardev.backend.connection = connection
        elif terminal is not None:
            chardev.backend.close()
            chardev.backend = Backend(f"pty:{terminal}")

    def add(
        self,
        label: str,
        kind: str,
        data: Mapping[str, Any],
        take_named: Callable[[str], int | None],
    ) -> Chardev:
        """Adds a device, as ``chardev-add`` does; CommandFailed if it can't be."""
        if label in self._all:
            raise CommandFailed(f"Chardev with id '{label}' already exists")
        return self._put(label, self._open(label, kind, data, take_named))

    def change(
        self,
        label: str,
        kind: str,
        data: Mapping[str, Any],
        take_named: Callable[[str], int | None],
    ) -> Chardev:
        """Puts another backend behind a device; CommandFailed if that can't be."""
        chardev = self._all.get(label)
        if chardev is None:
            raise CommandFailed(f"Chardev '{label}' does not exist")
        if chardev.shares:
            if self._dialect.version >= (10, 0, 0):
                raise CommandFailed("For mux or hub device hotswap is not supported yet")
            raise CommandFailed("Mux device hotswap not supported yet")
        if not chardev.users:
            # The old one is gone even if there can't be a new one.
            self._drop(chardev)
            return self.add(label, kind, data, take_named)
        if not chardev.swappable:
            raise CommandFailed("Chardev user does not support chardev hotswap")
        backend = self._open(label, kind, data, take_named)
        self._drop(chardev)
        changed = self._put(label, backend)
        changed.users, changed.is_open, changed.swappable = chardev.users, chardev.is_open, True
        return changed

    def remove(self, label: str) -> None:
        """Takes a device away; CommandFailed if there is none, or somebody uses it."""
        chardev = self.find(label)
        if chardev.users or chardev.backend.kind == "hub":
            raise CommandFailed(f"Chardev '{label}' is busy")
        self._drop(chardev)
        for other in self._all.values():
            if _user_of(label) in other.users:
                other.users.remove(_user_of(label))

    def find(self, label: str) -> Chardev:
        """The device of that name; CommandFailed if there is none."""
        chardev = self._all.get(label)
        if chardev is None:
            raise CommandFailed(f"Chardev '{label}' not found")
        return chardev

    def ring(self, label: str) -> RingBackend:
        """The buffer behind a device; CommandFailed if there is none."""
        chardev = self._all.get(label)
        if chardev is None:
            raise CommandFailed(f"Device '{label}' not found")
        if not isinstance(chardev.backend, RingBackend):
            raise CommandFailed(f"{label} is not a ringbuf device")
        return chardev.backend

    def yank(self, label: str) -> None:
        """Cuts the connection of a socket."""
        backend = self._all[label].backend
        if isinstance(backend, SocketBackend):
            backend.yank()

    def close(self) -> None:
        """The machine ends."""
        for chardev in self._all.values():
            chardev.backend.close()

    def _describe(self, described: LineChardev) -> None:
        backend: AnyBackend
        if described.kind == "pty":
            backend = PtyBackend()
        elif described.kind in ("ringbuf", "memory"):
            backend = RingBackend(described.kind, described.size)
        elif described.is_own_monitor:
            backend = _OwnMonitor(self)
        else:
            backend = _LineBackend(described)
        # One monitor and its client are counted with every QEMU.
        chardev = self._put(described.label, backend, counted=not described.serves_client)
        chardev.users += described.users
        chardev.is_open, chardev.swappable = described.is_open, described.swappable

    def _open(
        self,
        label: str,
        kind: str,
        data: Mapping[str, Any],
        take_named: Callable[[str], int | None],
    ) -> AnyBackend:
        try:
            if kind == "mux":
                self._share(label, "mux: base chardev {} not found", [data["chardev"]])
                return Backend(kind)
            if kind == "hub":
                if not data["chardevs"]:
                    raise CommandFailed("hub: 'chardevs' list is not defined")
                self._share(label, "hub: chardev can't be found by id '{}'", data["chardevs"])
                return Backend(kind)
            if kind == "stdio" and any(c.backend.kind == kind for c in self._all.values()):
                raise CommandFailed("cannot use stdio by multiple character devices")
            return open_backend(kind, data, self._dialect, self._descriptors, take_named)
        except CommandFailed as failed:
            raise CommandFailed(f"Failed to add chardev '{label}': {failed.desc}") from failed

    def _share(self, label: str, missing: str, bases: list[str]) -> None:
        """Puts a multiplexer or hub in front of others."""
        found = []
        for base in bases:
            chardev = self._all.get(base)
            if chardev is None:
                raise CommandFailed(missing.format(base))
            if chardev.shares and missing.startswith("hub"):
                raise CommandFailed(_STACKED.format(base))
            self.check_free(base)
            found.append(chardev)
        for chardev in found:
            chardev.users.append(_user_of(label))

    def _put(self, label: str, backend: AnyBackend, *, counted: bool = True) -> Chardev:
        chardev = self._all[label] = Chardev(label, backend)
        if counted and backend.kind in _WITH_DESCRIPTOR and not isinstance(backend, _OwnMonitor):
            chardev.numbers.append(self._descriptors.numbers.take())
        self._order.add(label)
        return chardev

    def _drop(self, chardev: Chardev) -> None:
        del self._all[chardev.label]
        self._order.remove(chardev.label)
        for number in chardev.numbers:
            self._descriptors.numbers.give_back(number)
        chardev.backend.close()


class _OwnMonitor:
    """The socket that the server itself listens on."""

    kind = "socket"

    def __init__(self, chardevs: Chardevs) -> None:
        self._chardevs = chardevs

    @property
    def filename(self) -> str:
        return f"unix:{self._chardevs.monitor_path},server=on"

    def close(self) -> None:
        """The server closes it."""


def _user_of(label: str) -> str:
    return f"chardev {label}"
