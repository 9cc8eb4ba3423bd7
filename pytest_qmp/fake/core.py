"""The emulated QEMU without its sockets: monitors, commands, stubs, events, what went wrong."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_qmp.errors import FakeQMPServerError, QMPCommandError, UnmodelledCommandError
from pytest_qmp.qmp.schema import ArrayType, BuiltinType, ObjectType, Schema

from .arguments import check_arguments
from .clock import Clock
from .commands import HANDLERS, Context
from .compat_policy import PolicyCrash
from .descriptors import MonitorDescriptors
from .emitter import Encoded
from .machine import Machine
from .monitor import NO_REPLY, Call, MonitorSession, Pending, Reply
from .options import parse_options
from .preconfig import check_allowed
from .replies import CommandFailed, NotModelled
from .stubs import Checker, Stub, Stubs
from .versions import find_dialect, load_schema

__all__ = ["Core"]

_NEGOTIATE = "qmp_capabilities"
#: They don't tell whether there are any devices yet: those of a command line take time to make.
_NEED_NO_DEVICE = frozenset({_NEGOTIATE, "query-name", "query-status", "query-version", "quit"})
_SIGABRT = -6


class Core:
    """One emulated QEMU.

    Args:
        emulate: the version, ``"7.2"``, ``"10.0"`` or ``"11.1"``.
        args: QEMU's arguments.
        strict: refuse stubs and events that no QEMU of that version could have sent.
        schedule: calls a function so many seconds later.
        virtual_time: time stands still but for ``clock.advance()``.

    Attributes:
        checks_model: what the model itself says is checked like a stub; for the fake's own tests.
    """

    checks_model = False

    def __init__(
        self,
        emulate: str,
        args: Sequence[str],
        strict: bool,
        schedule: Callable[[float, Callable[[], None]], None],
        *,
        virtual_time: bool = False,
    ) -> None:
        self.dialect = find_dialect(emulate)
        self.strict = strict
        self.calls: list[Call] = []
        self.sessions: list[MonitorSession] = []
        self.clock = Clock(schedule, virtual=virtual_time)
        self.machine = Machine(parse_options(args), self.dialect, self.send_event, self.clock)
        self.policy = self.machine.policy
        self.checker = Checker(self.dialect, self.schema, strict)
        self._own_checker = Checker(self.dialect, self.schema, True)
        self.stubs = Stubs(self.checker)
        #: Says the first words to a client.
        self.greet: Callable[[MonitorSession], None] = MonitorSession.greet
        self._faults: list[str] = []
        self._deviations: list[str] = []
        self._unmodelled: dict[str, None] = {}

    def schema(self) -> Schema:
        """The schema of the emulated version."""
        return load_schema(self.dialect.name)

    def open_session(
        self,
        *,
        pretty: bool = False,
        private: bool = False,
        descriptors: MonitorDescriptors | None = None,
    ) -> MonitorSession:
        """A monitor with a client that has just connected; it is greeted."""
        session = MonitorSession(
            self.dialect,
            self,
            pretty=pretty,
            descriptors=descriptors or MonitorDescriptors(self.machine.descriptors.numbers),
        )
        session.private = private
        self.sessions.append(session)
        if private:
            session.greet()
        else:
            self.greet(session)
        return session

    def close_session(self, session: MonitorSession) -> None:
        """The client of a monitor has gone."""
        session.ended = True
        if session in self.sessions:
            self.sessions.remove(session)

    def end_sessions(self) -> None:
        """Nothing more is read or run, on any monitor."""
        for session in self.sessions:
            session.ended = True

    def emit(self, name: str, data: Mapping[str, Any] | None) -> None:
        """Sends an event that a test wrote; FakeQMPServerError if no QEMU could have."""
        self.checker.check_event(name, data)
        self.send_event(name, data)

    def send_event(self, name: str, data: Mapping[str, Any] | None) -> None:
        """Sends an event to every monitor that gets any."""
        if self.checks_model and self.strict:
            self._own_checker.check_event(name, data)
        if self.policy.hides_event(name):
            return
        event = self.event(name, data)
        for session in self.sessions:
            session.send_event(event)

    def event(self, name: str, data: Mapping[str, Any] | None) -> dict[str, Any]:
        """An event that happens now, as it is sent."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        event: dict[str, Any] = {
            "event": name,
            "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
        }
        if data:
            event["data"] = dict(data)
        return event

    def settle(self) -> None:
        """What was to come after the present command's reply, or test's action, comes."""
        self.clock.settle()

    def note_deviation(self, text: str) -> None:
        """Remembers for ``check()`` that a client did not do as it was to."""
        self._deviations.append(text)

    def note_fault(self) -> None:
        """Remembers the exception in flight for ``check()``."""
        self._faults.append(traceback.format_exc())

    def check(self) -> None:
        """Raises what went wrong since the last time; see ``FakeQMPServer.check()``."""
        faults, self._faults = self._faults, []
        unmodelled, self._unmodelled = list(self._unmodelled), {}
        deviations, self._deviations = self._deviations, []
        if faults:
            raise FakeQMPServerError(
                "pytest-qmp's fake, or a function that a test gave it, broke down:\n"
                + "\n".join(faults)
            )
        if deviations:
            raise FakeQMPServerError("\n".join(deviations))
        if unmodelled:
            stubs = "\n".join(f"  {self._stub_to_write(command)}" for command in unmodelled)
            raise UnmodelledCommandError(
                f"commands came that pytest-qmp's fake QEMU {self.dialect.name} does not model; "
                f"write a stub for each:\n{stubs}"
            )

    def execute(self, call: Call, pending: Pending) -> Reply | None:
        """Carries out a command, for a MonitorSession."""
        private = pending.session.private
        if not private:
            self.calls.append(call)
        try:
            known = self.schema().has_command(call.command)
            if known:
                if call.oob and not self.schema().command(call.command).allow_oob:
                    raise CommandFailed(f"The command {call.command} does not support OOB")
                if self.machine.preconfig:
                    check_allowed(call.command)
                self.policy.check_command(call.command)
                check_arguments(self.schema(), call.command, call.arguments)
                self.policy.check_arguments(call.command, call.arguments)
            stub = None if private else self.stubs.take(call.command, call.arguments)
            if stub is not None:
                return self._serve(stub, call, pending)
            if not known:
                raise CommandFailed(
                    f"The command {call.command} has not been found", "CommandNotFound"
                )
            return self._model(call, pending.session)
        except CommandFailed:
            raise
        except PolicyCrash:
            self.machine.abort("", _SIGABRT)
            return NO_REPLY
        except Exception:  # noqa: BLE001 - the client must get an answer, check() raises it
            return self._broken(call)
        finally:
            if self.machine.exit_status is not None:
                self.end_sessions()

    def _serve(self, stub: Stub, call: Call, pending: Pending) -> Reply | None:
        if not stub.seconds:
            return self._outcome(stub, call, pending.session)

        def later() -> None:
            if not pending.session.ended:
                pending.finish(self._outcome(stub, call, pending.session))

        self.clock.call_later(stub.seconds, later)
        return None

    def _outcome(self, stub: Stub, call: Call, session: MonitorSession) -> Reply:
        """What comes of a stub; never raises."""
        reply = NO_REPLY if stub.disconnects else self._stub_reply(stub, call, session)
        for name, data in stub.events_before:
            self.send_event(name, data)
        for name, data, seconds in stub.events_after:
            emit = functools.partial(self.send_event, name, data)
            if seconds:
                self.clock.call_later(seconds, emit)
            else:
                self.clock.call_soon(emit)
        if stub.disconnects:
            session.ended = session.hangs_up = True
        return NO_REPLY if stub.drops_reply else reply

    def _stub_reply(self, stub: Stub, call: Call, session: MonitorSession) -> Reply:
        try:
            if stub.has_answer:
                reply = Reply.success(stub.answer(call.arguments))
                if call.command == _NEGOTIATE and not session.negotiated:
                    session.negotiate(call.arguments.get("enable", []))
            else:
                reply = self._model(call, session)
        except CommandFailed as failed:
            reply = Reply.failure(failed)
        except QMPCommandError as error:
            reply = Reply.failure(CommandFailed(error.desc, error.error_class))
        except KeyboardInterrupt:
            # advance() runs what is due in the test's own thread.
            raise
        except BaseException:  # noqa: BLE001 - a test's pytest.fail() is no Exception; as above
            reply = self._broken(call)
        return reply._replace(manner=stub.manner)

    def _model(self, call: Call, session: MonitorSession) -> Reply:
        handler = HANDLERS.get(call.command)
        if handler is None:
            raise self._not_modelled(call.command, call.command)
        context = Context(self.dialect, self.machine, session)
        if call.command not in _NEED_NO_DEVICE and not self.machine.preconfig:
            self.machine.devices.start()
        try:
            value = handler(context, call.arguments)
        except NotModelled as lack:
            raise self._not_modelled(call.command, f"{lack} (in {call.command})") from lack
        if self.checks_model and not isinstance(value, Encoded):
            self._own_checker.check_reply(call.command, value)
        return Reply.success(self.policy.shown(self.schema().command(call.command).ret_type, value))

    def _not_modelled(self, command: str, what: str) -> CommandFailed:
        """The answer to what the fake does not model; check() raises it as well."""
        self._unmodelled[command] = None
        return CommandFailed(
            f"pytest-qmp's fake QEMU {self.dialect.name} does not model {what}; "
            f"write a stub for it: {self._stub_to_write(command)}"
        )

    def _broken(self, call: Call) -> Reply:
        self.note_fault()
        return Reply.failure(
            CommandFailed(
                f"pytest-qmp's fake QEMU {self.dialect.name} broke down in {call.command}; "
                "the server's check() raises the reason"
            )
        )

    def _stub_to_write(self, command: str) -> str:
        found = self.schema().type(self.schema().command(command).ret_type)
        value = "{...}"
        if isinstance(found, ObjectType) and not found.members:
            value = ""
        elif isinstance(found, ArrayType):
            value = "[...]"
        elif isinstance(found, BuiltinType) or not isinstance(found, ObjectType):
            value = "..."
        return f'server.on("{command}").reply({value})'
