"""QEMUMonitorProtocol: the class that scripts import from the old ``qmp`` package, mended.

Both of its historical surfaces are here. Where the two gave one name two meanings, the older one
stands: ``cmd`` returns the whole reply. Unlike the originals, a wait that times out leaves the
connection usable, ``wait=1`` means one second, a peer that is gone raises, ``connect`` has a
timeout, and Ctrl-C is never swallowed.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from pytest_qmp.errors import (
    QMPAddressError,
    QMPConnectError,
    QMPDisconnectedError,
    QMPTimeoutError,
)
from pytest_qmp.qmp.address import AddressLike, parse_address
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.qmp.messages import argument_name
from pytest_qmp.qmp.transport import connect_socket
from pytest_qmp.qmp.waiting import DEFAULT, Timeout

__all__ = ["QEMUMonitorProtocol"]

_CONNECT_SECONDS = 15.0
_FOREVER = True


class _Client(QMPClient):
    """A client that leaves greeting and negotiation out when told to, as for a guest agent."""

    def _begin(self, deadline: Deadline, negotiate: bool) -> None:
        __tracebackhide__ = True
        if negotiate:
            super()._begin(deadline, negotiate)


class QEMUMonitorProtocol:
    """A QMP connection, as old scripts know it.

    Args:
        address: a unix socket's path, ``(host, port)``, or a connected socket.
        server: True listens at the address, and ``accept`` waits for QEMU.
        nickname: what messages call the peer.
        timeout: seconds that a command waits for its reply; None: no limit, as ever.

    Raises:
        QMPConnectError: the address can't be one, or can't be listened at.

    >>> from pytest_qmp import FakeQMPServer, QEMUMonitorProtocol
    >>> with FakeQMPServer() as server:
    ...     qmp = QEMUMonitorProtocol(server.address)
    ...     _ = qmp.connect()
    ...     status = qmp.command("query-status")
    ...     qmp.close()
    >>> status["status"]
    'running'
    """

    def __init__(
        self,
        address: AddressLike | socket.socket,
        server: bool = False,
        nickname: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.nickname = nickname
        self._address = address
        self._timeout = timeout
        self._seen = 0
        self._client: _Client | None = None
        if server:
            if isinstance(address, socket.socket):
                raise QMPConnectError("server=True needs an address to listen at, not a socket")
            self._client = _Client.listen(address, timeout=timeout, peer=nickname)
        elif not isinstance(address, socket.socket):
            parse_address(address)

    # -- connecting ------------------------------------------------------------------------------

    def connect(self, negotiate: bool = True, timeout: Timeout = DEFAULT) -> dict[str, Any] | None:
        """Connects.

        Args:
            negotiate: True reads the greeting and negotiates; False does neither, for a server
                that does not greet, such as a guest agent.
            timeout: seconds for all of it, in which it tries again while the server is not there
                yet; None: no limit. Left out, it tries once, as ever, and then waits 15 seconds
                for the greeting.

        Returns:
            The greeting; None without negotiation.

        Raises:
            QMPConnectError: nobody is there (also an ``OSError``, as ever).
            QMPTimeoutError: somebody is there but does not greet.
            QMPCapabilitiesError, QMPProtocolError: what is there is no QMP server.
        """
        __tracebackhide__ = True
        self.close()
        address, peer = self._address, self.nickname
        if timeout is DEFAULT and not isinstance(address, socket.socket):
            where = parse_address(address)
            peer = peer or f"QEMU at {where}"
            address = connect_socket(where, Deadline(0))
        client = _Client.connect(
            address,
            timeout=_CONNECT_SECONDS if timeout is DEFAULT else timeout,
            negotiate=negotiate,
            peer=peer,
        )
        return self._use(client, negotiate)

    def accept(self, timeout: float | None = _CONNECT_SECONDS) -> dict[str, Any] | None:
        """Waits for QEMU to connect (``server=True``), reads the greeting and negotiates.

        Args:
            timeout: seconds for all of it; None: no limit.

        Returns:
            The greeting.

        Raises:
            QMPTimeoutError: nobody came, or did not greet.
        """
        __tracebackhide__ = True
        client = self._client
        if client is None:
            raise QMPConnectError("accept() is for QEMUMonitorProtocol(address, server=True)")
        return self._use(client.accept(timeout), True)

    def _use(self, client: _Client, negotiate: bool) -> dict[str, Any] | None:
        client.timeout = self._timeout
        self._client = client
        return dict(client.greeting.raw) if negotiate else None

    def close(self) -> None:
        """Closes the connection. Idempotent."""
        if self._client is not None:
            self._client.close()

    def settimeout(self, timeout: float | None) -> None:
        """Sets how long a command waits for its reply.

        Args:
            timeout: seconds; None: no limit.

        Raises:
            ValueError: for a negative number.
        """
        Deadline(timeout)
        self._timeout = timeout
        if self._client is not None:
            self._client.timeout = timeout

    def __enter__(self) -> QEMUMonitorProtocol:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- commands --------------------------------------------------------------------------------

    def cmd_obj(self, qmp_cmd: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a message as it is, such as ``{"execute": "query-status"}``.

        Returns:
            The whole reply, an error too.

        Raises:
            QMPTimeoutError: no reply within ``settimeout``; the connection stays usable.
            QMPDisconnectedError: QEMU is gone.
        """
        __tracebackhide__ = True
        return self._open().execute_raw(qmp_cmd)

    def cmd_raw(self, name: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Executes a command and returns the whole reply, an error too; raises as ``cmd_obj``."""
        __tracebackhide__ = True
        message: dict[str, Any] = {"execute": name}
        if args:
            message["arguments"] = dict(args)
        return self.cmd_obj(message)

    def cmd(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        cmd_id: object = None,
        **keywords: Any,
    ) -> Any:
        """Executes a command and returns the whole reply, an error too.

        Args:
            name: of the command.
            args: its arguments.
            cmd_id: to be echoed.
            keywords: arguments by keyword, which only the newer surface has: with them it is
                ``command``, and returns the value.

        Raises:
            QMPTimeoutError, QMPDisconnectedError: as ``cmd_obj``.
            QMPCommandError: QEMU refused it, where keywords were given.
        """
        __tracebackhide__ = True
        if keywords:
            return self.command(name, **{**(args or {}), **keywords})
        message: dict[str, Any] = {"execute": name}
        if args:
            message["arguments"] = dict(args)
        if cmd_id is not None:
            message["id"] = cmd_id
        return self.cmd_obj(message)

    def command(self, cmd: str, **kwds: Any) -> Any:
        """Executes a command and returns its value.

        Args:
            cmd: its name.
            kwds: its arguments; ``_`` in a name stands for ``-``.

        Raises:
            QMPCommandError: QEMU refused it (a ``QMPError``).
            QMPTimeoutError, QMPDisconnectedError: as ``cmd_obj``.
        """
        __tracebackhide__ = True
        arguments = {argument_name(cmd, key): value for key, value in kwds.items()}
        return self._open().execute(cmd, arguments)

    def _open(self) -> _Client:
        if self._client is None:
            raise QMPDisconnectedError("connect() first: there is no connection yet")
        return self._client

    # -- events ----------------------------------------------------------------------------------

    def pull_event(self, wait: bool | float = False) -> QMPEvent | None:
        """The next event that was not handed out yet.

        Args:
            wait: False looks once; True waits without limit; a number waits so many seconds.

        Returns:
            The event; None if there is none and nothing was to be waited for.

        Raises:
            QMPTimeoutError: none came in that time.
            QMPDisconnectedError: QEMU is gone, and none is left.
        """
        __tracebackhide__ = True
        events = self._await_events(wait)
        if self._seen >= events:
            return None
        log = self._open().events
        self._seen = max(self._seen, log.dropped)
        event = log[self._seen - log.dropped]
        self._seen += 1
        return event

    def get_events(self, wait: bool | float = False) -> list[QMPEvent]:
        """All events that were not handed out yet.

        Args:
            wait: if there is none: False returns at once; True waits for one without limit; a
                number waits so many seconds.

        Raises:
            QMPTimeoutError, QMPDisconnectedError: as ``pull_event``.
        """
        __tracebackhide__ = True
        self._await_events(wait)
        log = self._open().events
        first = max(self._seen - log.dropped, 0)
        self._seen = log.total
        return log[first:]

    def clear_events(self) -> None:
        """Forgets the events that came and were not handed out."""
        self._seen = self._open().events.total

    def _await_events(self, wait: bool | float) -> int:
        __tracebackhide__ = True
        client = self._open()
        if wait is False or client.events.total > self._seen:
            return client.events.total
        deadline = Deadline(None if wait is _FOREVER else float(wait))
        if not client.wait_for_news(self._seen, deadline):
            raise QMPTimeoutError(f"no event came within {float(wait):g} s")
        return client.events.total

    # -- the socket ------------------------------------------------------------------------------

    def get_sock_fd(self) -> int:
        """The socket's descriptor."""
        return self._open().fileno()

    def is_scm_available(self) -> bool:
        """True if descriptors can be passed: over a unix socket."""
        with _duplicate(self.get_sock_fd()) as sock:
            return sock.family == socket.AF_UNIX

    def send_fd_scm(self, fd: int) -> None:
        """Passes a descriptor, for the command that follows (``getfd``, ``add-fd``).

        Raises:
            OSError: if it can't be passed.
        """
        with _duplicate(self.get_sock_fd()) as sock:
            # A space between two commands carries it: to QEMU's parser that is nothing.
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            sock.sendmsg([b" "], ancillary)

    @staticmethod
    def parse_address(address: str) -> str | tuple[str, int]:
        """Reads ``HOST:PORT`` as a pair, and anything else as a unix socket's path.

        Raises:
            QMPAddressError: the port is none (also a ``ValueError``).
        """
        host, colon, port = address.rpartition(":")
        if not colon or "/" in address:
            return address
        if not port.isdigit():
            raise QMPAddressError(
                f"{address!r} has no number after its colon: HOST:PORT, or a path"
            )
        parsed = parse_address((host or "localhost", int(port)))
        return str(parsed.host), parsed.port


def _duplicate(fd: int) -> socket.socket:
    # A socket object of its own, so that closing it leaves the connection open.
    return socket.socket(fileno=os.dup(fd))
