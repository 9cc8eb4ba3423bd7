"""One command at a guest agent: what it returns, how it is refused, and those that say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pytest_qmp.errors import (
    QMPCommandError,
    QMPDisconnectedError,
    QMPError,
    QMPTimeoutError,
)
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.agent_connecting import ConnectingAgentClient
from pytest_qmp.qmp.agent_session import SYNC
from pytest_qmp.qmp.connection import BlockingConnection
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.messages import argument_name
from pytest_qmp.qmp.session import Call
from pytest_qmp.qmp.waiting import DEFAULT, Timeout

__all__ = ["AgentCommands"]

# By their schema (success-response: false) these say nothing when they succeed.
_SILENT = frozenset(
    {"guest-shutdown", "guest-suspend-disk", "guest-suspend-hybrid", "guest-suspend-ram"}
)
_SILENT_SECONDS = 5.0
_HINT_SECONDS = 2.0


class AgentCommands(ConnectingAgentClient):
    """A client that executes any command of the agent."""

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout = DEFAULT,
        **keywords: Any,
    ) -> Any:
        """Executes a command of the agent and waits for its reply.

        ``guest-shutdown`` and ``guest-suspend-*`` say nothing when they succeed: they return None
        once the agent answers again, the machine is gone, or there was no refusal for 5 seconds.

        Args:
            command: its name, such as ``guest-get-osinfo``.
            arguments: its arguments, named as the agent names them.
            timeout: seconds for the whole wait, that for a sync included; None: no limit.
            keywords: more arguments; ``_`` in a name stands for ``-``.

        Returns:
            What the agent returned.

        Raises:
            QMPCommandError: the agent refused it, or does not have it.
            QMPTimeoutError: no reply in time; the client stays usable.
            QMPDisconnectedError: the channel was closed at the other end.
            QMPProtocolError: the agent sent what is no reply; the client stays usable.
        """
        __tracebackhide__ = True
        if arguments is not None and not isinstance(arguments, Mapping):
            raise TypeError(
                f"the arguments of {command!r} are a dict, or keywords: not {arguments!r}"
            )
        named = {argument_name(command, key): value for key, value in keywords.items()}
        return self._execute(command, {**(arguments or {}), **named}, self._deadline(timeout))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("guest_"):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}; the agent's commands "
                "are attributes that begin with guest_"
            )
        command = name.replace("_", "-")

        def run(arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> Any:
            __tracebackhide__ = True
            return self.execute(command, arguments, **keywords)

        run.__name__ = name
        run.__doc__ = f"Executes {command}; see ``execute``."
        return run

    def ping(self, timeout: Timeout = DEFAULT) -> None:
        """Returns if the agent answers (``guest-ping``).

        Args:
            timeout: seconds for the whole wait.

        Raises:
            QMPTimeoutError, QMPDisconnectedError: as ``execute``: it does not.
        """
        __tracebackhide__ = True
        self._execute("guest-ping", {}, self._deadline(timeout))

    # -- how a command ends ----------------------------------------------------------------------

    def _execute(self, command: str, arguments: Mapping[str, Any], deadline: Deadline) -> Any:
        __tracebackhide__ = True
        if command in _SILENT:
            call = self._ask_silent(command, arguments, deadline)
        else:
            call = self._ask(command, arguments, deadline)
        reply = call.reply or {}
        if command in _SILENT and "error" not in reply:
            return None
        if "return" in reply:
            return reply["return"]
        raise self._refusal(call, deadline)

    def _follow_up(self, command: str, arguments: Mapping[str, Any], deadline: Deadline) -> Any:
        """The same for a command about what an earlier one has begun in the same agent."""
        __tracebackhide__ = True
        return self._execute(command, arguments, deadline)

    def _ask_silent(self, command: str, arguments: Mapping[str, Any], deadline: Deadline) -> Call:
        """Sends a command that is answered only when it is refused."""
        __tracebackhide__ = True

        def ask(connection: BlockingConnection) -> Call:
            __tracebackhide__ = True
            session = self._session
            # Only the silence of an agent that is there means anything.
            self._resync(connection, deadline)
            left = deadline.remaining()
            limit = Deadline(_SILENT_SECONDS if left is None else min(left, _SILENT_SECONDS))
            try:
                call = connection.send(lambda: session.call(command, arguments))
                # A guest that obeys may be gone at any moment from now on.
                with suppress(QMPTimeoutError, QMPDisconnectedError):
                    # Its reply comes next where the command has none; the number is of no interest.
                    connection.send(lambda: session.call(SYNC, {"id": 0}))
                    connection.wait_for_reply(call, limit)
            finally:
                session.lose_sync()
            return call

        return self._in_turn(command, deadline, ask)

    def _refusal(self, call: Call, deadline: Deadline) -> QMPCommandError:
        refusal = failures.refused(call)
        refusal.who = self._peer
        if refusal.error_class == "CommandNotFound":
            left = deadline.remaining()
            limit = Deadline(_HINT_SECONDS if left is None else min(left, _HINT_SECONDS))
            with suppress(QMPError, LookupError, TypeError):
                reply = self._ask("guest-info", None, limit).reply or {}
                refusal.hint = _hint(call.command, reply["return"])
        return refusal


def _hint(command: str, info: Mapping[str, Any]) -> str:
    """What an agent that does not execute a command has to say of it (``guest-info``)."""
    import difflib

    enabled = {one["name"]: one["enabled"] for one in info["supported_commands"]}
    version = f"the agent ({info['version']})"
    if command in enabled:
        if enabled[command]:
            return ""
        return (
            f"{version} has it, but it is disabled: by qemu-ga's options or its configuration in "
            "the guest (block-rpcs, allow-rpcs, blacklist), or because the file systems are "
            "frozen (guest-fsfreeze-thaw thaws them)"
        )
    # Without what is common to all: it would make any two of them look alike.
    bare = {name.removeprefix("guest-"): name for name in enabled}
    near = difflib.get_close_matches(command.removeprefix("guest-"), bare, n=3)
    if near:
        meant = " or ".join(repr(bare[name]) for name in near)
        return f"{version} has no such command; did you mean {meant}?"
    return f"{version} has no such command among its {len(enabled)}"
