"""How a blocking client gets its connection, and lets go of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPDisconnectedError, QMPError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.address import AddressLike, parse_address
from pytest_qmp.qmp.connection import BlockingConnection
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.messages import Greeting, QMPVersion
from pytest_qmp.qmp.session import Call, Session, TranscriptEntry
from pytest_qmp.qmp.transport import Listener, SocketTransport, connect_socket
from pytest_qmp.qmp.waiting import DEFAULT, DEFAULT_TIMEOUT, EventWaiter, Timeout
from pytest_qmp.qmp.watched import WatchedClient
from pytest_qmp.qmp.wire import DEFAULT_MAX_MESSAGE_SIZE

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_qmp.qmp.schema import Schema

__all__ = ["ConnectingClient"]


class ConnectingClient(EventWaiter, WatchedClient):
    """A client that connects, is connected to, reconnects and closes.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_message_size: of a reply, in bytes.
        max_events: how many events the history keeps.
        peer: what messages call the server; None: ``QEMU at`` and its address.
    """

    def __init__(
        self,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_events: int = 100_000,
        peer: str | None = None,
    ) -> None:
        super().__init__(timeout, max_events)
        self._max_message_size = max_message_size
        self._listener: Listener | None = None
        self._address: AddressLike | None = None
        self._given_peer = peer
        self._peer = peer or "QEMU"
        self.explain_loss: Callable[[], str] | None = None
        self._commands: tuple[str, ...] | None = None
        self._schema: Schema | None = None

    # -- connecting ------------------------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        address: AddressLike | socket.socket,
        *,
        timeout: Timeout = DEFAULT,
        negotiate: bool = True,
        **options: Any,
    ) -> Self:
        """Connects, reads the greeting and negotiates.

        Args:
            address: a unix path, ``unix:PATH``, ``(host, port)``, ``HOST:PORT``, or a connected
                socket, which the client owns from here on.
            timeout: seconds for all of it together; tries again until then while the server is
                not there yet.
            negotiate: False leaves out ``qmp_capabilities``; ``negotiate()`` does it later.
            options: those of the class.

        Raises:
            QMPConnectError: nobody is there, or nobody ever can be.
            QMPTimeoutError: somebody is there but does not greet.
            QMPProtocolError: what is there does not speak QMP.
            QMPCapabilitiesError: the negotiation was refused.
        """
        __tracebackhide__ = True
        client = cls(**options)
        deadline = client._deadline(timeout)
        if isinstance(address, socket.socket):
            client._adopt(address, deadline, negotiate)
        else:
            client._address = address
            client._connect(deadline, negotiate)
        return client

    @classmethod
    def listen(cls, address: AddressLike, **options: Any) -> Self:
        """Listens for a QEMU that connects to us; ``accept()`` then waits for it.

        Raises:
            QMPConnectError: if the address can't be listened at.
        """
        client = cls(**options)
        client._address = address
        client._listener = Listener(parse_address(address))
        return client

    def accept(self, timeout: Timeout = DEFAULT, *, negotiate: bool = True) -> Self:
        """Waits for QEMU to connect, reads the greeting and negotiates.

        Args:
            timeout: seconds for all of it together.
            negotiate: as in ``connect``.

        Returns:
            The client itself.

        Raises:
            QMPTimeoutError: nobody came, or did not greet.
        """
        __tracebackhide__ = True
        if self._listener is None:
            raise QMPError("accept() is for a client made by QMPClient.listen(address)")
        deadline = self._deadline(timeout)
        sock = self._listener.accept(deadline)
        self._peer = self._given_peer or f"QEMU at {self._listener.address}"
        self._adopt(sock, deadline, negotiate)
        return self

    def reconnect(self, timeout: Timeout = DEFAULT) -> None:
        """Connects anew to the same address. The history of events goes on.

        Raises:
            QMPError: if the client was made from a socket, which can't be had again; else as
                ``connect`` does.
        """
        __tracebackhide__ = True
        if self._address is None:
            raise failures.no_address()
        self._disconnect()
        if self._listener is not None:
            self.accept(timeout)
        else:
            self._connect(self._deadline(timeout), negotiate=True)

    def _connect(self, deadline: Deadline, negotiate: bool) -> None:
        __tracebackhide__ = True
        address = parse_address(self._address or "")
        self._peer = self._given_peer or f"QEMU at {address}"
        self._adopt(connect_socket(address, deadline), deadline, negotiate)

    def _adopt(self, sock: socket.socket, deadline: Deadline, negotiate: bool) -> None:
        __tracebackhide__ = True
        self._disconnect()
        self._commands = self._schema = None
        session = Session(self._events, self._max_message_size)
        connection = BlockingConnection(SocketTransport(sock), session, self._peer)
        connection.explain_loss = self._explain_loss
        connection.watch = self._watch
        self._connection = connection
        try:
            self._begin(deadline, negotiate)
        except BaseException:
            self._disconnect()
            raise

    def _begin(self, deadline: Deadline, negotiate: bool) -> None:
        __tracebackhide__ = True
        self._await_greeting(self._connected(), deadline)
        if negotiate:
            self._negotiate(deadline)

    def _await_greeting(self, connection: BlockingConnection, deadline: Deadline) -> None:
        __tracebackhide__ = True
        session = connection.session
        met = connection.wait(
            lambda: session.greeting is not None or session.stray is not None, deadline
        )
        if session.stray is not None:
            raise failures.stray_instead_of_greeting(session, self._peer)
        if not met and session.failure is not None:
            connection.raise_unmet("the greeting", deadline)
        if not met:
            connection.raise_unmet("the greeting", deadline, failures.ONE_CLIENT)

    def negotiate(self, timeout: Timeout = DEFAULT) -> None:
        """Leaves the negotiation mode, with what the server offers of what we know (``oob``).

        Raises:
            QMPCapabilitiesError: if the server refuses.
        """
        __tracebackhide__ = True
        self._negotiate(self._deadline(timeout))

    def _negotiate(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        offered = self.greeting.capabilities
        arguments = {"enable": ["oob"]} if "oob" in offered else None
        call = self._call("qmp_capabilities", arguments, deadline)
        refusal = failures.negotiation_refused(call, self._peer)
        if refusal is not None:
            raise refusal

    def _call(
        self,
        command: str,
        arguments: Mapping[str, Any] | None,
        deadline: Deadline,
        *,
        oob: bool = False,
        fds: Sequence[int] = (),
    ) -> Call:
        __tracebackhide__ = True
        connection = self._connected()
        call = connection.send(lambda: connection.session.call(command, arguments, oob=oob), fds)
        connection.wait_for_reply(call, deadline)
        return call

    # -- the connection itself -------------------------------------------------------------------

    @property
    def greeting(self) -> Greeting:
        """What the server said first.

        Raises:
            QMPDisconnectedError: if there was no connection yet.
        """
        greeting = self._connection.session.greeting if self._connection else None
        if greeting is None:
            raise QMPDisconnectedError(f"{self._peer} has not greeted: connect first")
        return greeting

    @property
    def version(self) -> QMPVersion:
        """QEMU's version, from the greeting; compares like a tuple: ``version >= (8, 0)``."""
        return self.greeting.version

    @property
    def connected(self) -> bool:
        """False once either side has closed the connection, as far as was read."""
        return self._connection is not None and self._connection.session.failure is None

    @property
    def transcript(self) -> list[TranscriptEntry]:
        """The last bytes both ways: (``time.monotonic()``, ``>`` or ``<``, bytes)."""
        return list(self._connection.session.transcript) if self._connection else []

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._connected().fileno()

    def close(self) -> None:
        """Closes the connection and stops listening. Idempotent; ends waits in other threads."""
        self._disconnect()
        if self._listener is not None:
            self._listener.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _explain_loss(self) -> str:
        return self.explain_loss() if self.explain_loss is not None else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self._peer}{'' if self.connected else ', not connected'}>"
        )
