"""A guest agent that a test plays: answers that it gives, programs and files that it has."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from pytest_qmp.errors import FakeQMPServerError, QMPCommandError, QMPProtocolError
from pytest_qmp.qmp.wire import MessageReader

__all__ = ["FakeGuestAgent"]

_MARK = b"\xff"
_VERSION = "7.2.22"
# What succeeds in silence.
_SILENT = ("guest-shutdown", "guest-suspend-disk", "guest-suspend-hybrid", "guest-suspend-ram")

Program = Callable[[list[str], bytes], "tuple[int, bytes | str] | bytes | str"]


class FakeGuestAgent:
    """Answers as QEMU's guest agent does; ``FakeGuest.agent``. There is none until it has a part.

    Attributes:
        files: the files that it reads and writes, by path.
        calls: the commands that came, oldest first: (name, arguments), without syncs.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self.files: dict[str, bytes] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._change = change
        self._outgoing = bytearray()
        self._reader = MessageReader()
        self._answers: dict[str, Any] = {}
        self._program: Program | None = None
        self._ended: list[dict[str, Any]] = []
        self._open: list[tuple[str, int]] = []

    @property
    def used(self) -> bool:
        """Whether it plays any part."""
        return bool(self._answers or self._program or self.files)

    def on(
        self, command: str, answer: Any | Callable[[dict[str, Any]], Any] = None
    ) -> FakeGuestAgent:
        """Answers a command from now on.

        Args:
            command: such as ``guest-get-osinfo``.
            answer: what it returns (None: ``{}``); or a function that takes the arguments and
                returns that, or raises ``QMPCommandError`` to refuse. It runs in the server's
                thread, and can call the members of the fake's guest: ``poweroff()``.

        Returns:
            The agent, so that calls can be chained.

        Raises:
            FakeQMPServerError: no command of an agent is called so.
        """
        if not command.startswith("guest-"):
            raise FakeQMPServerError(f"a guest agent's command begins with guest-: not {command!r}")
        with self._change():
            self._answers[command] = {} if answer is None else answer
        return self

    def on_exec(self, program: Program) -> FakeGuestAgent:
        """Runs programs (``guest-exec``) from now on.

        Args:
            program: takes the list of the program and its arguments, and the bytes of its
                standard input; returns what it writes, or (exit status, what it writes).

        Returns:
            The agent.
        """
        with self._change():
            self._program = program
        return self

    # -- the wire --------------------------------------------------------------------------------

    def connected(self, outgoing: bytearray) -> None:
        """Its port has another client, which gets what is put there."""
        self._outgoing = outgoing
        self._reader = MessageReader()

    def receive(self, data: bytes) -> None:
        """Takes what a client sent."""
        before, *marked = data.split(_MARK)
        self._take(before)
        for piece in marked:
            self._reader = MessageReader()
            self._take(piece)

    def _take(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            requests = [json.loads(raw) for raw in self._reader.take()]
        except (QMPProtocolError, ValueError) as error:
            self._reader = MessageReader()
            self._send(_refusal("GenericError", f"JSON parse error, {error}"))
            return
        for request in requests:
            command, arguments = request.get("execute", ""), request.get("arguments", {})
            prefix = _MARK if command == "guest-sync-delimited" else b""
            try:
                value = self._execute(command, arguments)
            except QMPCommandError as error:
                self._send(_refusal(error.error_class, error.desc), prefix)
                continue
            if command not in _SILENT:
                self._send({"return": value}, prefix)

    def _send(self, message: Mapping[str, Any], prefix: bytes = b"") -> None:
        self._outgoing += prefix + json.dumps(message).encode() + b"\n"

    # -- what it does ----------------------------------------------------------------------------

    def _execute(self, command: str, arguments: dict[str, Any]) -> Any:
        if command in ("guest-sync", "guest-sync-delimited"):
            return arguments.get("id")
        self.calls.append((command, arguments))
        if command in self._answers:
            answer = self._answers[command]
            return answer(arguments) if callable(answer) else answer
        known = self._known()
        if command not in known:
            raise QMPCommandError("CommandNotFound", f"The command {command} has not been found")
        return known[command](arguments)

    def _known(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        known: dict[str, Callable[[dict[str, Any]], Any]] = {
            "guest-ping": lambda arguments: {},
            "guest-info": self._info,
            "guest-file-open": self._file_open,
            "guest-file-read": self._file_read,
            "guest-file-write": self._file_write,
            "guest-file-flush": lambda arguments: {},
            "guest-file-close": lambda arguments: {},
        }
        if self._program is not None:
            known["guest-exec"] = partial(self._exec, self._program)
            known["guest-exec-status"] = lambda arguments: self._ended[arguments["pid"] - 1]
        return known

    def _info(self, arguments: dict[str, Any]) -> dict[str, Any]:
        names = {"guest-sync", "guest-sync-delimited", *self._known(), *self._answers}
        return {
            "version": _VERSION,
            "supported_commands": [
                {"name": name, "enabled": True, "success-response": name not in _SILENT}
                for name in sorted(names)
            ],
        }

    def _exec(self, program: Program, arguments: dict[str, Any]) -> dict[str, int]:
        argv = [arguments["path"], *arguments.get("arg", [])]
        result = program(argv, b64decode(arguments.get("input-data", "")))
        status, output = result if isinstance(result, tuple) else (0, result)
        data = output.encode() if isinstance(output, str) else output
        out = {"out-data": b64encode(data).decode()} if data else {}
        self._ended.append({"exited": True, "exitcode": status, **out})
        return {"pid": len(self._ended)}

    def _file_open(self, arguments: dict[str, Any]) -> int:
        path, mode = arguments["path"], arguments.get("mode", "r")
        if mode.startswith("w"):
            self.files[path] = b""
        elif path not in self.files:
            raise QMPCommandError(
                "GenericError",
                f"failed to open file '{path}' (mode: '{mode}'): No such file or directory",
            )
        self._open.append((path, 0))
        return len(self._open)

    def _file_read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        path, position = self._open[arguments["handle"] - 1]
        data = self.files[path][position : position + arguments.get("count", 4096)]
        self._open[arguments["handle"] - 1] = path, position + len(data)
        eof = position + len(data) >= len(self.files[path])
        return {"count": len(data), "buf-b64": b64encode(data).decode(), "eof": eof}

    def _file_write(self, arguments: dict[str, Any]) -> dict[str, Any]:
        path, _ = self._open[arguments["handle"] - 1]
        data = b64decode(arguments["buf-b64"])
        self.files[path] += data
        return {"count": len(data), "eof": False}


def _refusal(error_class: str, desc: str) -> dict[str, Any]:
    return {"error": {"class": error_class, "desc": desc}}
