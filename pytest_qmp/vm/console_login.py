"""A login at a console: what it asks for is answered, until a shell waits for a command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.vm.console_errors import ConsoleLoginError, ConsoleTimeoutError
from pytest_qmp.vm.expecter import Ending
from pytest_qmp.vm.searching import Found, Searcher
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.unread import UnreadText

__all__ = ["ESCAPE", "LOGIN", "PASSWORD", "ConsoleLogin", "at_most", "prompt_end"]

#: How a guest asks for a user, at the end of what it wrote.
LOGIN = re.compile(r"(?<!last )(?:login|user ?name|user): *\Z", re.IGNORECASE)
#: How it asks for a password.
PASSWORD = re.compile(r"(?:password|passphrase|passcode)[^\r\n:]{0,80}: *\Z", re.IGNORECASE)
_REFUSED = re.compile(
    r"login incorrect|authentication (?:failure|failed|error)|(?:access|permission) denied"
    r"|login (?:failed|failure)|(?:invalid|incorrect|wrong) (?:login|password|user)"
    r"|account (?:is |has )?(?:been )?(?:locked|expired|disabled)",
    re.IGNORECASE,
)
# A line that may be a prompt, with nothing behind it.
_LINE = re.compile(r"(?:\A|[\r\n])([^\r\n]*[^\s])[ ]*\Z")
_PROMPT_END = re.compile(r"[^\s\x1b]\s*(?:\x1b\[[0-9;?]*[A-Za-z]\s*)*\Z")
_MOST_USERS = 3
#: What a terminal takes for a command: colours, and questions to it.
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# How long nothing has to come for a line to be taken for a prompt: of the usual shape, or of any.
_QUIET_SECONDS = 0.3
_LONG_QUIET_SECONDS = 2.0
_SHAPE = re.compile(r"[#$%>]\Z")
# When somebody who sees nothing presses Enter.
_WAKE_SECONDS = 2.0
# A program that asks for a password drops what was typed before it was ready.
_BEFORE_PASSWORD_SECONDS = 0.05


class ConsoleLogin:
    """``login()`` of a ``Console``."""

    # How the shell's prompt ends; empty if that is unknown.
    _prompt_end = ""

    def login(
        self,
        user: str,
        password: str | None = None,
        *,
        prompt: str | re.Pattern[str] | None = None,
        timeout: float | None = -1,
    ) -> None:
        """Logs in, and waits until a shell waits for a command.

        It answers the questions for user and password, also where the question stands there
        already, and is content where somebody is logged in. Afterwards the console stands behind
        the prompt.

        Args:
            user: the user's name.
            password: its password; None: none is asked for.
            prompt: a regular expression for the shell's prompt; None: it is found out, as the line
                that comes again when Enter is pressed.
            timeout: seconds for all of it, the guest's boot included; -1: the console's; None: no
                limit.

        Raises:
            ConsoleLoginError: the password is wrong, or one is asked for and none was given.
            ConsoleTimeoutError: no login, or no prompt, came in time.
        """
        __tracebackhide__ = True
        deadline = limits.deadline(self.timeout if timeout == -1 else timeout)
        self.shell_state = None
        _Attempt(self, user, password, prompt, deadline).run()

    if TYPE_CHECKING:
        # The console's.
        name: str
        timeout: float | None
        shell_state: Any
        _unread: UnreadText
        _stream: OutputStream
        _awaited: tuple[str, bool]

        def send(self, text: str) -> int: ...

        def tail(self, lines: int = 20) -> str: ...

        def _found_by(
            self,
            searcher: Searcher,
            deadline: Deadline,
            *,
            settle: bool = True,
            unread: UnreadText | None = None,
        ) -> Found: ...

        def _take(self, found: Found) -> int: ...

        def _raise_if_over(self, ending: Ending, deadline: Deadline) -> None: ...

        def _shown(self) -> str: ...


class _Attempt:
    """One login: looks what stands at the console, and answers it."""

    def __init__(
        self,
        console: ConsoleLogin,
        user: str,
        password: str | None,
        prompt: str | re.Pattern[str] | None,
        deadline: Deadline,
    ) -> None:
        self._console = console
        self._user = user
        self._password = password
        self._prompt = re.compile(prompt) if isinstance(prompt, str) else prompt
        self._deadline = deadline
        self._users_typed = 0
        self._typed_password = False
        self._wake = _WAKE_SECONDS
        # What stood there when Enter was pressed: a prompt comes again.
        self._standing = ""

    def run(self) -> None:
        """Answers until a shell's prompt stands there."""
        __tracebackhide__ = True
        # What was read already is not asked again: it stands there still.
        line = _plain(self._console.tail(1))
        if LOGIN.search(line):
            self._answer_login()
        elif line or self._prompt is None:
            self._press_enter(line)
        while not self._step():
            if self._deadline.expired:
                self._give_up()

    def _step(self) -> bool:
        """Looks at what came to rest, and answers it; True: it is a prompt."""
        __tracebackhide__ = True
        console = self._console
        wanted = [_LINE] if self._prompt is None else [self._prompt, _LINE]
        attempt = at_most(self._deadline, self._wake)
        console._awaited = self._awaits(), False
        try:
            found = console._found_by(Searcher(wanted), attempt)
        except Ending as ending:
            console._raise_if_over(ending, self._deadline)
            if self._deadline.expired:
                self._give_up()
            self._wake *= 2
            if not self._users_typed:
                self._press_enter("")
            return False
        text = console._unread.text[: found.end]
        if self._users_typed and _REFUSED.search(text):
            self._refuse()
        end = self._end_of_prompt(text)
        if end:
            console._unread.consume(end)
            self._keep_prompt(text[:end])
            return True
        line = _plain(found.match[1])
        if LOGIN.search(f"{line} "):
            self._answer_login()
        elif PASSWORD.search(f"{line} "):
            self._answer_password()
        elif self._prompt is None:
            return self._may_be_prompt(line, found)
        else:
            self._wait_for_more()
        return False

    def _end_of_prompt(self, text: str) -> int:
        """Where the prompt that was named ends; 0: it is not there."""
        if self._prompt is None:
            return 0
        found = self._prompt.search(text)
        if found is not None:
            return found.end()
        # Colours, and a question to the terminal, may stand around and behind what a person sees.
        line = text[text.rfind("\n") + 1 :]
        return len(text) if self._prompt.search(ESCAPE.sub("", line)) else 0

    def _awaits(self) -> str:
        return "a shell's prompt" if self._users_typed else "a login"

    def _may_be_prompt(self, line: str, found: Found) -> bool:
        console = self._console
        if line == self._standing:
            text = console._unread.text[: found.end]
            console._unread.consume(found.end)
            self._keep_prompt(text)
            return True
        if not self._wait_for_more(_QUIET_SECONDS if _SHAPE.search(line) else _LONG_QUIET_SECONDS):
            self._press_enter(line)
        return False

    def _wait_for_more(self, seconds: float = _WAKE_SECONDS) -> bool:
        """Whether the guest writes on, within that time."""
        stream = self._console._stream
        seen = self._console._unread.seen
        left = at_most(self._deadline, seconds).remaining()
        stream.wait_beyond(seen, stream.looks, left)
        return stream.size > seen or stream.ended

    def _keep_prompt(self, text: str) -> None:
        self._console._prompt_end = prompt_end(text)

    def _type(self, text: str) -> None:
        self._console._unread.skip(self._console._stream.size)
        self._console.send(f"{text}\n")

    def _press_enter(self, line: str) -> None:
        self._standing = line
        self._type("")

    def _answer_login(self) -> None:
        __tracebackhide__ = True
        # The question may come twice, for an Enter that was pressed before.
        if self._typed_password or self._users_typed >= _MOST_USERS:
            self._refuse()
        self._users_typed += 1
        self._standing = ""
        self._type(self._user)

    def _answer_password(self) -> None:
        __tracebackhide__ = True
        console = self._console
        if not self._users_typed:
            self._press_enter("")  # Whose password it asks for is not known.
            return
        if self._password is None:
            raise ConsoleLoginError(
                f"the guest asks for a password of {self._user!r} at the console {console.name}, "
                f"and none was given: console.login({self._user!r}, password).\n"
                f"{console._shown()}"
            )
        if self._typed_password:
            self._refuse()
        if not self._wait_for_more(_BEFORE_PASSWORD_SECONDS):
            self._type(self._password)
            self._typed_password = True

    def _refuse(self) -> NoReturn:
        __tracebackhide__ = True
        console = self._console
        why = (
            "the password is wrong, or there is no such user"
            if self._typed_password
            else ("it asks for the user again")
        )
        raise ConsoleLoginError(
            f"the guest does not let {self._user!r} in at the console {console.name}: {why}.\n"
            f"{console._shown()}"
        )

    def _give_up(self) -> NoReturn:
        __tracebackhide__ = True
        hint = ""
        if self._users_typed and self._prompt is None:
            hint = ' If its last line is the prompt, name it: login(…, prompt=r"…").'
        elif self._prompt is not None:
            hint = f" The prompt that was named is {self._prompt.pattern!r}."
        raise ConsoleTimeoutError(
            f"waited {self._deadline.words} for {self._awaits()} at the console "
            f"{self._console.name}, in vain.{hint}\n{self._console._shown()}"
        )


def prompt_end(text: str) -> str:
    """How a prompt ends: its last character that is seen, and what follows it.

    >>> prompt_end("root@guest:~# ")
    '# '
    """
    found = _PROMPT_END.search(text)
    return found[0] if found else ""


def _plain(line: str) -> str:
    return ESCAPE.sub("", line).strip()


def at_most(deadline: Deadline, seconds: float) -> Deadline:
    """A deadline within another one."""
    left = deadline.remaining()
    return Deadline(seconds if left is None else min(left, seconds))
