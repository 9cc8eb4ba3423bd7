"""A blocking connection: a session driven by whichever thread is waiting, with one deadline."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NoReturn

from pytest_qmp.errors import QMPDisconnectedError, QMPError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.session import Call, Session
from pytest_qmp.qmp.transport import SocketTransport, send_queued
from pytest_qmp.qmp.watching import Watch

__all__ = ["BlockingConnection"]

# A signal that comes just before a thread goes to sleep does not wake it: Python looks for it
# when the thread wakes.
_LONGEST_SLEEP = 0.5


class _Process:
    """Which process this is, kept up to date at a fork: asking the system costs each call."""

    def __init__(self) -> None:
        self.look()
        os.register_at_fork(after_in_child=self.look)

    def look(self) -> None:
        self.id = os.getpid()


_process = _Process()


class BlockingConnection:
    """Sends and waits, from any number of threads.

    There is no reader thread: of the threads that wait, one reads for all, and hands over when
    it has what it wanted. A thread that waits for another's reading has a bell, which rings
    whenever there is news, or nobody to read.

    The lock is reentrant because a signal handler may call in again. A handler may also raise,
    anywhere: what is half done by then is undone (see ``_dispatch`` and ``send``), so that the
    connection stays usable.

    Args:
        transport: the bytes.
        session: what they mean.
        peer: who is at the other end, for messages.
    """

    def __init__(self, transport: SocketTransport, session: Session, peer: str) -> None:
        self.session = session
        self.peer = peer
        self.explain_loss: Callable[[], str] | None = None
        self.watch: Watch | None = None
        self._transport = transport
        self._lock = threading.RLock()
        self._reader: int | None = None
        self._bells: list[SimpleQueue[None]] = []
        self._busy = False
        # Handlers of signals run in the main thread, in the middle of whatever it does.
        self._main = threading.main_thread().ident
        self._depth = 0
        self._process = _process.id

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
            QMPError, OSError: the descriptors can't be passed.
        """
        __tracebackhide__ = True
        self._require_own_process()
        while True:
            with self._lock:
                if self._busy:
                    raise self._used_while_busy()
                call = make()
                if self.session.failure is None and not self._condemned(None):
                    self._send(call, fds)
                    return call
            # Not under the lock: the background needs it to tell of what follows.
            awaited = f"the reply to {call.command!r}"
            self.require_open(awaited)
            self._raise_condemned(awaited)

    def _send(self, call: Call, fds: Sequence[int]) -> None:
        if fds:
            self._transport.require_passable(fds)
            call.fds = tuple(fds)
        self._busy = True
        try:
            self.session.expect(call)
            self._transport.outbox.append(call)
            self._flush()
        except BaseException:
            self._abandon(call)
            raise
        finally:
            self._busy = False
        if self._transport.outbox and self._reader is not None:
            # The thread that reads has to send the rest, too.
            self._transport.wake()

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
            self.raise_unmet(f"the reply to {call.command!r}", deadline, sent=sent)

    def wait_for_replies(self, calls: Sequence[Call], deadline: Deadline) -> None:
        """Waits until each of the calls has its reply; raises as ``wait_for_reply``."""
        __tracebackhide__ = True
        # The last is looked at first: in-band replies come in order.
        backwards = calls[::-1]
        try:
            self.wait(lambda: all(call.reply is not None for call in backwards), deadline)
        finally:
            unanswered = [call for call in calls if call.reply is None]
            for call in unanswered:
                self._abandon(call)
        if unanswered:
            self.raise_unmet(
                f"{len(unanswered)} of {len(calls)} replies, the first of them to "
                f"{unanswered[0].command!r},",
                deadline,
            )

    def _abandon(self, call: Call) -> bool:
        with self._lock:
            if self._transport.withdraw(call):
                self.session.withdraw(call)
                return False
            self.session.abandon(call)
            return True

    def wait(
        self,
        ready: Callable[[], bool],
        deadline: Deadline,
        names: tuple[str, ...] | None = None,
    ) -> bool:
        """Reads until ``ready()`` holds.

        Args:
            ready: looks at the session; called under the lock, after each read.
            deadline: of the whole wait.
            names: of the events that are waited for; None for the reply to a command.

        Returns:
            True if it holds; False at the deadline, when the connection is over, or when the
            watch ends the wait.
        """
        self._require_own_process()
        me = threading.get_ident()
        depth = self._depth
        if me == self._main:
            self._depth = depth + 1
        try:
            return self._wait(me, ready, deadline, names)
        finally:
            if me == self._main:
                self._depth = depth
                if depth:
                    # A signal handler's: the wait that it interrupted has news, too.
                    self._transport.wake()
            if self._bells:
                # Somebody else has to read now. Twice, because an interrupt may cut it short.
                try:
                    self._ring()
                except BaseException:
                    self._ring()
                    raise

    def _wait(
        self,
        me: int,
        ready: Callable[[], bool],
        deadline: Deadline,
        names: tuple[str, ...] | None,
    ) -> bool:
        transport = self._transport
        looked = False
        backlog: int | None = None
        while True:
            reads = nested = False
            bell: SimpleQueue[None] | None = None
            try:
                with self._lock:
                    if transport.inbox or transport.outbox:
                        self._dispatch()
                    if ready():
                        return True
                    if self.session.failure is not None:
                        return False
                    nested = self._reader == me
                    others = self._reader is not None and not nested
                    condemned = self._condemned(names)
                    # What has arrived by now still counts.
                    if condemned and (others or not transport.queued()):
                        return False
                    if looked and deadline.expired:
                        # What has arrived by now still counts; what comes meanwhile does not.
                        if backlog is None:
                            backlog = 0 if others else transport.queued()
                        if others or backlog <= 0:
                            return False
                    if others:
                        bell = SimpleQueue()
                        self._bells.append(bell)
                    else:
                        self._reader = me
                        reads = True
                if bell is None:
                    transport.wait(deadline, _LONGEST_SLEEP)
                    if backlog is not None:
                        read = sum(len(data) for (data,) in transport.inbox)
                        backlog = backlog - read if read else 0
                else:
                    with suppress(Empty):
                        left = deadline.remaining()
                        bell.get(
                            timeout=_LONGEST_SLEEP if left is None else min(left, _LONGEST_SLEEP)
                        )
            finally:
                if reads:
                    self._reader = me if nested else None
                elif bell is not None and bell in self._bells:
                    self._bells.remove(bell)
            looked = True

    def look_again(self) -> None:
        """Makes each wait look at the watch anew; for any thread."""
        # Under the lock, so that nobody closes it meanwhile.
        with self._lock:
            if self.session.failure is None:
                self._transport.wake()
                self._ring()

    def _ring(self) -> None:
        for bell in list(self._bells):
            bell.put(None)

    def _dispatch(self) -> None:
        inbox = self._transport.inbox
        if inbox:
            if self._busy:
                raise self._used_while_busy()
            self._busy = True
            try:
                self._receive_all()
            finally:
                self._busy = False
        if self._transport.outbox:
            if self._busy:
                raise self._used_while_busy()
            self._flush()

    def _receive_all(self) -> None:
        # Not in the caller's try: CPython 3.13 leaves a loop's jump back out of what it covers.
        inbox = self._transport.inbox
        while inbox:
            self._receive(inbox[0])
        if self._bells:
            self._ring()

    def _receive(self, unread: tuple[bytes]) -> None:
        inbox = self._transport.inbox
        session = self.session
        before = session.checkpoint()
        try:
            if data := unread[0]:
                session.receive(data)
            else:
                session.end(QMPDisconnectedError(f"{self.peer} closed the connection"))
            inbox.popleft()
        except BaseException:
            if inbox and inbox[0] is unread:
                session.restore(before)
            raise

    def _flush(self) -> None:
        if self.session.failure is None:
            try:
                send_queued(self._transport.sock, self._transport.outbox)
            except OSError as error:
                self._transport.outbox.clear()
                # The peer may have said why before it left: reading finds that, then the end.
                if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                    self.session.end(QMPDisconnectedError(f"can't send to {self.peer}: {error}"))

    def _used_while_busy(self) -> QMPError:
        return QMPError(
            f"the connection to {self.peer} was used by a signal handler that interrupted it "
            "between a command and its bookkeeping: raise out of the handler, and use it then"
        )

    def _require_own_process(self) -> None:
        # Before the lock, which another thread of the parent may have held at the fork.
        if _process.id != self._process:
            raise QMPError(
                f"the connection to {self.peer} belongs to process {self._process}, of which this "
                "one is a fork: two of them would take each other's replies. Connect anew here"
            )

    def require_open(self, awaited: str) -> None:
        """Raises the reason if the connection is over."""
        __tracebackhide__ = True
        if self.session.failure is not None:
            self._raise_condemned(awaited)
            raise failures.lost(self.session, self.peer, explain=self.explain_loss)

    def require_unwatched(self, awaited: str, names: tuple[str, ...] = ()) -> None:
        """Raises what the watch has to say, if a wait for events has to end."""
        __tracebackhide__ = True
        if self._condemned(names):
            self._raise_condemned(awaited)

    def _condemned(self, names: tuple[str, ...] | None) -> bool:
        watch = self.watch
        return watch is not None and watch.pending and watch.ends(names)

    def raise_unmet(
        self, awaited: str, deadline: Deadline, seen: str = "", *, sent: bool = True
    ) -> NoReturn:
        """Raises what fits a wait that ended without what it was for."""
        __tracebackhide__ = True
        if self.watch is not None and (self.watch.pending or self.session.failure is not None):
            self._raise_condemned(awaited)
        raise failures.unmet(
            self.session,
            self.peer,
            awaited,
            deadline,
            seen=seen,
            sent=sent,
            explain=self.explain_loss,
        )

    def _raise_condemned(self, awaited: str) -> None:
        __tracebackhide__ = True
        gone = isinstance(self.session.failure, QMPDisconnectedError)
        error = self.watch.error(awaited, gone=gone) if self.watch is not None else None
        if error is not None:
            raise error

    def poll(self) -> EventLog:
        """Takes in what has already arrived, without waiting, and returns the events."""
        with self._lock:
            others = self._reader not in (None, threading.get_ident())
            idle = not others and not self._busy and self.session.failure is None
        if idle:
            self.wait(lambda: False, Deadline(0))
        return self.session.events

    def close(self) -> None:
        """Closes the connection; waits in other threads end at once. Idempotent.

        In a fork it closes the copies of the descriptors, and the parent's connection stays.
        """
        if _process.id != self._process:
            self._transport.close()
            return
        with self._lock:
            self.session.end(QMPDisconnectedError(f"the connection to {self.peer} was closed here"))
            if self._reader not in (None, threading.get_ident()):
                self._transport.wake()
        self._wait_until_unread(Deadline(1.0))
        with self._lock:
            self._ring()
            self._transport.close()

    def _wait_until_unread(self, deadline: Deadline) -> None:
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.append(bell)
        try:
            self._await_bell(bell, deadline)
        finally:
            self._bells.remove(bell)

    def _await_bell(self, bell: SimpleQueue[None], deadline: Deadline) -> None:
        while self._reader not in (None, threading.get_ident()) and not deadline.expired:
            with suppress(Empty):
                bell.get(timeout=deadline.remaining())
