"""A listening unix socket in a directory of its own."""

from __future__ import annotations

import os
import socket
import tempfile

from pytest_qmp.keeper import client as keeper

from .channels import Channel
from .descriptors import MonitorDescriptors

__all__ = ["Listener"]

#: What fits the address of a unix socket everywhere, with its name and the end of the string.
_LONGEST_DIRECTORY = 80


class Listener:
    """Listens on a path that nobody else can reach; removed when closed.

    Args:
        descriptors: keeps what clients pass; it stays when they leave.

    Attributes:
        path: where it listens.
        client: the one client that is served; others wait until it leaves.
    """

    def __init__(self, descriptors: MonitorDescriptors) -> None:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > _LONGEST_DIRECTORY and os.access(os.sep + "tmp", os.W_OK):
            base = os.sep + "tmp"
        self._directory = keeper.make_folder("qmp-", base)
        self.path = os.path.join(self._directory, "qmp.sock")
        self.client: Channel | None = None
        self.descriptors = descriptors
        self.sock = self._listen()

    def _listen(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(self.path)
            sock.listen()
            sock.setblocking(False)
        except OSError:
            sock.close()
            keeper.remove_folder(self._directory)
            raise
        return sock

    @property
    def refuses(self) -> bool:
        """Whether clients are refused."""
        return self.sock.fileno() < 0

    def refuse(self, refuse: bool) -> None:
        """Refuses clients from now on, or takes them again."""
        if refuse:
            self.sock.close()
        elif self.refuses:
            os.unlink(self.path)
            self.sock = self._listen()

    def accept(self) -> socket.socket | None:
        """The next client, None if it has left already."""
        try:
            return self.sock.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None

    def close(self) -> None:
        """Stops listening and removes the path."""
        self.sock.close()
        self.descriptors.close()
        keeper.remove_folder(self._directory)
