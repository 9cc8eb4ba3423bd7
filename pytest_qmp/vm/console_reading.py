"""Reading at a console: pexpect's ways to wait for text, over all that the guest has written."""

from __future__ import annotations

import asyncio
import math
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import pexpect
from pexpect.spawnbase import SpawnBase

from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.text import last_lines
from pytest_qmp.vm.console_errors import (
    ConsoleEOFError,
    ConsoleTimeoutError,
    ConsoleVerdictError,
)
from pytest_qmp.vm.expecter import Ending, expecting
from pytest_qmp.vm.searching import Found, Searcher
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.unread import UnreadText
from pytest_qmp.vm.verdict_board import VerdictBoard

__all__ = ["ConsoleReading"]

_READ_SIZE = 65536
_ENDS = frozenset({"shutdown", "exit"})
_ANYTHING = re.compile(".", re.DOTALL)

if TYPE_CHECKING:
    # pexpect is generic for type checkers only.
    _Spawn = SpawnBase[str]
else:
    _Spawn = SpawnBase


class ConsoleReading(_Spawn):
    """What of a ``Console`` reads.

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
        after: Any
        match: Any

        def _log(self, text: str, direction: str) -> None: ...

        def _coerce_send_string(self, text: str | bytes) -> str: ...

        def _pattern_type_err(self, pattern: object) -> NoReturn: ...

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
        self._unread = UnreadText(stream, lambda text: self._log(text, "read"))
        self._before: str | tuple[int, int] | None = None
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

    def raw_tail(self, size: int = 64 * 1024) -> str:
        """The end of what the guest wrote, as it is.

        Args:
            size: how many bytes at most.
        """
        return self._stream.tail(size).decode("utf-8", "replace")

    @property
    def before(self) -> str | None:
        """The text before what was found, or all that nothing has matched where nothing was.

        A long one is read from the log when it is asked for, and costs memory only then; once the
        machine has ended, the last 64 KiB are left of it.
        """
        if isinstance(self._before, tuple):
            return self._decoded(*self._before)
        return self._before

    @before.setter
    def before(self, text: Any) -> None:
        # pexpect's constructor lays a buffer of its own here, which is not used.
        self._before = text if isinstance(text, str) else None

    @property
    def buffer(self) -> str:
        """All that has come and that nothing has matched. What is put here takes its place."""
        held = self._unread.buffered()
        if held is not None:
            return held
        return self._decoded(self._unread.start, self._stream.size)

    @buffer.setter
    def buffer(self, text: str) -> None:
        self._unread.replace(text)

    def _decoded(self, start: int, end: int) -> str:
        return self._stream.read_at(start, end - start).decode("utf-8", "replace")

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """pexpect's primitive: the next text that nothing has matched.

        Args:
            size: how many characters at most.
            timeout: seconds to wait for the first; -1: the console's; None: no limit.

        Raises:
            pexpect.TIMEOUT: nothing came in time.
            pexpect.EOF: the guest's side has closed, and all was read.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        self._awaited = "text", False
        try:
            found = self._found_by(Searcher([_ANYTHING]), deadline, settle=False)
        except Ending as ending:
            if ending.ended:
                self.flag_eof = True
                raise pexpect.EOF("the guest's side has closed") from None
            if self._patience() <= 0:
                self._raise_verdict(gone=False)
            raise pexpect.TIMEOUT("nothing came") from None
        text = found.match.string[:size]
        self._unread.consume(len(text))
        return str(text)

    def _deadline(self, timeout: float | Deadline | None) -> Deadline:
        return limits.deadline(self.timeout if timeout == -1 else timeout)

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
            raise ConsoleVerdictError(error) from None

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
        return self.expect_list(patterns, timeout, searchwindowsize, async_, **more)

    def expect_list(
        self,
        pattern_list: list[Any],
        timeout: float | None = -1,
        searchwindowsize: int | None = -1,
        async_: bool = False,
        **more: Any,
    ) -> Any:
        """As ``expect``, for a list of compiled patterns."""
        __tracebackhide__ = True
        async_ = _async_of(more, async_)
        for one in pattern_list:
            if one not in (pexpect.EOF, pexpect.TIMEOUT) and not isinstance(one, re.Pattern):
                self._pattern_type_err(one)
        return self._expect(pattern_list, timeout, searchwindowsize, async_)

    def expect_exact(
        self,
        pattern_list: Any,
        timeout: float | None = -1,
        searchwindowsize: int | None = -1,
        async_: bool = False,
        **more: Any,
    ) -> Any:
        """As ``expect``, for plain texts."""
        __tracebackhide__ = True
        async_ = _async_of(more, async_)
        if isinstance(pattern_list, str) or pattern_list in (pexpect.EOF, pexpect.TIMEOUT):
            pattern_list = [pattern_list]
        if not isinstance(pattern_list, Iterable):
            self._pattern_type_err(pattern_list)
        wanted = list(pattern_list)
        for one in wanted:
            if one not in (pexpect.EOF, pexpect.TIMEOUT) and not isinstance(one, str):
                self._pattern_type_err(one)
        return self._expect(wanted, timeout, searchwindowsize, async_)

    def expect_loop(
        self, searcher: Any, timeout: float | None = -1, searchwindowsize: int | None = -1
    ) -> Any:
        """As ``expect``, for one of pexpect's searchers."""
        __tracebackhide__ = True
        known = getattr(searcher, "_searches", None) or getattr(searcher, "_strings", [])
        wanted = dict(known)
        if searcher.eof_index >= 0:
            wanted[searcher.eof_index] = pexpect.EOF
        if searcher.timeout_index >= 0:
            wanted[searcher.timeout_index] = pexpect.TIMEOUT
        return self._expect([wanted[n] for n in sorted(wanted)], timeout, searchwindowsize, False)

    def _expect(
        self, wanted: list[Any], timeout: float | None, window: int | None, async_: bool
    ) -> Any:
        __tracebackhide__ = True
        searcher = Searcher(wanted, self.searchwindowsize if window == -1 else window)
        deadline = self._deadline(timeout)
        self._awaited = _names(wanted), searcher.eof_index >= 0
        if async_:
            return self._expect_async(searcher, deadline)
        try:
            return self._take(self._found_by(searcher, deadline))
        except Ending as ending:
            return self._nothing_found(searcher, deadline, ending.ended)

    def seen(self, pattern: Any, timeout: float | Deadline | None = -1) -> Any:
        """Looks for a pattern in all that the guest wrote since the start, or will write.

        It changes nothing for ``expect``.

        Args:
            pattern: as for ``expect``, but for ``pexpect.EOF`` and ``TIMEOUT``.
            timeout: seconds to wait for it; -1: the console's; None: no limit.

        Returns:
            The match; None if it is not there, and does not come.

        Raises:
            ConsoleVerdictError: something happened to the machine meanwhile.
        """
        __tracebackhide__ = True
        searcher = Searcher(self.compile_pattern_list(pattern))
        deadline = self._deadline(timeout)
        self._awaited = _names(searcher.key[0]), False
        unread = UnreadText(self._stream, lambda text: None)
        try:
            return self._found_by(searcher, deadline, unread=unread).match
        except Ending as ending:
            self._raise_if_over(ending, deadline)
            return None

    async def _expect_async(self, searcher: Searcher, deadline: Deadline) -> int:
        __tracebackhide__ = True
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        remove = self._stream.add_listener(lambda: loop.call_soon_threadsafe(news.set))
        steps = expecting(self._unread, self._stream, searcher, deadline, self._patience)
        try:
            while True:
                news.clear()
                position, looks, seconds = next(steps)
                if self._stream.is_news(position, looks):
                    continue
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), seconds)
        except StopIteration as stop:
            found: Found = stop.value
        except Ending as ending:
            return self._nothing_found(searcher, deadline, ending.ended)
        finally:
            remove()
        return self._take(found)

    def _found_by(
        self,
        searcher: Searcher,
        deadline: Deadline,
        *,
        settle: bool = True,
        unread: UnreadText | None = None,
    ) -> Found:
        unread = unread or self._unread
        steps = expecting(unread, self._stream, searcher, deadline, self._patience, settle=settle)
        try:
            while True:
                self._stream.wait_beyond(*next(steps))
        except StopIteration as stop:
            found: Found = stop.value
            return found

    def _take(self, found: Found) -> int:
        self._before = self._unread.before(found.start)
        self.after = self._unread.text[found.start : found.end]
        self.match = found.match
        self.match_index = found.index
        self._unread.consume(found.end)
        return found.index

    def _nothing_found(self, searcher: Searcher, deadline: Deadline, ended: bool) -> int:
        __tracebackhide__ = True
        self._before = self._unread.before(self._unread.length)
        kind, index = (
            (pexpect.EOF, searcher.eof_index)
            if ended
            else (pexpect.TIMEOUT, searcher.timeout_index)
        )
        if not ended and self._patience() <= 0:
            self._raise_verdict(gone=False)
        self.after = kind
        self.match = kind if index >= 0 else None
        self.match_index = index if index >= 0 else None
        if ended:
            self.flag_eof = True
            self._unread.skip(self._stream.size)
        if index >= 0:
            return index
        names, _ = self._awaited
        if not ended:
            raise ConsoleTimeoutError(
                f"waited {deadline.words} for {names} at the console {self.name}, in vain.\n"
                f"{self._shown()}"
            ) from None
        self._raise_verdict(gone=True)
        raise ConsoleEOFError(
            f"the console {self.name} closed while {names} was awaited "
            f"(for {deadline.elapsed:.1f} s): {self._ended()}\n{self._shown()}"
        ) from None

    def _raise_if_over(self, ending: Ending, deadline: Deadline) -> None:
        """Raises what ended a wait before its time."""
        __tracebackhide__ = True
        if ending.ended or self._patience() <= 0:
            self._nothing_found(Searcher([]), deadline, ending.ended)

    def _ended(self) -> str:
        return self._explain_end() or "the guest's side has closed"

    def _shown(self) -> str:
        tail = self.tail()
        if not tail:
            return "The guest has written nothing at it."
        return "Its last lines:\n" + "\n".join(f"  | {line}" for line in tail.split("\n"))


def _async_of(more: dict[str, Any], async_: bool) -> bool:
    """pexpect's ``async``, which no parameter can be called any more."""
    async_ = more.pop("async", async_)
    if more:
        raise TypeError(f"unknown keyword arguments: {', '.join(more)}")
    return async_


def _names(wanted: Iterable[Any]) -> str:
    texts = [one if isinstance(one, str) else getattr(one, "pattern", None) for one in wanted]
    return " or ".join(repr(one) for one in texts if one is not None) or "its end"
