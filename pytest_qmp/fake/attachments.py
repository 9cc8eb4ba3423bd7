"""What the program that takes QEMU's place does with its server beyond what a test does."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from .channels import Channel
from .core import Core
from .descriptors import MonitorDescriptors
from .links import Link, Links
from .reactor import Reactor

__all__ = ["Attachments"]


class Attachments(ABC):
    """The part of a server that puts it on the character devices of a command line."""

    _core: Core
    _links: Links
    _reactor: Reactor

    def attach_monitor(self, link: Link, *, pretty: bool = False) -> None:
        """A monitor on an open character device; each of its clients is served in turn."""
        with self._reactor.change():
            descriptors = MonitorDescriptors(self._core.machine.descriptors.numbers)

            def join(sock: socket.socket) -> Channel | None:
                greeted, link.greeted = link.greeted, False
                channel = self._add_monitor(sock, pretty, descriptors)
                if greeted and channel is not None:
                    channel.outgoing.clear()
                return channel

            self._serve(link, join)

    def attach_console(self, link: Link) -> None:
        """The first serial port on an open character device."""
        with self._reactor.change():
            self._serve(link, self._add_console)

    def attach_nothing(self, link: Link) -> None:
        """An open character device that nobody listens to: what comes is dropped."""
        with self._reactor.change():
            self._serve(link, lambda sock: self._reactor.add(sock, lambda data: None))

    def _serve(self, link: Link, join: Callable[[socket.socket], Channel | None]) -> None:
        def connection() -> socket.socket | None:
            return None if link.channel is None else link.channel.sock

        self._core.machine.chardevs.opened(link.options.id, connection, link.terminal)
        self._links.serve(link, join)

    def take_warnings(self, warn: Callable[[str], None]) -> None:
        """Gives what QEMU would write to its standard error to ``warn``."""
        self._core.machine.warn = warn

    def make_devices(self, refuse: Callable[[str, str, str], None]) -> None:
        """Makes the devices of the command line, and does what the machine does first.

        Args:
            refuse: is told the option, its value and the error, of one that can't be made.
        """
        with self._reactor.change():
            self._core.machine.refuse = refuse
            self._core.machine.devices.start()

    def settle(self) -> None:
        """Does what the machine does before anybody says anything to it."""
        with self._reactor.change():
            pass

    def finish_writing(self, limit: float) -> None:
        """After the end: waits, so many seconds at most, until files and terminals have all."""
        self._links.finish_writing(limit)

    @property
    def ended_abruptly(self) -> bool:
        """Whether QEMU ended without removing its sockets."""
        return self._core.machine.ended_abruptly

    @abstractmethod
    def _add_monitor(
        self,
        sock: socket.socket,
        pretty: bool = False,
        descriptors: MonitorDescriptors | None = None,
        *,
        private: bool = False,
    ) -> Channel | None:
        """A monitor on a connected socket; None if the machine has ended."""

    @abstractmethod
    def _add_console(self, sock: socket.socket) -> Channel | None:
        """The first serial port on a connected socket; None if the machine has ended."""
