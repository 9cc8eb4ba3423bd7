"""A shell at the fake's console, which answers commands, typed or put to it by ``run()``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Union

from pytest_qmp.errors import FakeQMPServerError

__all__ = ["Answer", "ScriptedShell"]

#: What a command writes; with its exit status, where that is not 0; or a function of the command
#: that returns one of these.
Answer = Union[str, bytes, "tuple[str | bytes, int]", Callable[[str], "Answer"]]

# As the console's ``run()`` types it: what makes a shell ready, and a command in its frame.
_LINE = re.compile(
    rb"stty [^\n]*; printf '~qmp%s:%s:p%s;\\n' (?P<asked>\w+ \d+) [^\n]*\n"
    rb"|printf '~qmp%s:%s:b;' (?P<mark>\w+ \d+); \w[\w ]* '(?P<framed>(?:[^'\n]|\n|'\\''|'\\\n'"
    rb"|'\"\$\(printf '\\\d{3}'\)\"')*)'; printf [^\n]*\n"
    rb"|(?P<typed>(?!stty [^\n]*~qmp|printf '~qmp)[^\n]*)\n"
)
_CONTROL = re.compile(rb"'\"\$\(printf '\\(\d{3})'\)\"'")


class ScriptedShell:
    """Knows what some commands write.

    Args:
        commands: by command; or a function that gets each.
        prompt: what it writes when it waits.

    Raises:
        FakeQMPServerError: an answer is none.
    """

    #: What is typed at it.
    pattern = _LINE

    def __init__(self, commands: Mapping[str, Answer] | Callable[[str], Answer], prompt: str):
        self._commands = commands
        self.prompt = prompt.encode()
        self._number = 0
        if isinstance(commands, Mapping):
            for command, answer in commands.items():
                if not callable(answer):
                    _checked(answer, command)

    def reply(self, line: re.Match[bytes]) -> bytes:
        """What it writes for a line, and its prompt."""
        if line["asked"] is not None:
            return _mark(line["asked"], "p") + b"\r\n" + self.prompt
        framed = line["framed"]
        command = line["typed"] if framed is None else _unquoted(framed)
        output, status = self._run(command.decode("utf-8", "replace").strip("\n"))
        output = output.replace(b"\n", b"\r\n")
        if framed is None:
            return line["typed"] + b"\r\n" + output + self.prompt
        begin, end = _mark(line["mark"], "b"), _mark(line["mark"], str(status))
        return begin + output + end + b"\r\n" + self.prompt

    def _run(self, command: str) -> tuple[bytes, int]:
        if not command.strip():
            return b"", 0
        if not isinstance(self._commands, Mapping):
            return _checked(self._commands(command), command)
        answer = self._commands.get(command)
        if answer is None:
            return f"sh: {command.split()[0]}: not found\n".encode(), 127
        return _checked(answer(command) if callable(answer) else answer, command)


def _checked(answer: Answer, command: str) -> tuple[bytes, int]:
    text, status = answer if isinstance(answer, tuple) else (answer, 0)
    if isinstance(text, str):
        text = text.encode()
    if not isinstance(text, bytes) or not isinstance(status, int):
        raise FakeQMPServerError(
            f"what the command {command!r} writes is a str or bytes, alone or in a tuple with its "
            f"exit status, or a function that returns that: not {answer!r}"
        )
    return text, status


def _mark(fields: bytes, word: str) -> bytes:
    secret, number = fields.split()
    return b"~qmp%s:%s:%s;" % (secret, number, word.encode())


def _unquoted(text: bytes) -> bytes:
    text = text.replace(b"'\\\n'", b"")
    text = _CONTROL.sub(lambda found: bytes([int(found[1], 8)]), text)
    return text.replace(b"'\\''", b"'")
