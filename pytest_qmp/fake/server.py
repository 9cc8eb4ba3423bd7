"""FakeQMPServer: a QMP server that behaves like a QEMU, for tests that have none."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import FakeQMPServerError

from . import spying
from .channels import Channel
from .console import Console
from .core import Core
from .guest import FakeGuest
from .listener import Listener
from .monitor import Call
from .stubs import Stub

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FakeQMPServer"]


class FakeQMPServer:
    """A server that answers on QMP as a QEMU of the given version does.

    It runs in one thread of this process and has the sockets that QEMU would have. As a context
    manager it starts at once, and at the end closes and calls :meth:`check`.

    Args:
        emulate: ``"7.2"``, ``"10.0"`` or ``"11.1"``.
        args: QEMU arguments. The fake takes ``-S``, ``-name``, ``-uuid``, ``-machine`` (``-M``),
            ``-action``, ``-no-shutdown``, ``-no-reboot`` and ``-incoming`` from them.
        strict: refuse stubs and events that no QEMU of that version could have sent.

    Raises:
        FakeQMPServerError: there is no such version to emulate.

    Attributes:
        guest: does what a guest does of itself.
        calls: the commands that came, oldest first.
    """

    def __init__(
        self, emulate: str = "11.1", *, args: Sequence[str] = (), strict: bool = True
    ) -> None:
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._depth = 0
        self._core = Core(emulate, args, strict, self._schedule)
        self._console = Console(self._send_console)
        self._channels: list[Channel] = []
        self._console_channels: list[Channel] = []
        self._listener: Listener | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._exit_status: int | None = None
        self.guest = FakeGuest(self._core.machine, self._console, self._change, strict)

    def start(self) -> Self:
        """Starts the server; nothing happens if it runs already.

        Raises:
            FakeQMPServerError: it was closed.
        """
        with self._lock:
            if self._closed:
                raise FakeQMPServerError("a closed server can't be started again: make a new one")
            if self._thread is None:
                self._selector = selectors.DefaultSelector()
                self._wake = socket.socketpair()
                self._wake[0].setblocking(False)
                self._wake[1].setblocking(False)
                self._selector.register(self._wake[0], selectors.EVENT_READ)
                self._listen()
                for channel in list(self._channels):
                    self._attend(channel)
                self._thread = threading.Thread(
                    target=self._serve, name="pytest-qmp-fake", daemon=True
                )
                self._thread.start()
        return self

    def close(self) -> None:
        """Ends the server and everything that it has open; it is safe to call again."""
        with self._lock:
            self._closed = True
            if self._exit_status is None:
                self._exit_status = -9
                self._ended.notify_all()
            self._core.end_sessions()
            thread = self._thread
            self._interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            for channel in list(self._channels):
                self._drop(channel)
            if self._listener is not None:
                self._listener.close()
            if self._selector is not None and thread is not threading.current_thread():
                self._selector.close()
                self._selector = None
            if self._wake is not None:
                for end in self._wake:
                    end.close()
                self._wake = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None:
            self.check()

    @property
    def emulates(self) -> str:
        """The version that it emulates."""
        return self._core.dialect.name

    @property
    def address(self) -> str:
        """The path of a unix socket where the server listens, as QEMU's ``-qmp unix:…``.

        It takes one client at a time; others can connect, and are greeted when it is their turn.
        """
        with self._lock:
            if self._listener is None:
                if self._closed:
                    raise FakeQMPServerError("a closed server has no address")
                self._listener = Listener()
                self._listen()
            return self._listener.path

    def open_monitor(self) -> socket.socket:
        """A new monitor of its own; returns the client's end of its connection."""
        ours, theirs = socket.socketpair()
        with self._change():
            self._add_monitor(ours)
        return theirs

    def open_console(self) -> socket.socket:
        """Connects to the first serial port; returns the client's end of the connection."""
        ours, theirs = socket.socketpair()
        with self._change():
            if self._gone:
                ours.close()
                return theirs
            channel = Channel(ours, self._console.receive)
            channel.outgoing += self._console.backlog
            self._console.backlog.clear()
            self._console_channels.append(channel)
            self._channels.append(channel)
            self._attend(channel)
        return theirs

    @property
    def exit_status(self) -> int | None:
        """The exit status that QEMU would have had, None while it would still run.

        Negative for a signal; closing the server while it runs counts as SIGKILL.
        """
        return self._exit_status

    def wait_exit(self, timeout: float | None) -> int | None:
        """Waits until QEMU would have ended.

        Args:
            timeout: in seconds, None for as long as it takes.

        Returns:
            its exit status, None if it still runs at the end of ``timeout``.
        """
        with self._ended:
            self._ended.wait_for(lambda: self._exit_status is not None, timeout)
            return self._exit_status

    def terminate(self) -> None:
        """Does what SIGTERM does: SHUTDOWN with ``host-signal``, then the end, with status 0."""
        with self._change():
            if not self._gone:
                self._core.machine.end("host-signal")

    def kill(self) -> None:
        """Does what SIGKILL does: the end, at once, with status -9."""
        with self._change():
            if not self._gone:
                self._core.machine.exit_status = -9

    def on(self, command: str, /, **arguments: Any) -> Stub:
        """A stub: says what is answered to a command.

        Of several that fit, the one that asks for most arguments serves; then one that is for
        ``once()``, the oldest of these first; then the latest.

        Args:
            command: its name.
            arguments: only calls that have at least these are meant. A ``_`` in a name stands
                for ``-``, unless QEMU's own name has the ``_``.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such command or argument.
        """
        with self._lock:
            return self._core.stubs.add(command, arguments)

    def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Sends an event to every client that has negotiated.

        Args:
            name: of the event.
            data: what comes with it.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        with self._change():
            self._core.emit(name, data)

    @property
    def calls(self) -> list[Call]:
        """The commands that came so far, oldest first, those that were refused included."""
        with self._lock:
            return list(self._core.calls)

    def assert_called(self, command: str, /, **arguments: Any) -> None:
        """Fails the test unless a command came, with at least these arguments."""
        __tracebackhide__ = True
        with self._lock:
            named = self._core.stubs.named(command, arguments)
            if spying.find_calls(self._core.calls, command, named):
                return
            text = spying.never_called_text(self._core.calls, command, arguments)
        raise AssertionError(text)

    def assert_not_called(self, command: str, /, **arguments: Any) -> None:
        """Fails the test if a command came, with at least these arguments."""
        __tracebackhide__ = True
        with self._lock:
            named = self._core.stubs.named(command, arguments)
            found = spying.find_calls(self._core.calls, command, named)
        if found:
            raise AssertionError(spying.was_called_text(found, command, arguments))

    def check(self) -> None:
        """Raises what went wrong in the server since it was last asked.

        Raises:
            FakeQMPServerError: the fake, or a function given to it, raised; with the traceback.
            UnmodelledCommandError: commands came that are neither modelled nor stubbed.
        """
        with self._lock:
            self._core.check()

    @property
    def _gone(self) -> bool:
        return self._exit_status is not None

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Holds the state; what came of the change is sent at the end of the outermost one."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._settle()

    def _settle(self) -> None:
        status = self._core.machine.exit_status
        if status is not None and not self._gone:
            self._core.end_sessions()
            if self._listener is not None:
                self._unregister(self._listener.sock)
                self._listener.close()
            for channel in self._channels:
                channel.closing = True
            # Whoever sees the EOF finds the status set.
            self._exit_status = status
            self._ended.notify_all()
        for channel in list(self._channels):
            channel.flush()
            self._attend(channel)

    def _schedule(self, seconds: float, function: Callable[[], None]) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._timer_numbers), function))
        self._interrupt()

    def _interrupt(self) -> None:
        if self._wake is not None and threading.current_thread() is not self._thread:
            with suppress(BlockingIOError):
                self._wake[1].send(b"\0")

    def _serve(self) -> None:
        selector = self._selector
        while selector is not None:
            with self._lock:
                if self._closed:
                    return
                due = self._timers[0][0] if self._timers else None
            timeout = None if due is None else max(0.0, due - time.monotonic())
            ready = selector.select(timeout)
            with self._change():
                try:
                    for key, _ in ready:
                        self._handle(key)
                    self._run_timers()
                except Exception:  # noqa: BLE001 - check() raises it; the clients get an EOF
                    self._core.note_fault()
                    self._core.machine.exit_status = -6

    def _handle(self, key: selectors.SelectorKey) -> None:
        if self._wake is not None and key.fileobj is self._wake[0]:
            with suppress(BlockingIOError):
                self._wake[0].recv(4096)
        elif self._listener is not None and key.fileobj is self._listener.sock:
            client = self._listener.accept()
            if client is not None:
                self._unregister(self._listener.sock)
                self._listener.client = self._add_monitor(client)
        else:
            channel: Channel = key.data
            if channel.closed or not channel.wants_input:
                return
            if not channel.read():
                channel.closing = True

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _add_monitor(self, sock: socket.socket) -> Channel | None:
        if self._gone:
            sock.close()
            return None
        session = self._core.open_session()
        channel = Channel(sock, session.receive, session)
        self._channels.append(channel)
        self._attend(channel)
        return channel

    def _attend(self, channel: Channel) -> None:
        """Makes the selector look for what a channel waits for; drops it when it is over."""
        if channel.closing and not channel.outgoing:
            self._drop(channel)
            return
        if self._selector is None:
            return
        wanted = selectors.EVENT_READ if channel.wants_input else 0
        if channel.outgoing:
            wanted |= selectors.EVENT_WRITE
        if wanted == channel.attended:
            return
        if not wanted:
            self._selector.unregister(channel.sock)
        elif channel.attended:
            self._selector.modify(channel.sock, wanted, channel)
        else:
            self._selector.register(channel.sock, wanted, channel)
        channel.attended = wanted

    def _drop(self, channel: Channel) -> None:
        if channel.closed:
            return
        channel.closed = True
        if channel.attended:
            self._unregister(channel.sock)
        if channel.session is not None:
            self._core.close_session(channel.session)
        self._channels.remove(channel)
        if channel in self._console_channels:
            self._console_channels.remove(channel)
        channel.sock.close()
        if self._listener is not None and self._listener.client is channel:
            self._listener.client = None
            self._listen()

    def _listen(self) -> None:
        listener = self._listener
        if listener is not None and self._selector is not None and not self._gone:
            self._selector.register(listener.sock, selectors.EVENT_READ)

    def _unregister(self, sock: socket.socket) -> None:
        if self._selector is not None:
            with suppress(KeyError):
                self._selector.unregister(sock)

    def _send_console(self, data: bytes) -> None:
        if self._console_channels:
            for channel in self._console_channels:
                channel.outgoing += data
        else:
            self._console.keep(data)
