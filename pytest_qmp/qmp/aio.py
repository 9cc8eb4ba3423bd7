"""The asynchronous QMP client, for asyncio."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from pytest_qmp.errors import QMPCommandError, QMPDisconnectedError, QMPError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.address import AddressLike, parse_address
from pytest_qmp.qmp.aio_connecting import AsyncListener, connect_socket
from pytest_qmp.qmp.aio_connection import AsyncConnection
from pytest_qmp.qmp.aio_waiting import AsyncEventWaiter
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.messages import Greeting, QMPVersion, argument_name, command_name
from pytest_qmp.qmp.pipeline import PipelineItem, pipeline_calls
from pytest_qmp.qmp.session import Call, Session, TranscriptEntry
from pytest_qmp.qmp.waiting import DEFAULT, DEFAULT_TIMEOUT, Timeout
from pytest_qmp.qmp.wire import DEFAULT_MAX_MESSAGE_SIZE

__all__ = ["AsyncQMPClient"]

_HINT_SECONDS = 2.0


class AsyncQMPClient(AsyncEventWaiter):
    """A connection to a QMP server, usable from any number of tasks of one asyncio event loop.

    Make one with ``connect`` or ``listen``. Any command is a method: ``await
    client.query_status()`` is ``await client.execute("query-status")``. As an asynchronous context
    manager it closes itself. A cancelled wait leaves it usable: the late reply is dropped.

    It is not thread-safe, and says so when it is used from another loop.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_message_size: of a reply, in bytes.
        max_events: how many events the history keeps.
        peer: what messages call the server; None: ``QEMU at`` and its address.

    Attributes:
        explain_loss: called when the server has closed the connection; what it returns is added
            to the errors. None: nothing is.

    >>> import asyncio
    >>> from pytest_qmp import AsyncQMPClient, FakeQMPServer
    >>> async def main(address):
    ...     async with await AsyncQMPClient.connect(address) as client:
    ...         return await client.query_status()
    >>> with FakeQMPServer() as server:
    ...     asyncio.run(main(server.address))["status"]
    'running'
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
        self._listener: AsyncListener | None = None
        self._address: AddressLike | None = None
        self._given_peer = peer
        self._peer = peer or "QEMU"
        self._commands: tuple[str, ...] | None = None
        self.explain_loss: Callable[[], str] | None = None

    # -- connecting ------------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        address: AddressLike | socket.socket,
        *,
        timeout: Timeout = DEFAULT,
        negotiate: bool = True,
        **options: Any,
    ) -> AsyncQMPClient:
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
            await client._adopt(address, deadline, negotiate)
        else:
            client._address = address
            await client._connect(deadline, negotiate)
        return client

    @classmethod
    def listen(cls, address: AddressLike, **options: Any) -> AsyncQMPClient:
        """Listens for a QEMU that connects to us; ``await accept()`` then waits for it.

        Raises:
            QMPConnectError: if the address can't be listened at.
        """
        client = cls(**options)
        client._address = address
        client._listener = AsyncListener(parse_address(address))
        return client

    async def accept(self, timeout: Timeout = DEFAULT, *, negotiate: bool = True) -> AsyncQMPClient:
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
            raise QMPError("accept() is for a client made by AsyncQMPClient.listen(address)")
        deadline = self._deadline(timeout)
        sock = await self._listener.accept(deadline)
        self._peer = self._given_peer or f"QEMU at {self._listener.address}"
        await self._adopt(sock, deadline, negotiate)
        return self

    async def reconnect(self, timeout: Timeout = DEFAULT) -> None:
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
            await self.accept(timeout)
        else:
            await self._connect(self._deadline(timeout), negotiate=True)

    async def _connect(self, deadline: Deadline, negotiate: bool) -> None:
        __tracebackhide__ = True
        address = parse_address(self._address or "")
        self._peer = self._given_peer or f"QEMU at {address}"
        await self._adopt(await connect_socket(address, deadline), deadline, negotiate)

    async def _adopt(self, sock: socket.socket, deadline: Deadline, negotiate: bool) -> None:
        __tracebackhide__ = True
        self._disconnect()
        self._commands = None
        session = Session(self._events, self._max_message_size)
        connection = AsyncConnection(sock, session, self._peer)
        connection.explain_loss = self._explain_loss
        self._connection = connection
        try:
            await self._await_greeting(connection, deadline)
            if negotiate:
                await self._negotiate(deadline)
        except BaseException:
            connection.close()
            raise

    async def _await_greeting(self, connection: AsyncConnection, deadline: Deadline) -> None:
        __tracebackhide__ = True
        session = connection.session
        met = await connection.wait(
            lambda: session.greeting is not None or session.stray is not None, deadline
        )
        if session.stray is not None:
            raise failures.stray_instead_of_greeting(session, self._peer)
        if not met:
            seen = "" if session.failure is not None else failures.ONE_CLIENT
            raise connection.unmet("the greeting", deadline, seen)

    async def negotiate(self, timeout: Timeout = DEFAULT) -> None:
        """Leaves the negotiation mode, with what the server offers of what we know (``oob``).

        Raises:
            QMPCapabilitiesError: if the server refuses.
        """
        __tracebackhide__ = True
        await self._negotiate(self._deadline(timeout))

    async def _negotiate(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        offered = self.greeting.capabilities
        arguments = {"enable": ["oob"]} if "oob" in offered else None
        call = await self._call("qmp_capabilities", arguments, deadline)
        refusal = failures.negotiation_refused(call, self._peer)
        if refusal is not None:
            raise refusal

    # -- commands --------------------------------------------------------------------------------

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout = DEFAULT,
        oob: bool = False,
        fds: Sequence[int] = (),
        **keywords: Any,
    ) -> Any:
        """Executes a command and waits for its reply.

        A wait that is cancelled leaves the command to QEMU, which may well execute it.

        Args:
            command: its name, such as ``query-status``.
            arguments: its arguments, named as QMP names them.
            timeout: seconds for the whole wait; None: no limit.
            oob: True executes out of band (``exec-oob``).
            fds: descriptors to pass with it (for ``getfd``, ``add-fd``).
            keywords: more arguments; ``_`` in a name stands for ``-``.

        Returns:
            What QEMU returned.

        Raises:
            QMPCommandError: QEMU refused it.
            QMPTimeoutError: no reply in time; the client stays usable.
            QMPDisconnectedError: QEMU is gone.
            QMPProtocolError: QEMU sent what is not QMP.
        """
        __tracebackhide__ = True
        if keywords:
            named = {argument_name(command, key): value for key, value in keywords.items()}
            arguments = {**arguments, **named} if arguments else named
        deadline = self._deadline(timeout)
        call = await self._call(command, arguments, deadline, oob=oob, fds=fds)
        reply = call.reply or {}
        if "return" in reply:
            return reply["return"]
        raise await self._refusal(call, deadline)

    async def execute_raw(
        self, message: Mapping[str, Any], *, timeout: Timeout = DEFAULT
    ) -> dict[str, Any]:
        """Sends a message as it is and returns the whole reply, an error too.

        Args:
            message: such as ``{"execute": "query-status", "id": "mine"}``.
            timeout: seconds for the whole wait.

        Raises:
            QMPTimeoutError, QMPDisconnectedError, QMPProtocolError: as ``execute``.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        connection = self._connected()
        calls = connection.send(lambda session: (session.raw_call(message),))
        await connection.wait_for_replies(calls, deadline)
        return calls[0].reply or {}

    async def pipeline(
        self,
        commands: Iterable[PipelineItem],
        *,
        timeout: Timeout = DEFAULT,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Sends many commands at once, then gathers their replies.

        All of them are executed, whatever becomes of the others.

        Args:
            commands: each a name, ``(name, arguments)``, or a dict such as
                ``{"execute": name, "arguments": {…}}``.
            timeout: seconds for all of it together.
            return_exceptions: True puts the error of a refused command in the place of its
                result; False raises the first, once all have been answered.

        Returns:
            What QEMU returned to each, in the order of the commands.

        Raises:
            QMPCommandError: QEMU refused one, unless ``return_exceptions``.
            QMPTimeoutError, QMPDisconnectedError, QMPProtocolError: as ``execute``.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        connection = self._connected()
        calls = connection.send(lambda session: pipeline_calls(session, commands))
        await connection.wait_for_replies(calls, deadline)
        results = []
        for call in calls:
            reply = call.reply or {}
            if "return" in reply:
                results.append(reply["return"])
                continue
            refusal = await self._refusal(call, deadline)
            if not return_exceptions:
                raise refusal
            results.append(refusal)
        return results

    async def _call(
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
        calls = connection.send(lambda session: (session.call(command, arguments, oob=oob),), fds)
        await connection.wait_for_replies(calls, deadline)
        return calls[0]

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        command = command_name(name)

        async def run(arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> Any:
            __tracebackhide__ = True
            return await self.execute(command, arguments, **keywords)

        run.__name__ = name
        run.__doc__ = f"Executes {command}; see ``execute``."
        return run

    async def _refusal(self, call: Call, deadline: Deadline) -> QMPCommandError:
        refusal = failures.refused(call)
        if refusal.error_class == "CommandNotFound":
            refusal.hint = await self._did_you_mean(call.command, deadline)
        return refusal

    async def _did_you_mean(self, command: str, deadline: Deadline) -> str:
        # Only a refused command pays for this question, and never more than its own time.
        if self._commands is None:
            left = deadline.remaining()
            limit = Deadline(_HINT_SECONDS if left is None else min(left, _HINT_SECONDS))
            try:
                reply = (await self._call("query-commands", None, limit)).reply or {}
                self._commands = tuple(one["name"] for one in reply["return"])
            except (QMPError, KeyError, TypeError):
                return ""
        return failures.unknown_command(command, self._commands, self.version)

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
        """Closes the connection and stops listening. Idempotent; ends waits in other tasks."""
        self._disconnect()
        if self._listener is not None:
            self._listener.close()

    async def aclose(self) -> None:
        """The same as ``close``, for what awaits it (``contextlib.aclosing``)."""
        self.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _explain_loss(self) -> str:
        return self.explain_loss() if self.explain_loss is not None else ""

    async def __aenter__(self) -> AsyncQMPClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self.connected else ", not connected"
        return f"<AsyncQMPClient of {self._peer}{state}>"
