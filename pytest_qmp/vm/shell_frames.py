"""How a command is put to a shell so that its output and its status can be told from the rest.

The shell is given one statement::

    printf 'MARK %s' …; command eval 'THE COMMAND'; printf 'MARK %s' … $?

It is read to its end before anything of it runs, so that a command that reads the terminal finds
none of it there, and a command that is no correct one fails alone. What is typed never holds a
mark: the shell puts its two halves together.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from pytest_qmp.errors import VMError

__all__ = ["RESTORE", "Frames", "Mark"]

# POSIX lets a terminal take no more than 255 bytes a line; Linux takes 4095.
_LONGEST_LINE = 240
# Up to there a guest's terminal holds what its shell has not read yet.
_LONGEST_COMMAND = 48 * 1024
_CONTROL = re.compile("[\x01-\x08\x0b-\x1f\x7f]")
# A kernel writes whole lines, also in the middle of a mark.
_FOREIGN = r"[^\n]{0,400}\n(?:[^\n]{0,400}\n){0,15}"

_PREPARE = (
    'stty -echo 2>/dev/null; [ "${BASH_VERSION-}${KSH_VERSION-}" ] && set +o emacs +o vi; '
    '[ "${BASH_VERSION-}" ] && set +H; '
    '[ "${ZSH_VERSION-}" ] && unsetopt zle prompt_cr prompt_sp; '
)

#: What a person at the console wants back.
RESTORE = (
    'stty echo 2>/dev/null; [ "${BASH_VERSION-}${KSH_VERSION-}" ] && set -o emacs; '
    '[ "${BASH_VERSION-}" ] && set -H; [ "${ZSH_VERSION-}" ] && setopt zle prompt_cr prompt_sp'
)


@dataclass(frozen=True)
class Mark:
    """What the shell has printed.

    Attributes:
        number: of the command.
        word: ``b`` where its output begins, ``p`` or ``pz`` of a shell that was made ready, or
            the exit status where it ends.
        foreign: what the kernel has written into the mark.
    """

    number: int
    word: str
    foreign: str


class Frames:
    """Makes what is typed for a command, and knows the marks around its output.

    Args:
        secret: what no output holds by chance; made up where it is not given.
        number: of the last command.
        eval_word: what the shell evaluates a text with.
    """

    def __init__(
        self, secret: str | None = None, number: int = 0, eval_word: str = "command eval"
    ) -> None:
        self.secret = secret or secrets.token_hex(6)
        self.number = number
        self.eval_word = eval_word
        self.pattern = re.compile(_mark_pattern(self.secret))

    def prepare(self) -> str:
        """What makes a shell ready: no echo, no editing of what is typed."""
        self.number += 1
        return (
            f"{_PREPARE}printf '~qmp%s:%s:p%s;\\n' {self.secret} {self.number} ${{ZSH_VERSION+z}}\n"
        )

    def put(self, command: str) -> str:
        """What is typed for a command.

        Raises:
            VMError: no terminal can take it.
        """
        if "\0" in command:
            raise VMError("a shell takes no command with a NUL byte in it")
        self.number += 1
        begin = f"printf '~qmp%s:%s:b;' {self.secret} {self.number}; {self.eval_word} "
        end = f"; printf '~qmp%s:%s:%s;\\n' {self.secret} {self.number} $?\n"
        # What ends a here-document has to be a whole line.
        last = "\n" if "\n" in command else ""
        typed = begin + _quoted(command + last, len(begin)) + end
        size = len(typed.encode())
        if size > _LONGEST_COMMAND:
            raise VMError(
                f"a command of {len(command.encode())} bytes is more than a console takes at once "
                f"({_LONGEST_COMMAND} bytes): put it into a file of the guest's in pieces "
                "(cat >> FILE <<'END' …), on a disk, or give it to the guest agent"
            )
        return typed

    @staticmethod
    def mark(match: re.Match[str]) -> Mark:
        """The mark that ``pattern`` has found."""
        foreign = "".join(part for name, part in match.groupdict("").items() if name[0] == "f")
        number = match["n"] or ""
        word = "".join(part for name, part in match.groupdict("").items() if name[0] == "w")
        return Mark(int(number), word, foreign)


def _mark_pattern(secret: str) -> str:
    """``~qmpSECRET:NUMBER:WORD;``, with whole lines of somebody else's at one place in it."""
    head = f"~qmp{secret}:"
    places = [
        f"{re.escape(head[:place])}(?P<f{place}>{_FOREIGN}){re.escape(head[place:])}"
        for place in range(1, len(head))
    ]
    return (
        f"(?:{re.escape(head)}|{'|'.join(places)})(?P<n>[0-9]+):"
        f"(?:(?P<w0>[a-z0-9]*);|(?P<w1>[a-z0-9]*)(?P<f>{_FOREIGN})(?P<w2>[a-z0-9]*);)"
    )


def _quoted(text: str, used: int) -> str:
    """A text in single quotes, in lines that a terminal takes; the shell joins them again."""
    pieces = ["'"]
    room = _LONGEST_LINE - used
    for character in text:
        piece = character
        if character == "'":
            piece = "'\\''"
        elif _CONTROL.match(character):
            # The terminal would act on it, and not pass it on.
            piece = f"'\"$(printf '\\{ord(character):03o}')\"'"
        size = len(piece.encode())
        if size > room and character != "\n":
            pieces.append("'\\\n'")
            room = _LONGEST_LINE
        pieces.append(piece)
        room = _LONGEST_LINE if character == "\n" else room - size
    return "".join(pieces) + "'"
