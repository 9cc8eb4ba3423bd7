"""How a client gets to its guest agent, into sync with it, and to the reply to one command."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_qmp.errors import QMPError, QMPTimeoutError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.address import Address, AddressLike, parse_address
from pytest_qmp.qmp.agent_session import SYNC, AgentSession
from pytest_qmp.qmp.connection import BlockingConnection
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.qmp.session import Call, TranscriptEntry
from pytest_qmp.qmp.transport import SocketTransport, connect_socket
from pytest_qmp.qmp.waiting import DEFAULT, DEFAULT_TIMEOUT, DefaultTimeout, Timeout
from pytest_qmp.qmp.watched import WatchedClient
from pytest_qmp.qmp.watching import Watch
from pytest_qmp.qmp.wire import DEFAULT_MAX_MESSAGE_SIZE, show_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ConnectingAgentClient"]

_T = TypeVar("_T")

# A sync is repeated because its first bytes may have gone to an agent that was about to end, or
# to a serial port that nobody had opened. Each costs 70 bytes in a channel that nobody reads.
_FIRST_REPEAT_SECONDS = 0.25
_LONGEST_REPEAT_SECONDS = 2.0

_MORE_THAN_ANY_TEST = 1e6  # seconds; locks take no endless number

_WHAT_TO_CHECK = (
    "Check that the guest has booted, that qemu-guest-agent is installed and runs in it, that its "
    "port is named org.qemu.guest_agent.0, and that no other client is connected to it"
)


class _AgentAddress(Address):
    """An address whose advice is about the agent's channel, not about a monitor."""

    @property
    def qemu_option(self) -> str:
        where = (
            f"path={self.path}" if self.path is not None else f"host={self.host},port={self.port}"
        )
        return (
            f"-chardev socket,id=agent,{where},server=on,wait=off -device virtio-serial "
            "-device virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
        )


