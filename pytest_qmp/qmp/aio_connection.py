"""An asynchronous connection: a session driven by asyncio's event loop, with one deadline a wait.

The loop tells when the socket can be read; no task, stream or protocol stands in between. That is
the quickest of asyncio's ways, and the only one that can pass descriptors.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pytest_qmp.errors import QMPDisconnectedError, QMPError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.session import Call, Session
from pytest_qmp.qmp.transport import require_connected, require_passable, send_queued

__all__ = ["AsyncConnection", "pause", "release"]

_READ_SIZE = 65536
_READS_AT_ONCE = 256


class AsyncConnection:
    """Sends and waits, from any number of tasks of one event loop.

    Nothing is awaited between a change of state and what belongs to it, so that a cancellation,
    which strikes at an ``await`` only, finds all of it done or none.

    Args:
        sock: a connected stream socket; the connection owns it from here on.
        session: what the bytes mean.
        peer: who is at the other end, for messages.

    Raises:
        QMPConnectError: if the socket is not connected.
    """

    def __init__(self, sock: socket.socket, session: Session, peer: str) -> None:
        require_connected(sock)
        sock.setblocking(False)
        self.session = session
        self.peer = peer
        self.explain_loss: Callable[[], str] | None = None
        self.events_at_end: int | None = None  #: how many had come when the connection ended
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._outbox: deque[Call] = deque()
        self._writing = False
        self._replies: dict[Call, asyncio.Future[None]] = {}
        # A dict for its order: who waited first is told first.
        self._watchers: dict[asyncio.Future[None], None] = {}
        self._loop.add_reader(sock, self._read)

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._sock.fileno()

    # -- sending and receiving -------------------------------------------------------------------

    def send(
        self, make: Callable[[Session], Sequence[Call]], fds: Sequence[int] = ()
    ) -> Sequence[Call]:
        """Makes commands, and sends as much of them as the kernel takes.

        Args:
            make: makes them in the session, in their order.
            fds: descriptors to pass with each (SCM_RIGHTS).

        Raises:
            QMPDisconnectedError, QMPProtocolError: if the connection is over.
            QMPError, OSError: the descriptors can't be passed.
        """
        self.require_own_loop()
        self.require_open()
        if fds:
            require_passable(self._sock, fds)
        calls = make(self.session)
        for call in calls:
            if fds:
                call.fds = tuple(fds)
            self.session.expect(call)
            self._outbox.append(call)
        self._flush()
        return calls

    def _flush(self) -> None:
        try:
            send_queued(self._sock, self._outbox)
        except OSError as error:
            self._outbox.clear()
            # The peer may have said why before it left: reading finds that, then the end.
            if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                self.session.end(QMPDisconnectedError(f"can't send to {self.peer}: {error}"))
                self._stop()
                return
        if self._writing != bool(self._outbox):
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._sock, self._flush)
            else:
                self._loop.remove_writer(self._sock)

    def _read(self) -> int:
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        session = self.session
        owed, events = len(session.owed), session.events.total
        if data:
            session.receive(data)
        else:
            session.end(QMPDisconnectedError(f"{self.peer} closed the connection"))
        if session.failure is not None:
            self._stop()
            return 0
        settled = owed - len(session.owed)
        if settled:
            self._release_replied(settled)
        if self._watchers and (not settled or session.events.total != events):
            self._release_watchers()
        return len(data)

    def _release_replied(self, settled: int) -> None:
        # In-band replies keep their order: those who have theirs are mostly the first.
        done = []
        for call in self._replies:
            if call.reply is not None:
                done.append(call)
                if len(done) == settled:
                    break
        for call in done:
            release(self._replies.pop(call))

    def _release_watchers(self) -> None:
        for future in self._watchers:
            release(future)

    def poll(self) -> EventLog:
        """Takes in what has already arrived, without waiting, and returns the events."""
        if self.session.failure is None and _running_loop() is self._loop:
            for _ in range(_READS_AT_ONCE):
                if self._read() < _READ_SIZE:
                    break
        return self.session.events

    # -- waiting ---------------------------------------------------------------------------------

    async def wait_for_replies(self, calls: Sequence[Call], deadline: Deadline) -> None:
        """Waits until each of the calls has its reply.

        However it ends, a cancellation included, the replies that come later are dropped.

        Raises:
            QMPTimeoutError: at the deadline.
            QMPDisconnectedError: as soon as the peer is gone.
            QMPProtocolError: as soon as it sends what is not QMP.
        """
        __tracebackhide__ = True
        missing = None
        try:
            for call in calls:
                if call.reply is None and self.session.failure is None:
                    future = self._loop.create_future()
                    self._replies[call] = future
                    await pause(future, deadline)
                    if call.reply is None:
                        # What had arrived by the deadline counts, if a busy loop was late.
                        self.poll()
                if call.reply is None:
                    missing = call
                    break
        except BaseException:
            self._abandon(calls)
            raise
        if missing is not None:
            sent = missing not in self._abandon(calls)
            raise self.unmet(f"the reply to {missing.command!r}", deadline, sent=sent)

    def _abandon(self, calls: Iterable[Call]) -> list[Call]:
        unsent = []
        for call in calls:
            if call.reply is not None:
                continue
            self._replies.pop(call, None)
            if not call.sent and call in self._outbox:
                self._outbox.remove(call)
                self.session.withdraw(call)
                unsent.append(call)
            else:
                self.session.abandon(call)
        return unsent

    async def wait(self, ready: Callable[[], bool], deadline: Deadline) -> bool:
        """Waits until ``ready()`` holds.

        Args:
            ready: looks at the session; called whenever an event or a greeting may have come.
            deadline: of the whole wait.

        Returns:
            True if it holds; False at the deadline, or when the connection is over.
        """
        looked = False
        while not ready():
            if self.session.failure is not None:
                return False
            if looked and deadline.expired:
                self.poll()
                return ready()
            future = self._loop.create_future()
            self._watchers[future] = None
            try:
                await pause(future, deadline)
            finally:
                del self._watchers[future]
            looked = True
        return True

    def unmet(
        self, awaited: str, deadline: Deadline, seen: str = "", *, sent: bool = True
    ) -> QMPError:
        """What fits a wait that ended without what it was for."""
        return failures.unmet(
            self.session,
            self.peer,
            awaited,
            deadline,
            seen=seen,
            sent=sent,
            explain=self.explain_loss,
        )

    # -- its life --------------------------------------------------------------------------------

    def require_own_loop(self) -> None:
        """Raises if another event loop runs here than the one that the connection belongs to."""
        if _running_loop() is not self._loop:
            raise QMPError(
                f"the connection to {self.peer} belongs to another event loop: use a client in "
                "the asyncio loop in which it was connected, and in its thread "
                "(asyncio.run_coroutine_threadsafe gets there from another)"
            )

    def require_open(self) -> None:
        """Raises the reason if the connection is over."""
        if self.session.failure is not None:
            raise failures.lost(self.session, self.peer, explain=self.explain_loss)

    def close(self) -> None:
        """Closes the connection; waits in other tasks end at once. Idempotent."""
        if self._loop.is_running() and _running_loop() is not self._loop:
            raise QMPError(
                f"the connection to {self.peer} can't be closed from outside its event loop, "
                "which is running: call loop.call_soon_threadsafe(client.close)"
            )
        self.session.end(QMPDisconnectedError(f"the connection to {self.peer} was closed here"))
        self._stop()
        self._sock.close()

    def _stop(self) -> None:
        if self.events_at_end is None:
            self.events_at_end = self.session.events.total
        self._outbox.clear()
        if self._loop.is_closed() or self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._writing = False
        self._release_watchers()
        for future in self._replies.values():
            release(future)
        self._replies.clear()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def pause(future: asyncio.Future[None], deadline: Deadline) -> None:
    """Waits for the future to be released, or for the deadline."""
    left = deadline.remaining()
    if left is None:
        await future
        return
    # With no time left the loop still looks at its sockets once before it runs the timer.
    timer = future.get_loop().call_later(left, release, future)
    try:
        await future
    finally:
        timer.cancel()


def release(future: asyncio.Future[None]) -> None:
    """Ends a ``pause``."""
    if not future.done():
        future.set_result(None)
