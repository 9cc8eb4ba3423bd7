"""Answers that a test writes itself, checked against what the emulated QEMU could say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.qmp.schema import Schema

from .arguments import check_value
from .emitter import emit
from .replies import CommandFailed, Manner
from .versions import Dialect

__all__ = ["Stub", "Stubs"]

_ANY_ARGUMENT = frozenset({"device_add"})
_ERROR_CLASSES = (
    "GenericError",
    "CommandNotFound",
    "DeviceNotActive",
    "DeviceNotFound",
    "KVMMissingCap",
)


class Checker:
    """Knows what a QEMU of one version could say; checks nothing when not strict."""

    def __init__(self, dialect: Dialect, schema: Callable[[], Schema], strict: bool) -> None:
        self.dialect = dialect
        self.schema = schema
        self.strict = strict

    def check_command(self, command: str) -> None:
        """Raises FakeQMPServerError if there is no such command."""
        if self.strict and not self.schema().has_command(command):
            near = _did_you_mean(self.schema().suggest_command(command))
            raise FakeQMPServerError(f"QEMU {self.dialect.name} has no command {command!r}{near}")

    def argument_name(self, command: str, keyword: str) -> tuple[str, ...]:
        """What a keyword argument of ``on()`` may be called on the wire."""
        dashed = keyword.replace("_", "-")
        spellings = (keyword,) if dashed == keyword else (dashed, keyword)
        if command in _ANY_ARGUMENT or not self.schema().has_command(command):
            return spellings
        known = self.schema().argument_names(command)
        found = tuple(name for name in spellings if name in known)
        if self.strict and not found:
            near = _did_you_mean(self.schema().suggest_argument(command, dashed))
            raise FakeQMPServerError(
                f"{command} of QEMU {self.dialect.name} takes no argument {dashed!r}{near}"
            )
        return found or spellings

    def check_reply(self, command: str, value: Any) -> None:
        """Raises FakeQMPServerError if the command could not have returned that."""
        _check_json(f"reply to {command}", value)
        if self.strict:
            ret_type = self.schema().command(command).ret_type
            self._check(f"reply to {command}", ret_type, value)

    def check_event(self, name: str, data: Mapping[str, Any] | None) -> None:
        """Raises FakeQMPServerError if there is no such event, or not with that data."""
        _check_json(f"event {name}", data)
        if not self.strict:
            return
        schema = self.schema()
        if not schema.has_event(name):
            near = _did_you_mean(schema.suggest_event(name))
            raise FakeQMPServerError(f"QEMU {self.dialect.name} has no event {name!r}{near}")
        self._check(f"event {name}", schema.event(name).arg_type, dict(data or {}))

    def check_error(self, error_class: str) -> None:
        """Raises FakeQMPServerError if QMP has no such error class."""
        if self.strict and error_class not in _ERROR_CLASSES:
            raise FakeQMPServerError(
                f"QMP has no error class {error_class!r}: it has {', '.join(_ERROR_CLASSES)}"
            )

    def _check(self, what: str, type_name: str, value: Any) -> None:
        fault = check_value(self.schema(), type_name, value)
        if fault:
            raise FakeQMPServerError(
                f"QEMU {self.dialect.name} could not have sent this {what}: {fault}; "
                f"the value was {value!r} (strict=False lets it pass)"
            )


class Stub:
    """What the server does about one command; made by ``FakeQMPServer.on()``.

    Every method returns the stub, so that they can be chained. A stub without an answer of its
    own leaves that to the model.
    """

    def __init__(
        self, checker: Checker, command: str, arguments: Sequence[tuple[tuple[str, ...], Any]]
    ) -> None:
        self.command = command
        self.seconds = 0.0
        self.disconnects = False
        self.drops_reply = False
        self.manner = Manner()
        self.limit: int | None = None
        self.used = 0
        #: Events before the reply, and after it with so many seconds between.
        self.events_before: list[tuple[str, dict[str, Any] | None]] = []
        self.events_after: list[tuple[str, dict[str, Any] | None, float]] = []
        self._checker = checker
        self._arguments = arguments
        self._answer: Callable[[dict[str, Any]], Any] | None = None
        self._value: Any = None

    def reply(self, value: Any = None) -> Stub:
        """Answers with success.

        Args:
            value: what is returned; None stands for ``{}``, as most commands return.

        Raises:
            FakeQMPServerError: the command can't return that.
        """
        value = {} if value is None else value
        self._checker.check_reply(self.command, value)
        self._answer = lambda arguments: value
        return self

    def reply_error(self, error_class: str, desc: str) -> Stub:
        """Answers with an error of a class (mostly ``"GenericError"``) and a description."""
        self._checker.check_error(error_class)

        def fail(arguments: dict[str, Any]) -> Any:
            raise CommandFailed(desc, error_class)

        self._answer = fail
        return self

    def call(self, function: Callable[[dict[str, Any]], Any]) -> Stub:
        """Answers with what a function makes of the arguments.

        Args:
            function: takes the arguments as a dict and returns the value; it may raise
                ``QMPCommandError(error_class, desc)`` to answer with an error. It runs in the
                server's thread; nothing else is answered until it returns.

        Raises:
            FakeQMPServerError: it is none.
        """
        if not callable(function):
            raise FakeQMPServerError(
                f"call() takes a function, not {function!r}: reply() answers with a value"
            )

        def checked(arguments: dict[str, Any]) -> Any:
            value = function(arguments)
            value = {} if value is None else value
            self._checker.check_reply(self.command, value)
            return value

        self._answer = checked
        return self

    def delay(self, seconds: float) -> Stub:
        """Holds the answer back; commands behind it on the same monitor wait."""
        if seconds < 0:
            raise FakeQMPServerError(f"a delay can't be negative: {seconds!r}")
        self.seconds = seconds
        return self

    def disconnect(self) -> Stub:
        """Closes the connection instead of answering."""
        self.disconnects = True
        return self

    def drop_reply(self) -> Stub:
        """Carries the command out, but never answers it."""
        self.drops_reply = True
        return self

    def duplicate_reply(self) -> Stub:
        """Sends the reply twice."""
        self.manner = self.manner._replace(copies=2)
        return self

    def wrong_id(self, value: Any = "pytest-qmp-wrong-id") -> Stub:
        """Sends the reply with this id instead of the client's, if it sent one or not."""
        self.manner = self.manner._replace(wrong_id=[value])
        return self

    def eof_mid_line(self, after: int = 10) -> Stub:
        """Sends the first bytes of the reply, then closes the connection."""
        if after < 0:
            raise FakeQMPServerError(f"a line can't be cut after {after!r} bytes")
        self.manner = self.manner._replace(cut_after=after)
        return self

    def emit_before(self, name: str, data: Mapping[str, Any] | None = None) -> Stub:
        """Sends an event before the reply, in the order of the calls.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        self._checker.check_event(name, data)
        self.events_before.append((name, None if data is None else dict(data)))
        return self

    def then_emit(
        self, name: str, data: Mapping[str, Any] | None = None, *, after: float = 0.0
    ) -> Stub:
        """Sends an event after the reply, in the order of the calls.

        Args:
            name: of the event.
            data: what comes with it.
            after: how many seconds later.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event, or not with such data.
        """
        if after < 0:
            raise FakeQMPServerError(f"an event can't come before its reply: after={after!r}")
        self._checker.check_event(name, data)
        self.events_after.append((name, None if data is None else dict(data), after))
        return self

    def once(self) -> Stub:
        """Serves one call; several such stubs serve in the order in which they were written."""
        return self.times(1)

    def times(self, count: int) -> Stub:
        """Serves so many calls; several such stubs serve in the order of writing."""
        if count < 1:
            raise FakeQMPServerError(f"a stub can't serve {count!r} calls: leave it out")
        self.limit = count
        return self

    @property
    def used_up(self) -> bool:
        """Whether it has served all the calls that it was for."""
        return self.limit is not None and self.used >= self.limit

    @property
    def has_answer(self) -> bool:
        """Whether it answers itself, rather than leave that to the model."""
        return self._answer is not None

    @property
    def specificity(self) -> int:
        """How many arguments it asks for."""
        return len(self._arguments)

    def matches(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it is for a call with these arguments."""
        return all(_has(arguments, names, value) for names, value in self._arguments)

    def answer(self, arguments: dict[str, Any]) -> Any:
        """The value to return; raises CommandFailed for an error."""
        return self._answer(arguments) if self._answer else {}


