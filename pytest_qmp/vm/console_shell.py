"""A shell at a console: commands, with their output and exit status."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.text import printable
from pytest_qmp.vm.console_errors import (
    ConsoleCommandError,
    ConsoleLoginError,
    ConsoleTimeoutError,
)
from pytest_qmp.vm.console_login import ESCAPE, LOGIN, PASSWORD, ConsoleLogin, at_most, prompt_end
from pytest_qmp.vm.expecter import Ending
from pytest_qmp.vm.searching import Found, Searcher
from pytest_qmp.vm.shell_frames import Frames, Mark

__all__ = ["CommandResult", "ConsoleShell", "ShellState"]

# How long a shell that was asked whether it is there has for its answer, until it is asked again.
_ASK_AGAIN_SECONDS = 3.0
_ASK_BUSY_SECONDS = 1.0
# Nothing has come for that long: what was typed has done what it does.
_REST_SECONDS = 0.05
_LONGEST_UNREST_SECONDS = 0.5
# How long a prompt is waited for behind a command's end, where it may have become another.
_PROMPT_SECONDS = 0.25
_INTERRUPT = "\x03"
_QUIT = "\x1c"

_NEXT_LINE = re.compile(r"\A\r?\n(?P<prompt>[^\r\n]+)\Z")
_LINE_BEYOND = re.compile(r"\A\r?\n[^\n]*\n")


_SHELL_PROMPTS = frozenset("#$%")


class CommandResult(NamedTuple):
    """What a command of ``run()`` wrote, and its exit status."""

    output: str
    status: int


@dataclass(frozen=True)
class ShellState:
    """What is known of the shell at a console, for one that goes on in a copy of the guest.

    Attributes:
        secret: part of the marks around a command's output.
        number: of the last command.
        eval_word: what the shell evaluates a text with.
        prompt_end: how its prompt ends; empty if that is unknown.
        adds_returns: whether the terminal puts a carriage return before each newline.
    """

    secret: str
    number: int
    eval_word: str
    prompt_end: str
    adds_returns: bool


class ConsoleShell(ConsoleLogin):
    """``run()`` of a ``Console``."""

    _shell: ShellState | None = None
    # A command that did not end may still be running.
    _busy = ""

    @property
    def shell_state(self) -> ShellState | None:
        """What ``run()`` knows of the shell; None before its first use.

        It can be put to the console of a copy of this guest, which then needs no preparation.
        """
        return None if self._shell is None else replace(self._shell, prompt_end=self._prompt_end)

    @shell_state.setter
    def shell_state(self, state: ShellState | None) -> None:
        self._shell = state
        self._prompt_end = state.prompt_end if state is not None else ""
        self._busy = ""

    # -- commands --------------------------------------------------------------------------------

    def run(
        self, command: str, timeout: float | None = -1, *, check: bool = False
    ) -> CommandResult:
        """Runs a command in the shell that waits at the console.

        Any POSIX-like shell will do (sh, dash, bash, busybox, zsh, …). The command runs in that
        very shell, as if it had been typed: ``cd`` and variables stay. It may have several lines
        and here-documents. The first use turns the terminal's echo off, and the shell's line
        editor where it is bash or zsh; the prompt stays as it is. What came before and was not
        expected is passed over; afterwards the console stands behind the shell's next prompt.

        Args:
            command: what to run. It reads the terminal as if typed at, so that one that reads its
                standard input waits for what is typed; ``< /dev/null`` spares it that.
            timeout: seconds; -1: the console's; None: no limit.
            check: True raises an error where the status is not 0.

        Returns:
            What it wrote, with the lines ended as it has ended them, and its exit status. What
            the kernel writes to the console meanwhile is in it too.

        Raises:
            ConsoleTimeoutError: it did not end in time (``output`` has what it wrote by then), and
                was interrupted by Ctrl-C; or no shell has answered.
            ConsoleLoginError: the guest asks for a login.
            ConsoleCommandError: with ``check``: the status is not 0.
            VMError: the command can't be typed: it is too long, or has a NUL byte in it.
        """
        __tracebackhide__ = True
        if not isinstance(command, str):
            raise TypeError(f"a command is a str, not {command!r}")
        deadline = limits.deadline(self.timeout if timeout == -1 else timeout)
        shell = self._ready_shell(deadline)
        frames = Frames(shell.secret, shell.number, shell.eval_word)
        typed = frames.put(command)
        self._shell = replace(shell, number=frames.number)
        self._busy = command
        self._awaited = f"the end of {_short(command)}", False
        self.send(typed)
        begun, ended = self._output_of(frames, command, deadline)
        self._busy = ""
        text = begun.replace("\r\n", "\n") if shell.adds_returns else begun
        result = CommandResult(text, int(ended.word))
        self._pass_prompt(deadline)
        if check and result.status:
            shown = printable(result.output).rstrip("\n")
            raise ConsoleCommandError(
                f"{_short(command)} at the console {self.name} failed with status "
                f"{result.status}."
                + (f" It wrote:\n{_indented(shown)}" if shown else " It wrote nothing."),
                command=command,
                output=result.output,
                status=result.status,
            )
        return result

    def know_shell(self, timeout: float) -> bool:
        """Does what the first ``run()`` does, if ``login()`` has left a POSIX shell's prompt.

        Args:
            timeout: seconds.

        Returns:
            Whether ``run()`` is ready.

        Raises:
            ConsoleTimeoutError: no shell has answered.
        """
        __tracebackhide__ = True
        if self._shell is None and not self._busy:
            prompt = ESCAPE.sub("", self._prompt_end).strip()
            # Others than shells have prompts too: what these end in is taken for one.
            if prompt not in _SHELL_PROMPTS or not self._last_line().rstrip().endswith(prompt):
                return False
            self._ready_shell(Deadline(timeout))
        return True

    def _output_of(self, frames: Frames, command: str, deadline: Deadline) -> tuple[str, Mark]:
        __tracebackhide__ = True
        number = frames.number
        try:
            while True:
                _, begin = self._next_mark(frames, deadline)
                if begin.number == number and begin.word == "b":
                    break
        except Ending as ending:
            self._raise_if_over(ending, deadline)
            self._explain_no_shell(deadline)
        try:
            while True:
                text, end = self._next_mark(frames, deadline)
                if end.number == number and end.word.isdigit():
                    return begin.foreign + text + end.foreign, end
        except Ending as ending:
            output = self._pending().replace("\r\n", "\n")
            self._raise_if_over(ending, deadline)
            self.send(_INTERRUPT)
            shown = printable(output[-4000:]).rstrip("\n")
            hint = ""
            if LOGIN.search(output):
                hint = "\nThe guest asks for a login: it seems that the shell has ended."
            elif not output:
                hint = (
                    "\nIf it waits for input: what it reads comes from the console; "
                    "`< /dev/null` gives it none."
                )
            raise ConsoleTimeoutError(
                f"waited {deadline.words} for the end of {_short(command)} at the console "
                f"{self.name}, in vain; it was interrupted by Ctrl-C."
                + (f" It had written:\n{_indented(shown)}" if shown else " It had written nothing.")
                + hint,
                output=output,
            ) from None

    # -- a shell that is ready -------------------------------------------------------------------

    def _ready_shell(self, deadline: Deadline) -> ShellState:
        __tracebackhide__ = True
        if self._shell is not None and not self._busy:
            return self._shell
        self._refuse_login()
        known = self._shell
        frames = Frames(known.secret, known.number) if known is not None else Frames()
        # The first was typed when the command's time was up.
        signals = ["", _INTERRUPT, _QUIT] if self._busy else []
        patience = _ASK_AGAIN_SECONDS if not signals else _ASK_BUSY_SECONDS
        while True:
            if signals:
                # What is typed right behind a signal is dropped with what was typed before it.
                self.send(signals.pop(0))
                self._come_to_rest(deadline)
            self._awaited = "a shell's answer", False
            self.send(frames.prepare())
            attempt = at_most(deadline, patience)
            try:
                while True:
                    _, mark = self._next_mark(frames, attempt)
                    if mark.word.startswith("p"):
                        break
                break
            except Ending as ending:
                self._raise_if_over(ending, deadline)
                if deadline.expired:
                    self._explain_no_shell(deadline)
                self._refuse_login()
        eval_word = "eval" if mark.word == "pz" else "command eval"
        self._busy = ""
        self._shell = ShellState(frames.secret, frames.number, eval_word, "", True)
        self._prompt_end = ""
        returns = self._pass_prompt(deadline)
        self._shell = replace(self._shell, adds_returns=returns is not False)
        return self._shell

    def _come_to_rest(self, deadline: Deadline) -> None:
        within = at_most(deadline, _LONGEST_UNREST_SECONDS)
        while not within.expired:
            size = self._stream.size
            left = at_most(within, _REST_SECONDS).remaining()
            self._stream.wait_beyond(size, self._stream.looks, left)
            if self._stream.size == size:
                return

    def _explain_no_shell(self, deadline: Deadline) -> NoReturn:
        __tracebackhide__ = True
        self._refuse_login()
        if self._shell is not None:
            what = (
                f"the shell at the console {self.name} did not take {_short(self._busy)} within "
                f"{deadline.words}: what ran before may run still"
            )
        else:
            what = (
                f"no POSIX shell answered at the console {self.name} within {deadline.words}. "
                "run() needs one that waits for a command (sh, bash, busybox, …): log in first "
                "(console.login(…)), or use sendline() and expect() for what it is"
            )
        raise ConsoleTimeoutError(f"{what}.\n{self._shown()}") from None

    def _refuse_login(self) -> None:
        __tracebackhide__ = True
        line = self._last_line()
        if LOGIN.search(line) or PASSWORD.search(line):
            raise ConsoleLoginError(
                f"the guest asks for a login at the console {self.name}, so that no shell is "
                f"there: console.login(user, password) first.\n{self._shown()}"
            )

    def _next_mark(self, frames: Frames, deadline: Deadline) -> tuple[str, Mark]:
        found = self._found_by(Searcher([frames.pattern]), deadline, settle=False)
        self._take(found)
        return self.before or "", frames.mark(found.match)

    def _pass_prompt(self, deadline: Deadline) -> bool | None:
        """Goes on behind the prompt, where one comes.

        Returns:
            Whether a carriage return stands before the newline that ends the command's frame;
            None: nothing came.
        """
        soon = at_most(deadline, _PROMPT_SECONDS if self._prompt_end else 4 * _PROMPT_SECONDS)
        if self._prompt_end:
            known = re.compile(rf"\A\r?\n[^\r\n]*?{re.escape(self._prompt_end)}")
            try:
                found = self._found_by(Searcher([known, _LINE_BEYOND]), soon, settle=False)
            except Ending:
                soon = at_most(deadline, 0)
            else:
                return self._pass_by(found)
        try:
            found = self._found_by(Searcher([_NEXT_LINE, _LINE_BEYOND]), soon)
        except Ending:
            return None
        if found.index == 0:
            self._prompt_end = prompt_end(found.match["prompt"])
        return self._pass_by(found)

    def _pass_by(self, found: Found) -> bool:
        text = self._unread.text
        if found.index == 0:
            self._unread.consume(found.end)
        else:
            # Somebody else writes: the prompt is not told from it.
            self._unread.consume(text.index("\n") + 1)
        return text.startswith("\r")

    # -- what the console has --------------------------------------------------------------------

    def _last_line(self) -> str:
        """The last line that stands at the console, whoever has read it."""
        return self.tail(1)

    def _pending(self) -> str:
        """What has come, and nothing has matched."""
        return str(self.buffer)

    if TYPE_CHECKING:
        # The console's, beside what logging in needs of it.
        before: str | None
        buffer: str

        def _patience(self) -> float: ...


def _short(command: str, limit: int = 120) -> str:
    text = repr(command)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.split("\n"))
