"""The console: a pexpect spawn on a guest's serial port."""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pexpect
from pexpect.spawnbase import SpawnBase

from pytest_qmp.errors import (
    QMPDisconnectedError,
    QMPTimeoutError,
    VMGoneError,
    VMVerdictError,
)
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.text import last_lines
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.verdict_board import VerdictBoard

__all__ = ["Console", "ConsoleEOFError", "ConsoleTimeoutError", "ConsoleVerdictError"]

_READ_SIZE = 65536
# How long a guest that takes nothing is waited for until the verdicts are looked at again.
_LONGEST_SLEEP = 0.01
_ENDS = frozenset({"shutdown", "exit"})

if TYPE_CHECKING:
    import codecs

    # pexpect is generic for type checkers only.
    _Spawn = SpawnBase[str]
else:
    _Spawn = SpawnBase


class ConsoleTimeoutError(QMPTimeoutError, pexpect.TIMEOUT):
    """What was expected did not come. Also a ``pexpect.TIMEOUT``."""

    __module__ = "pytest_qmp"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.value = message

    def __str__(self) -> str:
        return str(self.value)


class ConsoleEOFError(QMPDisconnectedError, pexpect.EOF):
    """The guest's side closed before what was expected came. Also a ``pexpect.EOF``."""

    __module__ = "pytest_qmp"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.value = message

    def __str__(self) -> str:
        return str(self.value)


class ConsoleVerdictError(VMGoneError, ConsoleEOFError):
    """Something happened to the machine, so that nothing more can come. Also a ``pexpect.EOF``."""

    __module__ = "pytest_qmp"

    def __init__(self, error: VMVerdictError) -> None:
        VMVerdictError.__init__(self, str(error), kind=error.kind, verdict=error.verdict)
        self.value = str(error)