class ConnectingAgentClient(WatchedClient):
    """A client that connects, syncs, asks one thing after the other, and closes.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_message_size: of a reply, in bytes.
        peer: what messages call the agent; None: ``the guest agent at`` and its address.
        watch: who may end waits, as in ``watch()``.

    Attributes:
        timeout: as given; may be changed.
        explain_loss: called when the channel was closed at the other end; what it returns is
            added to the errors. None: nothing is.
    """

    def __init__(
        self,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        peer: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.timeout = timeout
        self.explain_loss: Callable[[], str] | None = None
        self._watch = watch
        self._max_message_size = max_message_size
        self._given_peer = peer
        self._peer = peer or "the guest agent"
        self._address: AddressLike | None = None
        self._connection: BlockingConnection | None = None
        self._session = AgentSession(max_message_size)
        # An agent answers one command after the other, and a sync is between two commands.
        self._turn = threading.RLock()
        self._busy = False

    @classmethod
    def connect(
        cls, address: AddressLike | socket.socket, *, timeout: Timeout = DEFAULT, **options: Any
    ) -> Self:
        """Connects and gets into sync (``guest-sync-delimited``).

        Waits for an agent that is started only later: QEMU's channel takes bytes long before.

        Args:
            address: a unix path, ``unix:PATH``, ``(host, port)``, ``HOST:PORT``, or a connected
                socket, which the client owns from here on.
            timeout: seconds for all of it together.
            options: those of the class.

        Raises:
            QMPConnectError: nobody is there, or nobody ever can be.
            QMPTimeoutError: the channel is there, but no agent answers.
            QMPDisconnectedError: the channel was closed at the other end.
        """
        __tracebackhide__ = True
        client = cls(**options)
        deadline = client._deadline(timeout)
        if isinstance(address, socket.socket):
            client._adopt(address, deadline)
        else:
            client._address = address
            client._connect(deadline)
        return client

    def reconnect(self, timeout: Timeout = DEFAULT) -> None:
        """Connects anew to the same address and gets into sync.

        An agent that was restarted inside the guest needs no new connection: ``sync()`` does.

        Raises:
            QMPError: if the client was made from a socket, which can't be had again; else as
                ``connect`` does.
        """
        __tracebackhide__ = True
        if self._address is None:
            raise QMPError(
                "this client was given a connected socket, so it knows no address to reconnect "
                "to. If only the agent in the guest was restarted, sync() is enough"
            )
        self._disconnect()
        self._connect(self._deadline(timeout))

    def sync(self, timeout: Timeout = DEFAULT) -> None:
        """Gets into sync anew: waits for an agent that answers, and drops all that came before.

        Source: ``guest-sync-delimited``. Every command does it by itself where it is needed.

        Args:
            timeout: seconds for the whole wait.

        Raises:
            QMPTimeoutError: no agent answers.
            QMPDisconnectedError: the channel was closed at the other end.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        self._in_turn(SYNC, deadline, lambda connection: self._resync(connection, deadline))

    def _connect(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        parsed = parse_address(self._address or "")
        address = _AgentAddress(parsed.path, parsed.host, parsed.port)
        self._peer = self._given_peer or f"the guest agent at {address}"
        self._adopt(connect_socket(address, deadline), deadline)

    def _adopt(self, sock: socket.socket, deadline: Deadline) -> None:
        __tracebackhide__ = True
        self._take_socket(sock)
        try:
            self.sync(deadline)
        except BaseException:
            self._disconnect()
            raise

    def _take_socket(self, sock: socket.socket) -> None:
        self._disconnect()
        session = AgentSession(self._max_message_size)
        connection = BlockingConnection(SocketTransport(sock), session, self._peer)
        connection.explain_loss = self._explain_loss
        connection.watch = self._watch
        self._session, self._connection = session, connection

    # -- one command -----------------------------------------------------------------------------

    def _ask(self, command: str, arguments: Mapping[str, Any] | None, deadline: Deadline) -> Call:
        """Sends a command, in sync, and waits for its reply, a refusal too."""
        __tracebackhide__ = True

        def ask(connection: BlockingConnection) -> Call:
            __tracebackhide__ = True
            session = self._session
            self._ensure_sync(connection, deadline)
            call = session.call(command, arguments)
            try:
                connection.send(lambda: call)
                connection.wait_for_reply(call, deadline)
            except QMPTimeoutError as error:
                session.lose_sync()
                raise QMPTimeoutError(
                    f"{error} It may be busy with it, or have ended: look at it in the guest. "
                    "What it still answers will be dropped"
                ) from None
            except BaseException:
                session.lose_sync()
                raise
            if not call.reply and session.complaint is not None:
                raise session.complaint
            return call

        return self._in_turn(command, deadline, ask)

    def _in_turn(
        self, command: str, deadline: Deadline, act: Callable[[BlockingConnection], _T]
    ) -> _T:
        __tracebackhide__ = True
        left = deadline.remaining()
        limit = _MORE_THAN_ANY_TEST if left is None else min(left, _MORE_THAN_ANY_TEST)
        held: list[bool] = []
        began = False
        try:
            # One call of C, so that no signal handler raises between the lock and the note of it.
            held.extend(map(self._turn.acquire, (True,), (limit,)))
            if not held[0]:
                raise QMPTimeoutError(
                    f"waited {deadline.words} for the turn of {command!r}: another "
                    f"thread has a command at {self._peer}, which answers one after the other. "
                    "Give that one a shorter timeout, or this one a longer"
                )
            if self._busy:
                raise QMPError(
                    f"the client of {self._peer} was used by a signal handler that interrupted "
                    "one of its waits: raise out of the handler, and use it then"
                )
            self._busy = began = True
            if self._connection is None:
                raise failures.not_connected()
            return act(self._connection)
        finally:
            if began:
                self._busy = False
            if held and held[0]:
                self._turn.release()

    def _ensure_sync(self, connection: BlockingConnection, deadline: Deadline) -> None:
        __tracebackhide__ = True
        # What has come unasked would be taken for the reply.
        connection.wait(lambda: False, Deadline(0))
        connection.require_open(f"the reply to {SYNC!r}")
        if not self._session.synced or self._session.stray is not None:
            self._resync(connection, deadline)

    def _resync(self, connection: BlockingConnection, deadline: Deadline) -> None:
        __tracebackhide__ = True
        pause = _FIRST_REPEAT_SECONDS
        while True:
            sync = connection.send(self._session.sync_call)
            left = deadline.remaining()
            attempt = Deadline(pause if left is None else min(pause, left))
            try:
                connection.wait_for_reply(sync, attempt)
                return
            except QMPTimeoutError:
                if deadline.expired:
                    awaited = f"the reply to {SYNC!r}"
                    connection.raise_unmet(awaited, deadline, self._seen_out_of_sync())
            pause = min(2 * pause, _LONGEST_REPEAT_SECONDS)

    def _seen_out_of_sync(self) -> str:
        session = self._session
        if b'"QMP"' in session.last_dropped:
            return "That is QEMU's monitor, not a guest agent: QMPClient is for that"
        if not session.dropped:
            return _WHAT_TO_CHECK
        return (
            f"{session.dropped} bytes came that are no reply to it, the last of them "
            f"{show_bytes(session.last_dropped)}. {_WHAT_TO_CHECK}"
        )

    # -- the connection itself -------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """False once either side has closed the channel, as far as was read.

        The channel is QEMU's: it stays open when the agent in the guest ends.
        """
        return self._connection is not None and self._session.failure is None

    @property
    def transcript(self) -> list[TranscriptEntry]:
        """The last bytes both ways: (``time.monotonic()``, ``>`` or ``<``, bytes)."""
        return list(self._session.transcript)

    def close(self) -> None:
        """Closes the connection. Idempotent; ends waits in other threads."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _explain_loss(self) -> str:
        return self.explain_loss() if self.explain_loss is not None else ""

    def _deadline(self, timeout: Timeout) -> Deadline:
        return limits.deadline(self.timeout if isinstance(timeout, DefaultTimeout) else timeout)

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
        state = "" if self.connected else ", not connected"
        return f"<{type(self).__name__} of {self._peer}{state}>"
