"""The client of QEMU's guest agent: commands, programs and files inside the guest."""

from __future__ import annotations

import os
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_qmp.errors import QMPError, QMPTimeoutError
from pytest_qmp.qmp.agent_system import AgentSystem
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout

__all__ = ["GuestAgentClient", "GuestExecResult"]

_T = TypeVar("_T")

_FIRST_LOOK_SECONDS = 0.001
_LONGEST_LOOK_SECONDS = 0.1
_CLOSE_SECONDS = 2.0

CHUNK = 256 * 1024
"""Bytes of a file in one message. The agent keeps several copies of it, and reads it by bytes."""


@dataclass(frozen=True)
class GuestExecResult:
    """How a program in the guest ended.

    Source: ``guest-exec-status``.

    Attributes:
        status: its exit status; None if a signal ended it.
        signal: the signal's number (on Windows an exception's code), or None.
        output: what it wrote to its standard output.
        error: what it wrote to its standard error.
        output_truncated: True if the agent kept only the beginning of the output (16 MiB).
        error_truncated: the same of the standard error.
    """

    status: int | None
    signal: int | None
    output: bytes
    error: bytes
    output_truncated: bool = False
    error_truncated: bool = False


class GuestAgentClient(AgentSystem):
    """A connection to QEMU's guest agent, usable from any number of threads, one after the other.

    Make one with ``connect``. Any command is a method: ``agent.guest_info()`` is
    ``agent.execute("guest-info")``. As a context manager it closes itself. After a timeout, or
    after anything that it can't make sense of, it gets into sync again before the next command.

    Args:
        timeout: seconds that a wait takes at most unless a call says otherwise; None: no limit.
        max_message_size: of a reply, in bytes.
        peer: what messages call the agent; None: ``the guest agent at`` and its address.
    """

    # -- programs --------------------------------------------------------------------------------

    def exec(
        self,
        argv: Sequence[str],
        input: bytes | str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> GuestExecResult:
        """Runs a program in the guest and waits for its end.

        Source: ``guest-exec``, ``guest-exec-status``.

        Args:
            argv: the program, looked up on the agent's PATH, and its arguments. There is no
                shell: run one with ``["sh", "-c", "…"]``.
            input: for its standard input; a text goes as UTF-8.
            env: its whole environment; None leaves it the agent's own.
            timeout: seconds for the whole wait.

        Returns:
            How it ended, whatever its status.

        Raises:
            QMPCommandError: it could not be started.
            QMPTimeoutError: it runs on in the guest; the text has its process id.
            QMPDisconnectedError, QMPProtocolError: as ``execute``.
        """
        __tracebackhide__ = True
        if isinstance(argv, (str, bytes)) or not argv:
            raise TypeError(
                f"argv is a list of a program and its arguments, not {argv!r}; a shell is a "
                'program, too: ["sh", "-c", "…"]'
            )
        deadline = self._deadline(timeout)
        program, *arguments = map(os.fspath, argv)
        request: dict[str, Any] = {"path": program, "arg": arguments, "capture-output": True}
        if input is not None:
            data = input.encode() if isinstance(input, str) else input
            request["input-data"] = b64encode(data).decode()
        if env is not None:
            request["env"] = [f"{name}={value}" for name, value in env.items()]
        pid = int(self._execute("guest-exec", request, deadline)["pid"])
        try:
            ended = self._wait_for_program(pid, deadline)
        except QMPTimeoutError as error:
            raise QMPTimeoutError(
                f"waited {deadline.words} for the end of {list(argv)!r}, process {pid} "
                f"in the guest, in vain: {error}"
            ) from None
        return GuestExecResult(
            status=ended.get("exitcode"),
            signal=ended.get("signal"),
            output=b64decode(ended.get("out-data", "")),
            error=b64decode(ended.get("err-data", "")),
            output_truncated=bool(ended.get("out-truncated", False)),
            error_truncated=bool(ended.get("err-truncated", False)),
        )

    def _wait_for_program(self, pid: int, deadline: Deadline) -> dict[str, Any]:
        pause = _FIRST_LOOK_SECONDS
        while True:
            seen: dict[str, Any] = self._follow_up("guest-exec-status", {"pid": pid}, deadline)
            if seen["exited"]:
                return seen
            left = deadline.remaining()
            # The agent tells nobody that a program has ended: it has to be asked again.
            time.sleep(pause if left is None else min(pause, left))
            if deadline.expired:
                raise QMPTimeoutError(
                    "it runs on, or one that it started holds its output open. The agent can't "
                    f"end it: exec(['kill', '{pid}']) does where there is a kill"
                )
            pause = min(2 * pause, _LONGEST_LOOK_SECONDS)

    # -- files -----------------------------------------------------------------------------------

    def read_file(self, path: str | os.PathLike[str], *, timeout: Timeout = DEFAULT) -> bytes:
        """Reads a file of the guest, of any size.

        Source: ``guest-file-open``, ``guest-file-read``, ``guest-file-close``.

        Args:
            path: in the guest.
            timeout: seconds for all of it together: give more for a large file.

        Raises:
            QMPCommandError: it can't be opened or read.
            QMPTimeoutError, QMPDisconnectedError, QMPProtocolError: as ``execute``.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)

        def read(handle: int) -> bytes:
            __tracebackhide__ = True
            parts = []
            while True:
                request = {"handle": handle, "count": CHUNK}
                found = self._follow_up("guest-file-read", request, deadline)
                parts.append(b64decode(found["buf-b64"]))
                if found["eof"] or not parts[-1]:
                    return b"".join(parts)

        return self._with_file(path, "rb", deadline, read)

    def write_file(
        self,
        path: str | os.PathLike[str],
        data: bytes | bytearray | memoryview | str,
        *,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Writes a file of the guest, of any size; one that is there is replaced.

        Source: ``guest-file-open``, ``guest-file-write``, ``guest-file-flush``,
        ``guest-file-close``.

        Args:
            path: in the guest.
            data: what it is to hold; a text goes as UTF-8.
            timeout: seconds for all of it together: give more for a large file.

        Raises:
            QMPCommandError: it can't be opened or written.
            QMPTimeoutError, QMPDisconnectedError, QMPProtocolError: as ``execute``; the file may
                then hold a part of it.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        view = memoryview(data.encode() if isinstance(data, str) else data).cast("B")

        def write(handle: int) -> None:
            __tracebackhide__ = True
            done = 0
            while done < len(view):
                text = b64encode(view[done : done + CHUNK]).decode()
                request = {"handle": handle, "buf-b64": text}
                count = int(self._follow_up("guest-file-write", request, deadline)["count"])
                if count < 1:
                    raise QMPError(
                        f"{self._peer} wrote nothing more to {os.fspath(path)!r} after {done} of "
                        f"{len(view)} bytes: look whether the guest's disk is full"
                    )
                done += count
            self._follow_up("guest-file-flush", {"handle": handle}, deadline)

        self._with_file(path, "wb", deadline, write)

    def _with_file(
        self,
        path: str | os.PathLike[str],
        mode: str,
        deadline: Deadline,
        use: Callable[[int], _T],
    ) -> _T:
        __tracebackhide__ = True
        request = {"path": os.fspath(path), "mode": mode}
        handle = int(self._execute("guest-file-open", request, deadline))
        try:
            result = use(handle)
        except BaseException:
            # With time of its own: what went wrong may have been that there is none left.
            with suppress(QMPError):
                self._follow_up("guest-file-close", {"handle": handle}, Deadline(_CLOSE_SECONDS))
            raise
        self._follow_up("guest-file-close", {"handle": handle}, deadline)
        return result
