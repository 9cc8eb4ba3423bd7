"""FakeQMPServer: a QMP server that behaves like a QEMU, for tests that have none."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import FakeQMPServerError

from .attachments import Attachments
from .channels import Channel
from .console import Console
from .copies import Copies
from .core import Core
from .descriptors import MonitorDescriptors
from .faults import Faults
from .guest import FakeGuest
from .links import Links
from .listener import Listener
from .reactor import Reactor
from .recording import read_recording
from .replay import Replay
from .spying import Spying
from .stubs import Stub
from .versions import DIALECTS

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FakeQMPServer"]

_SIGKILL, _SIGABRT = -9, -6
#: How long, in seconds, close() waits for a function that a test gave to the server.
_PATIENCE = 10.0


class FakeQMPServer(Spying, Attachments, Copies):
    """A server that answers on QMP as a QEMU of the given version does.

    It runs in one thread of this process and has the sockets that QEMU would have. As a context
    manager it starts at once, and at the end closes and calls :meth:`check`.

    Args:
        emulate: ``"7.2"``, ``"10.0"`` or ``"11.1"``.
        args: QEMU arguments: options of the machine, its devices, disks, objects and networks.
            Those that the fake does not model have no effect.
        strict: refuse stubs and events that no QEMU of that version could have sent.
        virtual_time: the machine's time stands still until :meth:`advance` moves it on. Delays of
            stubs, jobs with a speed and the like take no real time then.

    Raises:
        FakeQMPServerError: there is no such version to emulate, or QEMU would not start with
            the arguments.

    Attributes:
        guest: does what a guest does of itself.
        faults: makes the server misbehave on its connections.
        calls: the commands that came, oldest first.
    """

    def __init__(
        self,
        emulate: str = "11.1",
        *,
        args: Sequence[str] = (),
        strict: bool = True,
        virtual_time: bool = False,
    ) -> None:
        if isinstance(args, str):
            raise FakeQMPServerError(f"args is a list of arguments, not one text: {args!r}")
        self._process = os.getpid()
        self._reactor = Reactor(self._end_if_over, self._channel_dropped, self._break_down)
        self._ended = threading.Condition(self._reactor.lock)
        self._core = Core(emulate, args, strict, self._reactor.schedule, virtual_time=virtual_time)
        self._console = Console(self._send_console)
        self._console_channels: list[Channel] = []
        self._listener: Listener | None = None
        self._links = Links(self._reactor)
        self._replay: Replay | None = None
        self._exit_status: int | None = None
        self.faults = Faults(self._core, self._reactor.change, self._refuse_connections)
        self.guest = FakeGuest(self._core.machine, self._console, self._reactor.change, strict)

    @classmethod
    def replay(cls, path: str | os.PathLike[str], *, strict: bool = True) -> Self:
        """A server, not started yet, that answers as a recorded QEMU did.

        Args:
            path: what ``pytest-qmp record`` wrote.
            strict: the commands have to come as they were recorded, whatever their ids; another
                one ends the connection, and :meth:`check` tells what was expected. Otherwise
                each command is answered as the same command with the same arguments was, in
                turn, the last answer again and again.

        Raises:
            OSError: the file can't be read.
            FakeQMPServerError: it is no recording.
        """
        recording = read_recording(path)
        known = recording.version in DIALECTS
        server = cls(recording.version if known else next(reversed(DIALECTS)), strict=False)
        core = server._core
        server._replay = Replay(
            recording, strict, core.note_deviation, core.calls.append, core.machine.end_with
        )
        core.greet = server._replay.greet
        return server

    def start(self) -> Self:
        """Starts the server; nothing happens if it runs already.

        Raises:
            FakeQMPServerError: it was closed.
        """
        with self._reactor.lock:
            if self._reactor.closed:
                raise FakeQMPServerError("a closed server can't be started again: make a new one")
            self._reactor.start()
        return self

    def close(self) -> None:
        """Ends the server and everything that it has open; it is safe to call again.

        In a fork of the process that made it, nothing happens: the server runs in that one.

        Raises:
            FakeQMPServerError: a function that a test gave to the server does not return.
        """
        if self._inherited:
            return
        if not self._reactor.lock.acquire(timeout=_PATIENCE):
            raise FakeQMPServerError(
                f"the fake can't be closed: a function that was given to it (by .call() or "
                f".on_console()) has not returned for {_PATIENCE:g} s"
            )
        try:
            if self._listener is not None:
                self._reactor.stop_accepting(self._listener.sock)
                self._listener.close()
            self._links.end(remove=True)
            self._core.end_sessions()
            self._core.machine.close()
            if self._exit_status is None:
                self._exit_status = _SIGKILL
                self._ended.notify_all()
        finally:
            self._reactor.lock.release()
        self._reactor.close()

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
        with self._reactor.lock:
            return self._listen().path

    def _listen(self) -> Listener:
        if self._listener is None:
            if self._reactor.closed:
                raise FakeQMPServerError("a closed server has no address")
            self._listener = Listener(MonitorDescriptors(self._core.machine.descriptors.numbers))
            self._core.machine.chardevs.monitor_path = self._listener.path
            self._accept_next()
        return self._listener

    def open_monitor(self, *, private: bool = False) -> socket.socket:
        """A new monitor of its own; returns the client's end of its connection.

        Args:
            private: True keeps what comes on it out of ``calls`` and away from stubs and faults.
        """
        ours, theirs = socket.socketpair()
        with self._reactor.change():
            self._add_monitor(ours, private=private)
        return theirs

    def open_console(self) -> socket.socket:
        """Connects to the first serial port; returns the client's end of the connection."""
        ours, theirs = socket.socketpair()
        with self._reactor.change():
            self._add_console(ours)
        return theirs

    def open_guest_agent(self) -> socket.socket:
        """Connects to the guest agent's port; returns the client's end of the connection."""
        ours, theirs = socket.socketpair()
        with self._reactor.change():
            self.guest.agent.connected(self._reactor.add(ours, self.guest.agent.receive).outgoing)
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
        with self._reactor.change():
            if not self._gone:
                self._core.machine.end("host-signal")

    def kill(self) -> None:
        """Does what SIGKILL does: the end, at once, with status -9."""
        with self._reactor.change():
            if not self._gone:
                # There is nobody left to remove the sockets.
                self._core.machine.ended_abruptly = True
                self._core.machine.exit_status = _SIGKILL

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
        with self._reactor.lock:
            return self._core.stubs.add(command, arguments)

    def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Sends an event to every client that has negotiated.

        Args:
            name: of the event.
            data: what comes with it.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        with self._reactor.change():
            self._core.emit(name, data)

    def advance(self, seconds: float) -> None:
        """Moves the machine's time on, in no time: what falls due on the way happens.

        Delayed replies, jobs with a speed, migrations and the like go by this time.

        Args:
            seconds: how far, 0 or more.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time can't go back: advance({seconds!r})")
        with self._reactor.change():
            self._core.clock.advance(seconds)

    def check(self) -> None:
        """Raises what went wrong in the server since it was last asked.

        Raises:
            FakeQMPServerError: the fake, or a function given to it, raised; with the traceback.
            UnmodelledCommandError: commands came that are neither modelled nor stubbed.
        """
        if self._inherited:
            return
        with self._reactor.lock:
            if self._replay is not None and self._reactor.closed:
                self._replay.check_end()
            self._core.check()

    @property
    def _inherited(self) -> bool:
        # Looked at before the lock, which the thread of the parent may have held at the fork.
        return os.getpid() != self._process

    @property
    def _gone(self) -> bool:
        return self._exit_status is not None

    def _end_if_over(self) -> None:
        """Ends the connections once the machine has ended, with what is still to be sent."""
        try:
            self._core.settle()
        except Exception:  # noqa: BLE001 - kept for the test, as in the thread
            self._break_down()
        status = self._core.machine.exit_status
        if status is None or self._gone:
            return
        self._core.end_sessions()
        if self._listener is not None:
            self._reactor.stop_accepting(self._listener.sock)
            self._listener.close()
        self._links.end(remove=not self._core.machine.ended_abruptly)
        for channel in self._reactor.channels:
            channel.closing = True
        self._core.machine.close()
        # Whoever sees the EOF finds the status set.
        self._exit_status = status
        self._ended.notify_all()

    def _break_down(self) -> None:
        """Something in the fake itself raised: check() says what, the clients get an EOF."""
        self._core.note_fault()
        self._core.machine.exit_status = _SIGABRT

    def _add_monitor(
        self,
        sock: socket.socket,
        pretty: bool = False,
        descriptors: MonitorDescriptors | None = None,
        *,
        private: bool = False,
    ) -> Channel | None:
        if self._gone:
            sock.close()
            return None
        session = self._core.open_session(pretty=pretty, private=private, descriptors=descriptors)
        faults = None if private else self.faults
        channel = self._reactor.add(sock, session.receive, session, faults)
        if faults is not None and faults.turns_away():
            channel.outgoing.clear()
            channel.hang_up()
        return channel

    def _add_console(self, sock: socket.socket) -> Channel | None:
        if self._gone:
            sock.close()
            return None
        channel = self._reactor.add(sock, self._console.receive)
        channel.outgoing += self._console.backlog
        self._console.backlog.clear()
        self._console_channels.append(channel)
        return channel

    def _accept_next(self) -> None:
        if self._listener is not None and not self._gone and not self._listener.refuses:
            self._reactor.accept_from(self._listener.sock, self._accept)

    def _accept(self) -> None:
        listener = self._listener
        client = listener.accept() if listener is not None else None
        if listener is not None and client is not None:
            self._reactor.stop_accepting(listener.sock)
            listener.client = self._add_monitor(
                client, self._core.machine.options.pretty, listener.descriptors
            )

    def _refuse_connections(self, refuse: bool) -> None:
        if self._gone or (self._listener is None and not refuse):
            return
        listener = self._listen()
        self._reactor.stop_accepting(listener.sock)
        listener.refuse(refuse)
        if not refuse and listener.client is None:
            self._accept_next()

    def _channel_dropped(self, channel: Channel) -> None:
        if channel.session is not None:
            self._core.close_session(channel.session)
            # A listening monitor keeps what has a name for its next client.
            channel.session.descriptors.close_unclaimed()
            served = self._listener is not None and self._listener.client is channel
            if not served and not self._links.serves(channel):
                channel.session.descriptors.close()
        if channel in self._console_channels:
            self._console_channels.remove(channel)
        self._links.dropped(channel)
        if self._listener is not None and self._listener.client is channel:
            self._listener.client = None
            if not self._reactor.closed:
                self._accept_next()

    def _send_console(self, data: bytes) -> None:
        self._core.machine.screen.write(data)
        if self._console_channels:
            for channel in self._console_channels:
                channel.outgoing += data
        else:
            self._console.keep(data)
