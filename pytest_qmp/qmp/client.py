"""The blocking QMP client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPCommandError, QMPError
from pytest_qmp.qmp import failures
from pytest_qmp.qmp.connecting import ConnectingClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.messages import argument_name, command_name
from pytest_qmp.qmp.pipeline import PipelineItem, pipeline_calls
from pytest_qmp.qmp.session import Call
from pytest_qmp.qmp.waiting import DEFAULT, Timeout

if TYPE_CHECKING:
    from pytest_qmp.qmp.schema import Schema

__all__ = ["QMPClient"]


_HINT_SECONDS = 2.0


class QMPClient(ConnectingClient):
    """A connection to a QMP server, usable from any number of threads.

    Make one with ``connect`` or ``listen``. Any command is a method: ``client.query_status()`` is
    ``client.execute("query-status")``. As a context manager it closes itself.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_message_size: of a reply, in bytes.
        max_events: how many events the history keeps.
        peer: what messages call the server; None: ``QEMU at`` and its address.

    >>> from pytest_qmp import FakeQMPServer, QMPClient
    >>> with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
    ...     client.query_status()["status"]
    'running'
    """

    # -- commands --------------------------------------------------------------------------------

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout = DEFAULT,
        oob: bool = False,
        fds: Sequence[int] = (),
        **keywords: Any,
    ) -> Any:
        """Executes a command and waits for its reply.

        Args:
            command: its name, such as ``query-status``.
            arguments: its arguments, named as QMP names them.
            timeout: seconds for the whole wait; None: no limit.
            oob: True executes out of band (``exec-oob``).
            fds: descriptors to pass with it (for ``getfd``, ``add-fd``).
            keywords: more arguments; ``_`` in a name stands for ``-``.

        Returns:
            What QEMU returned.

        Raises:
            QMPCommandError: QEMU refused it.
            QMPTimeoutError: no reply in time; the client stays usable.
            QMPDisconnectedError: QEMU is gone.
            QMPProtocolError: QEMU sent what is not QMP.
        """
        __tracebackhide__ = True
        if keywords:
            named = {argument_name(command, key): value for key, value in keywords.items()}
            arguments = {**arguments, **named} if arguments else named
        elif arguments is not None and not isinstance(arguments, Mapping):
            raise TypeError(
                f"the arguments of {command!r} are a dict, or keywords: not {arguments!r}"
            )
        deadline = self._deadline(timeout)
        call = self._call(command, arguments, deadline, oob=oob, fds=fds)
        reply = call.reply or {}
        if "return" in reply:
            return reply["return"]
        raise self._refusal(call, deadline)

    def execute_raw(
        self, message: Mapping[str, Any], *, timeout: Timeout = DEFAULT
    ) -> dict[str, Any]:
        """Sends a message as it is and returns the whole reply, an error too.

        Args:
            message: such as ``{"execute": "query-status", "id": "mine"}``.
            timeout: seconds for the whole wait.

        Raises:
            QMPTimeoutError, QMPDisconnectedError, QMPProtocolError: as ``execute``.
        """
        __tracebackhide__ = True
        connection = self._connected()
        call = connection.send(lambda: connection.session.raw_call(message))
        connection.wait_for_reply(call, self._deadline(timeout))
        return call.reply or {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        command = command_name(name)

        def run(arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> Any:
            __tracebackhide__ = True
            return self.execute(command, arguments, **keywords)

        run.__name__ = name
        run.__doc__ = f"Executes {command}; see ``execute``."
        return run

    def pipeline(
        self,
        commands: Iterable[PipelineItem],
        *,
        timeout: Timeout = DEFAULT,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Sends many commands at once, then gathers their replies.

        All of them are executed, whatever becomes of the others.

        Args:
            commands: each a name, ``(name, arguments)``, or a dict such as
                ``{"execute": name, "arguments": {…}}``.
            timeout: seconds for all of it together.
            return_exceptions: True puts the error of a refused command in the place of its
                result; False raises the first, once all have been answered.

        Returns:
            What QEMU returned to each, in the order of the commands.

        Raises:
            QMPCommandError: QEMU refused one, unless ``return_exceptions``.
            QMPTimeoutError, QMPDisconnectedError, QMPProtocolError: as ``execute``.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        connection = self._connected()
        calls = pipeline_calls(connection.session, commands)
        for call in calls:
            connection.send(partial(_itself, call))
        connection.wait_for_replies(calls, deadline)
        results = []
        for call in calls:
            reply = call.reply or {}
            if "return" in reply:
                results.append(reply["return"])
                continue
            refusal = self._refusal(call, deadline)
            if not return_exceptions:
                raise refusal
            results.append(refusal)
        return results

    # -- the schema ------------------------------------------------------------------------------

    @property
    def schema(self) -> Schema:
        """The commands, events and types of this QEMU (``query-qmp-schema``), asked for once.

        Raises:
            QMPError: as ``execute``.
        """
        return self._ask_schema(self._deadline(DEFAULT))

    def supports(self, name: str, path: str = "") -> bool:
        """Whether this QEMU has a command or event, and a member of it.

        Args:
            name: such as ``blockdev-add``, or ``STOP``.
            path: members from the outside in, with dots: ``file.filename``; the last one may also
                be a value of an enum: ``driver.qcow2``.

        Raises:
            QMPError: as ``execute``.
        """
        return self.schema.supports(name, path)

    def _ask_schema(self, deadline: Deadline) -> Schema:
        __tracebackhide__ = True
        # Only who asks for it pays for loading what reads a schema.
        from pytest_qmp.qmp.hints import SCHEMAS

        if self._schema is None:
            # Binaries of one version and different targets have different schemas.
            target = str(self._returned("query-target", deadline)["arch"])
            known = SCHEMAS.get(self.version, target)
            self._schema = known or SCHEMAS.add(
                self.version, target, self._returned("query-qmp-schema", deadline)
            )
        return self._schema

    def _returned(self, command: str, deadline: Deadline) -> Any:
        __tracebackhide__ = True
        call = self._call(command, None, deadline)
        reply = call.reply or {}
        if "return" not in reply:
            raise failures.refused(call)
        return reply["return"]

    def _refusal(self, call: Call, deadline: Deadline) -> QMPCommandError:
        from pytest_qmp.qmp.hints import hint, wants_schema

        refusal = failures.refused(call)
        # Only a refused command pays for the question, and never more than its own time.
        left = deadline.remaining()
        limit = Deadline(_HINT_SECONDS if left is None else min(left, _HINT_SECONDS))
        try:
            if refusal.error_class == "CommandNotFound":
                known = self._known_commands(limit)
                refusal.hint = failures.unknown_command(call.command, known, self.version)
            elif wants_schema(refusal):
                refusal.hint = hint(refusal, self._ask_schema(limit))
        except (QMPError, LookupError, TypeError):
            return refusal
        return refusal

    def _known_commands(self, deadline: Deadline) -> tuple[str, ...]:
        if self._commands is None:
            listed = self._returned("query-commands", deadline)
            self._commands = tuple(one["name"] for one in listed)
        return self._commands


def _itself(call: Call) -> Call:
    return call
