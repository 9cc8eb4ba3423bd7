"""How a command that is refused says so inside the fake."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["GENERIC_ERROR", "CommandFailed", "Manner", "NotModelled"]

GENERIC_ERROR = "GenericError"


class CommandFailed(Exception):  # noqa: N818 - an answer on the wire, not an error of the fake
    """A command's answer is an error: its class and its description, in QEMU's words."""

    def __init__(self, desc: str, error_class: str = GENERIC_ERROR) -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class


class NotModelled(Exception):  # noqa: N818 - told to the test as an unmodelled command
    """A command is modelled, but not what it was asked for here; the text says what."""


class Manner(NamedTuple):
    """How a reply is sent, where not as QEMU does.

    Attributes:
        copies: how often.
        wrong_id: the id to send instead of the client's, alone in a list; None for the client's.
        cut_after: so many bytes of the line are sent, then the connection is closed.
    """

    copies: int = 1
    wrong_id: list[Any] | None = None
    cut_after: int | None = None
