"""A blocking connection: a session driven by whichever thread is waiting, with one deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from pytest_qmp.errors import QMPDisconnectedError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.session import Call, Session
from pytest_qmp.qmp.transport import SocketTransport

__all__ = ["BlockingConnection"]


class BlockingConnection:
    """Sends and waits, from any number of threads.

    There is no reader thread: of the threads that wait, one reads for all, and hands over when
    it has what it wanted. The lock is reentrant because a signal handler may call in again.

    Args:
        transport: the bytes.
        session: what they mean.
        peer: who is at the other end, for messages.
    """

    def __init__(self, transport: SocketTransport, session: Session, peer: str) -> None:
        self.session = session
        self.peer = peer
        self.explain_loss: Callable[[], str] | None = None
        self._transport = transport
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._reader: int | None = None
        self._followers = 0

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._transport.sock.fileno()

    def send(self, make: Callable[[], Call], fds: Sequence[int] = ()) -> Call:
        """Queues a command and sends as much as the kernel takes.

        Args:
            make: makes the call in the session; runs under the lock, so that the order of the
                owed replies is that of the bytes.
            fds: descriptors to pass with it (SCM_RIGHTS).

        Raises:
            QMPDisconnectedError, QMPProtocolError: if the connection is over.
        """
        with self._lock:
            self.require_open()
            call = make()
            self._transport.outbox.append((call.data, tuple(fds)))
            self._flush()
            if self._transport.outbox and self._followers:
                self._transport.wake()
        return call

    def wait_for_reply(self, call: Call, deadline: Deadline) -> None:
        """Waits until the call has its reply.

        Raises:
            QMPTimeoutError: at the deadline; the reply, should it come later, is dropped.
            QMPDisconnectedError: as soon as the peer is gone.
            QMPProtocolError: as soon as it sends what is not QMP.
        """
        __tracebackhide__ = True
        try:
            done = self.wait(lambda: call.reply is not None, deadline)
        except BaseException:
            self._abandon(call)
            raise
        if not done:
            sent = self._abandon(call)
            self._raise_unmet(f"the reply to {call.command!r}", deadline, sent=sent)

    def _abandon(self, call: Call) -> bool:
        with self._lock:
            if self._transport.withdraw(call.data):
                self.session.withdraw(call)
                return False
            self.session.abandon(call)
            return True

    def wait(self, ready: Callable[[], bool], deadline: Deadline) -> bool:
        """Reads until ``ready()`` holds.

        Args:
            ready: looks at the session; called under the lock, after each read.
            deadline: of the whole wait.

        Returns:
            True if it holds; False at the deadline, or when the connection is over.
        """
        me = threading.get_ident()
        looked = False
        while True:
            with self._lock:
                self._dispatch()
                if ready():
                    return True
                if self.session.failure is not None or (looked and deadline.expired):
                    return False
                if self._reader is not None and self._reader != me:
                    self._followers += 1
                    try:
                        self._changed.wait(deadline.remaining())
                    finally:
                        self._followers -= 1
                    looked = True
                    continue
                self._reader = me
            try:
                self._transport.wait(deadline)
            finally:
                with self._lock:
                    self._reader = None
                    self._dispatch()
                    if self._followers:
                        self._changed.notify_all()
            looked = True

    def _dispatch(self) -> None:
        inbox = self._transport.inbox
        while inbox:
            data = inbox.popleft()
            if data:
                self.session.receive(data)
            else:
                self.session.end(QMPDisconnectedError(f"{self.peer} closed the connection"))
        self._flush()

    def _flush(self) -> None:
        if self._transport.outbox and self.session.failure is None:
            try:
                self._transport.flush()
            except OSError:
                # The peer may have said why before it left: reading finds that, then the end.
                self._transport.outbox.clear()

    def require_open(self) -> None:
        """Raises the reason if the connection is over."""
        if self.session.failure is not None:
            self.raise_lost("")

    def raise_unmet(self, awaited: str, deadline: Deadline, seen: str = "") -> NoReturn:
        """Raises what fits a wait that ended without what it was for."""
        __tracebackhide__ = True
        self._raise_unmet(awaited, deadline, seen=seen)

    def _raise_unmet(
        self, awaited: str, deadline: Deadline, *, seen: str = "", sent: bool = True
    ) -> NoReturn:
        __tracebackhide__ = True
        raise failures.unmet(
            self.session,
            self.peer,
            awaited,
            deadline,
            seen=seen,
            sent=sent,
            explain=self.explain_loss,
        )

    def raise_lost(self, when: str, seen: str = "") -> NoReturn:
        """Raises the reason for which the connection is over."""
        __tracebackhide__ = True
        raise failures.lost(self.session, self.peer, when, seen, self.explain_loss)

    def poll(self) -> EventLog:
        """Takes in what has already arrived, without waiting, and returns the events."""
        with self._lock:
            idle = self._reader is None and self.session.failure is None
        if idle:
            self.wait(lambda: False, Deadline(0))
        return self.session.events

    def close(self) -> None:
        """Closes the connection; waits in other threads end at once. Idempotent."""
        with self._lock:
            self.session.end(QMPDisconnectedError(f"the connection to {self.peer} was closed here"))
            if self._reader is not None and self._reader != threading.get_ident():
                self._transport.wake()
                self._changed.wait_for(lambda: self._reader is None, timeout=1.0)
            self._changed.notify_all()
            self._transport.close()
