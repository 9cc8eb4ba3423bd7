"""A machine played by the fake QMP server, in this process."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from pytest_qmp.fake.server import FakeQMPServer
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.argv import build_argv
from pytest_qmp.vm.backend import Wires
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.restore_saved import SavedModel

__all__ = ["DEFAULT_EMULATION", "FakeMachine"]

DEFAULT_EMULATION = "11.1"


class FakeMachine:
    """Runs a machine on a ``FakeQMPServer``.

    Args:
        config: its arguments are the fake's, as far as it models them.
        saved: what it begins with; None: its start.

    Raises:
        FakeQMPServerError: the version is none that the fake can play.
    """

    kind = "fake"
    pid: int | None = None

    def __init__(self, config: VMConfig, saved: SavedModel | None = None) -> None:
        self.saved = saved
        self._idle: list[socket.socket] = []
        self._set_up(config)

    def _set_up(self, config: VMConfig) -> None:
        # Nothing goes over its links: their descriptors are but numbers.
        links = range(len(config.links))
        qemu = f"qemu-system-{config.arch or 'x86_64'}"
        self.argv = build_argv(config, qemu, "tcg", {}, {}, links=links)
        self._emulate = config.emulate or DEFAULT_EMULATION
        self._has_agent = config.guest_agent
        self.server = FakeQMPServer(self._emulate, args=self.argv[1:])

    @property
    def description(self) -> str:
        """Such as ``the fake QEMU 11.1``."""
        return f"the fake QEMU {self._emulate}"

    def configure(self, config: VMConfig) -> None:
        """Takes another config, before the start, and a new server with it."""
        self.server.close()
        self._set_up(config)

    def start(self, consoles: Sequence[str], deadline: Deadline) -> Wires:
        """Starts the server; its console is the first port, the others stay silent."""
        self.server.start()
        if self.saved is not None:
            self.server.put_state(self.saved.model)
        wires = Wires(
            self.server.open_monitor(),
            second_monitor=self.server.open_monitor(private=True),
            guest_agent=self.server.open_guest_agent() if self._has_agent else None,
        )
        for name in consoles:
            if not wires.consoles:
                wires.consoles[name] = self.server.open_console()
            else:
                wires.consoles[name], other = socket.socketpair()
                self._idle.append(other)
        return wires

    def wait(self, deadline: Deadline) -> int | None:
        """Waits until it would have exited; its exit status, or None at the deadline."""
        return self.server.wait_exit(deadline.remaining())

    def stderr(self) -> str:
        """The fake writes nothing."""
        return ""

    def terminate(self) -> None:
        """As SIGTERM does."""
        self.server.terminate()

    def kill(self) -> None:
        """As SIGKILL does."""
        self.server.kill()

    def close(self) -> None:
        """Ends the server. Idempotent."""
        self.server.close()
        for sock in self._idle:
            sock.close()
