"""The clients, each driven the way that its own documentation shows."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.client.servers import LAST_EVENT
from benchmarks.client.timing import Kind
from pytest_qmp.qmp.aio import AsyncQMPClient
from pytest_qmp.qmp.client import QMPClient

__all__ = ["CLIENTS", "Client", "left_out", "versions"]


class Client(ABC):
    """One way to speak QMP.

    Attributes:
        name: as the tables show it.
        kind: as in ``Rival``.
        package: that has to be installed for it, or an empty text.
    """

    name: str
    kind: Kind = "peer"
    package = ""

    @abstractmethod
    def open(self, address: str) -> None:
        """Connects and negotiates."""

    @abstractmethod
    def execute(self, command: str, count: int) -> None:
        """Executes a command so many times, one after another."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection."""


class Pipelining(Client):
    """A client that can send commands before the replies to earlier ones have come."""

    @abstractmethod
    def pipeline(self, command: str, depth: int, count: int) -> None:
        """Executes it ``count`` times, in groups of ``depth`` at once."""


class EventKeeping(Client):
    """A client that can be flooded."""

    @abstractmethod
    def keep_storm(self) -> None:
        """Starts the storm, and has every event when this returns."""

    @abstractmethod
    def look(self) -> int:
        """Looks into each event that was kept; returns how many there were."""