class Console(_Spawn):
    """A pexpect spawn on a serial port: ``expect``, ``expect_exact``, ``send``, ``sendline``, ….

    All of it is pexpect's own, but: what a guest writes is drained in the background from its
    first byte on, a failed expect shows the guest's last lines, and the errors are also
    ``QMPError``. It speaks text; what is no UTF-8 becomes U+FFFD.

    Args:
        name: of the port, for messages.
        sock: its socket.
        stream: what the guest wrote and will write.
        timeout: seconds for an expect, unless it says otherwise; None: no limit.
        explain_end: says why the guest's side has closed.
        board: of the machine's verdicts.
    """

    if TYPE_CHECKING:
        # What pexpect's type stubs leave out of its contract for subclasses.
        _decoder: codecs.IncrementalDecoder
        before: str
        after: Any
        match: Any

        def _log(self, text: str, direction: str) -> None: ...

        def _coerce_send_string(self, text: str | bytes) -> str: ...

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        stream: OutputStream,
        *,
        timeout: float | None,
        explain_end: Callable[[], str],
        board: VerdictBoard,
    ) -> None:
        super().__init__(
            timeout=timeout, maxread=_READ_SIZE, encoding="utf-8", codec_errors="replace"
        )
        self.name = name
        self.child_fd = sock.fileno()
        self.closed = False
        self.linesep = "\n"
        self._sock = sock
        self._stream = stream
        self._explain_end = explain_end
        self._board = board
        self._awaited: tuple[str, bool] = ("news", False)

    @property
    def log(self) -> str:
        """All that the guest wrote since the start, as text."""
        return self._stream.everything().decode("utf-8", "replace")

    def tail(self, lines: int = 20) -> str:
        """The last lines, as a person would have seen them."""
        return last_lines(self._stream.tail().decode("utf-8", "replace"), lines)

    def isalive(self) -> bool:
        """True until the console is closed."""
        return not self.closed

    def close(self) -> None:
        """Stops using the port; the machine runs on."""
        self.closed = True

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """pexpect's primitive: the next text, at most ``size`` bytes of it.

        Raises:
            pexpect.TIMEOUT: nothing came in time.
            pexpect.EOF: the guest's side has closed, and all was read.
        """
        deadline = Deadline(self.timeout if timeout == -1 else timeout)
        data = self._stream.read(size, deadline, self._patience)
        if data is None:
            if self._patience() <= 0:
                self._raise_verdict(gone=False)
            raise pexpect.TIMEOUT("nothing came")
        if not data:
            self.flag_eof = True
            raise pexpect.EOF("the guest's side has closed")
        text = str(self._decoder.decode(data, final=False))
        self._log(text, "read")
        return text

    def _patience(self) -> float:
        """Seconds that it makes sense to wait for more, by what is known of the machine."""
        if not self._board.pending:
            return math.inf
        _, wants_end = self._awaited
        kinds = _ENDS if wants_end else frozenset[str]()
        return self._board.wait_for_last_words(kinds)

    def _raise_verdict(self, *, gone: bool) -> None:
        __tracebackhide__ = True
        awaited, _ = self._awaited
        error = self._board.error(f"{awaited} at the console {self.name}", gone=gone)
        if error is not None:
            raise ConsoleVerdictError(error)

    def send(self, text: str) -> int:
        """Types a text, as it is.

        Returns:
            The number of bytes.

        Raises:
            ConsoleTimeoutError: the guest did not take it all in time.
            ConsoleVerdictError: something happened to the machine before it took it all.
            ConsoleEOFError: the guest's side has closed.
        """
        __tracebackhide__ = True
        text = self._coerce_send_string(text)
        self._log(text, "send")
        data = str(text).encode("utf-8")
        deadline = limits.deadline(self.timeout)
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        sent = 0
        while sent < len(data):
            self._awaited = f"room for {len(data) - sent} bytes", False
            if not poll.poll(deadline.poll_milliseconds(_LONGEST_SLEEP)):
                if self._patience() <= 0:
                    self._raise_verdict(gone=False)
                if not deadline.expired:
                    continue
                raise ConsoleTimeoutError(
                    f"typed {sent} of {len(data)} bytes at the console {self.name}: the guest "
                    f"took no more within {deadline.words}.\n{self._shown()}"
                )
            try:
                sent += self._sock.send(data[sent:], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                continue
            except OSError as error:
                self._raise_verdict(gone=True)
                raise ConsoleEOFError(
                    f"can't type at the console {self.name}: {self._ended()}\n{self._shown()}"
                ) from error
        return len(data)

    def sendline(self, text: str = "") -> int:
        """Types a text and a newline."""
        __tracebackhide__ = True
        return self.send(f"{text}{self.linesep}")

    def write(self, text: str) -> None:
        """Types a text, as a file's ``write`` does."""
        __tracebackhide__ = True
        self.send(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Types texts, one after the other."""
        __tracebackhide__ = True
        for text in texts:
            self.send(text)

    def expect(
        self,
        pattern: Any,
        timeout: float | None = -1,
        searchwindowsize: int | None = -1,
        async_: bool = False,
        **more: Any,
    ) -> Any:
        """Waits until the guest has written a match of a pattern.

        As pexpect's ``expect``: ``before``, ``match`` and ``after`` tell what was found, and what
        follows it is left for the next one.

        Args:
            pattern: a regular expression, compiled or not, ``pexpect.EOF``, ``pexpect.TIMEOUT``,
                or a list of them.
            timeout: seconds; -1: the console's; None: no limit.
            searchwindowsize: how many characters back from the end are searched; -1: the
                console's ``searchwindowsize``; None: all.
            async_: True returns an awaitable.
            more: ``async``, the old name of ``async_``.

        Returns:
            The index of the pattern that was found.

        Raises:
            ConsoleTimeoutError: it did not come; the text has the guest's last lines.
            ConsoleEOFError: the guest's side closed first.
        """
        __tracebackhide__ = True
        patterns = self.compile_pattern_list(pattern)
        return self.expect_list(patterns, timeout, searchwindowsize, more.pop("async", async_))

    def expect_list(
        self, pattern_list: list[Any], timeout: Any = -1, *rest: Any, **more: Any
    ) -> Any:
        """pexpect's own, with our words when it fails."""
        __tracebackhide__ = True
        wanted = [getattr(one, "pattern", one) for one in pattern_list]
        return self._explained(super().expect_list, pattern_list, wanted, timeout, rest, more)

    def expect_exact(self, pattern_list: Any, timeout: Any = -1, *rest: Any, **more: Any) -> Any:
        """pexpect's own, with our words when it fails."""
        __tracebackhide__ = True
        wanted = list(pattern_list) if isinstance(pattern_list, (list, tuple)) else [pattern_list]
        return self._explained(super().expect_exact, pattern_list, wanted, timeout, rest, more)

    def _explained(
        self,
        expect: Callable[..., Any],
        patterns: Any,
        wanted: list[Any],
        timeout: Any,
        rest: tuple[Any, ...],
        more: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        names = " or ".join(repr(one) for one in wanted if isinstance(one, str)) or "its end"
        deadline = limits.deadline(self.timeout if timeout == -1 else timeout)
        self._awaited = names, any(one is pexpect.EOF for one in wanted)
        try:
            return expect(patterns, deadline.remaining(), *rest, **more)
        except pexpect.TIMEOUT:
            failure: Exception = ConsoleTimeoutError(
                f"waited {deadline.words} for {names} at the console {self.name}, in vain.\n"
                f"{self._shown()}"
            )
        except pexpect.EOF:
            self._raise_verdict(gone=True)
            failure = ConsoleEOFError(
                f"the console {self.name} closed while {names} was awaited "
                f"(for {deadline.elapsed:.1f} s): {self._ended()}\n{self._shown()}"
            )
        raise failure from None

    def _ended(self) -> str:
        return self._explain_end() or "the guest's side has closed"

    def _shown(self) -> str:
        tail = self.tail()
        if not tail:
            return "The guest has written nothing at it."
        return "Its last lines:\n" + "\n".join(f"  | {line}" for line in tail.split("\n"))
