"""One QMP monitor: greeting, negotiation, envelope checks, the queue. Does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .descriptors import MonitorDescriptors
from .emitter import emit, hash_ordered
from .json_parser import JSONReader, ParseFault
from .replies import CommandFailed, Manner
from .versions import Dialect

__all__ = [
    "NO_REPLY",
    "Call",
    "Executor",
    "MonitorSession",
    "Pending",
    "Reply",
    "greeting",
    "version_info",
]

_IN_BAND_QUEUE = 8
_NEGOTIATE = "qmp_capabilities"


@dataclass(frozen=True)
class Call:
    """A command that a client sent.

    Attributes:
        command: its name.
        arguments: what came with it, ``{}`` for nothing.
        id: what the client wants back with the reply, None for nothing.
        oob: it came out of band, as ``exec-oob``.
    """

    command: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: Any = None
    oob: bool = False


class Reply(NamedTuple):
    """What is sent for a command: a member of the reply, its value, and how it is sent."""

    member: str
    value: Any
    manner: Manner = Manner()

    @classmethod
    def success(cls, value: Any) -> Reply:
        return cls("return", value)

    @classmethod
    def failure(cls, failed: CommandFailed) -> Reply:
        return cls("error", {"class": failed.error_class, "desc": failed.desc})


#: The command is over, and nothing is sent for it.
NO_REPLY = Reply("", None)


class Executor(Protocol):
    """What a monitor belongs to."""

    def execute(self, call: Call, pending: Pending) -> Reply | None:
        """Carries a command out; None if ``pending.finish()`` gives the reply, later."""

    def settle(self) -> None:
        """A command has its reply: what was to come after that comes."""


class Pending:
    """A command that is being carried out, and may have its reply later."""

    def __init__(self, session: MonitorSession, message: Mapping[str, Any], oob: bool) -> None:
        self.session = session
        self._message = message
        self._in_band = 0 if oob else 1

    def finish(self, reply: Reply) -> None:
        """Sends the reply, and goes on with what has waited for it."""
        self.session.finish(self._message, reply, self._in_band)


class MonitorSession:
    """The conversation with one client, from its greeting to its end.

    Args:
        dialect: the version that is emulated.
        executor: carries the commands out.
        pretty: the ``pretty=on`` of ``-mon``.
        descriptors: those of this monitor; they outlive its clients.

    Attributes:
        outgoing: bytes to be sent, taken away by the owner.
        negotiated: the client has sent ``qmp_capabilities``; from then on it gets events.
        oob: it has enabled out-of-band execution.
        ended: the machine or the client is gone, nothing more is read or run.
        private: not a client of the test's: stubs are not for it.
        hangs_up: the owner is to close the connection.
    """

    def __init__(
        self,
        dialect: Dialect,
        executor: Executor,
        *,
        pretty: bool = False,
        descriptors: MonitorDescriptors,
    ) -> None:
        self.dialect = dialect
        self.descriptors = descriptors
        self.outgoing = bytearray()
        self.negotiated = False
        self.oob = False
        self.ended = False
        self.hangs_up = False
        self.private = False
        self._executor = executor
        self._pretty = pretty
        self._reader = JSONReader(dialect.incremental_parser)
        self._unread: deque[Any] = deque()
        self._queue: deque[Any] = deque()
        self._running = 0
        self._advancing = False
        self._taken_over: Callable[[Any], None] | None = None

    @property
    def wants_input(self) -> bool:
        """Whether there is room for more; QEMU stops reading while its queue is full."""
        return not self._unread

    def greet(self) -> None:
        """Sends the greeting."""
        self.send(greeting(self.dialect))

    def receive(self, data: bytes) -> None:
        """Takes bytes from the client, and runs what can be run."""
        self._unread.extend(self._reader.feed(data))
        self._advance()

    def send_event(self, event: Mapping[str, Any]) -> None:
        """Sends an event, if this client gets any yet."""
        if self.negotiated:
            self.send(event)

    def finish(self, message: Mapping[str, Any], reply: Reply, in_band: int) -> None:
        """Ends a command whose reply was deferred: see Pending."""
        self._running -= in_band
        self._answer(message, reply)
        self._executor.settle()
        self._advance()

    def negotiate(self, enable: list[str]) -> None:
        """What ``qmp_capabilities`` does."""
        if self.negotiated:
            raise CommandFailed(
                "Capabilities negotiation is already complete, command ignored", "CommandNotFound"
            )
        self.negotiated = True
        self.oob = "oob" in enable

    def take_over(self, answer: Callable[[Any], None]) -> None:
        """Gives every message, and what isn't one, to ``answer`` instead of carrying it out."""
        self._taken_over = answer

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while not self.ended:
                self._read_queue()
                if self._running or not self._queue:
                    break
                self._run(self._queue.popleft())
        finally:
            self._advancing = False

    def _read_queue(self) -> None:
        """Moves messages to the queue while it has room; what is out of band runs at once."""
        while self._unread and not self.ended:
            limit = _IN_BAND_QUEUE if self.oob else 1
            if len(self._queue) + self._running >= limit:
                return
            message = self._unread.popleft()
            is_oob = isinstance(message, dict) and "exec-oob" in message
            if self.oob and is_oob and "execute" not in message:
                self._run(message)
            else:
                self._queue.append(message)

    def _run(self, message: Any) -> None:
        if self._taken_over is not None:
            self._taken_over(message)
            return
        try:
            call = self._envelope(message)
            reply = self._dispatch(call, message)
        except CommandFailed as failed:
            reply = Reply.failure(failed)
        if reply is not None:
            self._answer(message, reply)
            self._executor.settle()

    def _dispatch(self, call: Call, message: Mapping[str, Any]) -> Reply | None:
        if not self.negotiated and call.command != _NEGOTIATE:
            raise CommandFailed(
                f"Expecting capabilities negotiation with '{_NEGOTIATE}'", "CommandNotFound"
            )
        reply = self._executor.execute(call, Pending(self, message, call.oob))
        if reply is None and not call.oob:
            self._running += 1
        return reply

    def _envelope(self, message: Any) -> Call:
        if isinstance(message, ParseFault):
            raise CommandFailed(message.desc)
        if not isinstance(message, dict):
            raise CommandFailed("QMP input must be a JSON object")
        command_key = ""
        for key in hash_ordered(message):
            value = message[key]
            if key == "execute" or (key == "exec-oob" and self.oob):
                if not isinstance(value, str):
                    raise CommandFailed(f"QMP input member '{key}' must be a string")
                if command_key:
                    raise CommandFailed(f"QMP input member '{key}' clashes with '{command_key}'")
                command_key = key
            elif key == "arguments":
                if not isinstance(value, dict):
                    raise CommandFailed("QMP input member 'arguments' must be an object")
            elif key != "id":
                raise CommandFailed(f"QMP input member '{key}' is unexpected")
        if not command_key:
            raise CommandFailed("QMP input lacks member 'execute'")
        return Call(
            message[command_key],
            message.get("arguments", {}),
            message.get("id"),
            command_key == "exec-oob",
        )

    def _answer(self, message: Any, reply: Reply) -> None:
        if reply is NO_REPLY:
            return
        out = {reply.member: reply.value}
        manner = reply.manner
        if manner.wrong_id is not None:
            out["id"] = manner.wrong_id[0]
        elif isinstance(message, dict) and "id" in message:
            out["id"] = message["id"]
        start = len(self.outgoing)
        for _ in range(manner.copies):
            self.send(out)
        if manner.cut_after is not None:
            del self.outgoing[min(start + manner.cut_after, len(self.outgoing) - 3) :]
            self.ended = self.hangs_up = True

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message, whatever the state."""
        text = emit(message, self._pretty)
        if self._pretty:
            text = text.replace("\n", "\r\n")
        self.outgoing += text.encode("ascii")
        self.outgoing += b"\r\n"


def greeting(dialect: Dialect) -> dict[str, Any]:
    """QEMU's first words."""
    return {"QMP": {"version": version_info(dialect), "capabilities": ["oob"]}}


def version_info(dialect: Dialect) -> dict[str, Any]:
    """What the greeting and ``query-version`` say."""
    major, minor, micro = dialect.version
    return {
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": dialect.package,
    }