class BareSocket(Pipelining, EventKeeping):
    """The floor: sends bytes that were made before, and reads up to the end of a line."""

    name = "bare socket, newline only"
    kind: Kind = "floor"

    def open(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(address)
        greeting = self._line()
        offered = json.loads(greeting)["QMP"]["capabilities"]
        # The others ask for it, too; QEMU is a little quicker with it.
        self._sock.sendall(
            b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}'
            if "oob" in offered
            else b'{"execute":"qmp_capabilities"}'
        )
        self._line()

    def _line(self) -> bytes:
        data = self._sock.recv(65536)
        if data[-1:] == b"\n":
            return data
        parts = [data]
        while parts[-1][-1:] != b"\n":
            parts.append(self._sock.recv(65536))
        return b"".join(parts)

    def execute(self, command: str, count: int) -> None:
        request = b'{"execute":"%s"}' % command.encode()
        for _ in range(count):
            self._sock.sendall(request)
            self._line()

    def pipeline(self, command: str, depth: int, count: int) -> None:
        request = b'{"execute":"%s"}' % command.encode()
        for _ in range(count // depth):
            self._sock.sendall(request * depth)
            owed = depth
            while owed:
                owed -= self._sock.recv(65536).count(b"\n")

    def keep_storm(self) -> None:
        self._sock.sendall(b'{"execute":"go"}')
        last = LAST_EVENT.encode()
        self._count, tail = -1, b""
        while last not in tail:
            data = self._sock.recv(65536)
            self._count += data.count(b"\n")
            tail = tail[-200:] + data[-200:]

    def look(self) -> int:
        return self._count

    def close(self) -> None:
        self._sock.close()


class BareSocketJSON(BareSocket):
    """The same, and the reply decoded."""

    name = "bare socket and json"
    kind: Kind = "step"

    def execute(self, command: str, count: int) -> None:
        for _ in range(count):
            request = json.dumps({"execute": command}, separators=(",", ":"))
            self._sock.sendall(request.encode())
            json.loads(self._line())["return"]

    def keep_storm(self) -> None:
        self._sock.sendall(b'{"execute":"go"}')
        self._events: list[dict[str, Any]] = []
        rest = b""
        while not self._events or self._events[-1].get("event") != LAST_EVENT:
            *lines, rest = (rest + self._sock.recv(65536)).split(b"\n")
            self._events.extend(map(json.loads, lines))

    def look(self) -> int:
        return sum("event" in event for event in self._events)


class Ours(Pipelining, EventKeeping):
    """pytest_qmp.QMPClient."""

    name = "QMPClient"
    kind: Kind = "ours"

    def open(self, address: str) -> None:
        self._client = QMPClient.connect(address)

    def execute(self, command: str, count: int) -> None:
        for _ in range(count):
            self._client.execute(command)

    def pipeline(self, command: str, depth: int, count: int) -> None:
        for _ in range(count // depth):
            self._client.pipeline([command] * depth)

    def keep_storm(self) -> None:
        self._client.execute("go")
        self._client.wait_for_event(LAST_EVENT)

    def look(self) -> int:
        return sum("event" in event for event in self._client.events)

    def close(self) -> None:
        self._client.close()


class OursAsync(Pipelining, EventKeeping):
    """pytest_qmp.AsyncQMPClient."""

    name = "AsyncQMPClient"
    kind: Kind = "ours"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def open(self, address: str) -> None:
        self._client = self._loop.run_until_complete(AsyncQMPClient.connect(address))

    def execute(self, command: str, count: int) -> None:
        async def calls() -> None:
            for _ in range(count):
                await self._client.execute(command)

        self._loop.run_until_complete(calls())

    def pipeline(self, command: str, depth: int, count: int) -> None:
        async def groups() -> None:
            for _ in range(count // depth):
                await self._client.pipeline([command] * depth)

        self._loop.run_until_complete(groups())

    def keep_storm(self) -> None:
        async def storm() -> None:
            await self._client.execute("go")
            await self._client.wait_for_event(LAST_EVENT)

        self._loop.run_until_complete(storm())

    def look(self) -> int:
        return sum("event" in event for event in self._client.events)

    def close(self) -> None:
        async def close() -> None:
            self._client.close()

        self._loop.run_until_complete(close())


class OursLegacy(Client):
    """pytest_qmp's QEMUMonitorProtocol."""

    name = "QEMUMonitorProtocol"
    kind: Kind = "ours"

    def open(self, address: str) -> None:
        from pytest_qmp.qmp.legacy import QEMUMonitorProtocol

        self._monitor = QEMUMonitorProtocol(address)
        self._monitor.connect()

    def execute(self, command: str, count: int) -> None:
        for _ in range(count):
            self._monitor.cmd(command)

    def close(self) -> None:
        self._monitor.close()


class QemuQmp(Pipelining, EventKeeping):
    """QMPClient of qemu.qmp, the official one."""

    name = "qemu.qmp QMPClient"
    package = "qemu.qmp"

    def __init__(self) -> None:
        self._module: Any = importlib.import_module("qemu.qmp")
        self._loop = asyncio.new_event_loop()
        self._events: list[Any] = []

    def open(self, address: str) -> None:
        async def connect() -> None:
            self._client = self._module.QMPClient()
            await self._client.connect(address)

        self._loop.run_until_complete(connect())

    def execute(self, command: str, count: int) -> None:
        async def calls() -> None:
            for _ in range(count):
                await self._client.execute(command)

        self._loop.run_until_complete(calls())

    def pipeline(self, command: str, depth: int, count: int) -> None:
        async def groups() -> None:
            for _ in range(count // depth):
                await asyncio.gather(*(self._client.execute(command) for _ in range(depth)))

        self._loop.run_until_complete(groups())

    def keep_storm(self) -> None:
        async def storm() -> None:
            await self._client.execute("go")
            self._events = []
            while not self._events or self._events[-1]["event"] != LAST_EVENT:
                self._events.append(await self._client.events.get())

        self._loop.run_until_complete(storm())

    def look(self) -> int:
        return sum("event" in event for event in self._events)

    def close(self) -> None:
        self._events = []
        self._loop.run_until_complete(self._client.disconnect())


class QemuQmpLegacy(EventKeeping):
    """QEMUMonitorProtocol of qemu.qmp."""

    name = "qemu.qmp legacy"
    package = "qemu.qmp"

    def __init__(self) -> None:
        self._module: Any = importlib.import_module("qemu.qmp.legacy")
        asyncio.set_event_loop(asyncio.new_event_loop())

    def open(self, address: str) -> None:
        self._monitor = self._module.QEMUMonitorProtocol(address)
        self._monitor.connect()

    def execute(self, command: str, count: int) -> None:
        for _ in range(count):
            self._monitor.cmd(command)

    def keep_storm(self) -> None:
        self._monitor.cmd("go")
        self._events: list[Any] = []
        while not self._events or self._events[-1]["event"] != LAST_EVENT:
            self._events.extend(self._monitor.get_events(wait=True))

    def look(self) -> int:
        return sum("event" in event for event in self._events)

    def close(self) -> None:
        self._events = []
        self._monitor.close()


class OldQmp(Client):
    """QEMUMonitorProtocol of the qmp package."""

    name = "qmp"
    package = "qmp"

    def __init__(self) -> None:
        self._module: Any = importlib.import_module("qmp")

    def open(self, address: str) -> None:
        self._monitor = self._module.QEMUMonitorProtocol(address)
        self._monitor.connect()

    def execute(self, command: str, count: int) -> None:
        for _ in range(count):
            self._monitor.command(command)

    def close(self) -> None:
        self._monitor.close()


class EmbeddedWay(Client):
    """What pytest-embedded-qemu's qmp_execute_cmd does: a loop and a connection a command.

    The package itself pins an old qemu.qmp, so this does the same with the one that is installed.
    """

    name = "pytest-embedded-qemu's way"
    package = "qemu.qmp"

    def __init__(self) -> None:
        self._module: Any = importlib.import_module("qemu.qmp")

    def open(self, address: str) -> None:
        self._address = address

    def execute(self, command: str, count: int) -> None:
        async def call() -> None:
            client = self._module.QMPClient()
            try:
                await client.connect(self._address)
                await client.execute(command)
            finally:
                await client.disconnect()

        for _ in range(count):
            asyncio.run(call())

    def close(self) -> None:
        pass


CLIENTS: tuple[type[Client], ...] = (
    BareSocket,
    BareSocketJSON,
    Ours,
    OursAsync,
    OursLegacy,
    QemuQmp,
    QemuQmpLegacy,
    OldQmp,
    EmbeddedWay,
)


def versions() -> dict[str, str]:
    """The versions of the packages that are measured and installed."""
    found = {}
    for package in sorted({"pytest-qmp", *(one.package for one in CLIENTS if one.package)}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def left_out() -> list[type[Client]]:
    """The clients whose package is not installed."""
    installed = versions()
    return [one for one in CLIENTS if one.package and one.package not in installed]