class Stubs:
    """All stubs of a server."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._stubs: list[Stub] = []

    def add(self, command: str, keywords: Mapping[str, Any]) -> Stub:
        """A new stub for a command, for calls that have at least these arguments."""
        self._checker.check_command(command)
        stub = Stub(self._checker, command, self.named(command, keywords))
        self._stubs.append(stub)
        return stub

    def named(self, command: str, keywords: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
        """Keyword arguments with the names that they may have on the wire."""
        return [
            (self._checker.argument_name(command, keyword), value)
            for keyword, value in keywords.items()
        ]

    def take(self, command: str, arguments: Mapping[str, Any]) -> Stub | None:
        """The stub that serves this call, if there is one, and counts the call."""
        found: Stub | None = None
        for stub in self._stubs:
            if stub.command != command or stub.used_up:
                continue
            if stub.matches(arguments) and (found is None or _precedes(stub, found)):
                found = stub
        if found is not None:
            found.used += 1
        return found


def _precedes(later: Stub, earlier: Stub) -> bool:
    """Whether a stub that was written later goes before one that was written earlier."""
    if later.specificity != earlier.specificity:
        return later.specificity > earlier.specificity
    if later.limit is not None or earlier.limit is not None:
        return earlier.limit is None
    return True


def _has(arguments: Mapping[str, Any], names: Sequence[str], wanted: Any) -> bool:
    return any(name in arguments and is_part_of(wanted, arguments[name]) for name in names)


def is_part_of(wanted: Any, value: Any) -> bool:
    """Whether a value is what is wanted, or an object that has at least its members."""
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return all(key in value and is_part_of(wanted[key], value[key]) for key in wanted)
    return bool(wanted == value)


def _check_json(what: str, value: Any) -> None:
    try:
        emit(value)
    except (TypeError, AttributeError, RecursionError) as error:
        raise FakeQMPServerError(f"the {what} can't be sent: {error}") from None


def _did_you_mean(names: Sequence[str]) -> str:
    return f": did you mean {' or '.join(repr(name) for name in names)}?" if names else ""
