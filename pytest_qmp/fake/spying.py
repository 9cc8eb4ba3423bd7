"""What a test can ask about the commands that came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .monitor import Call
from .stubs import is_part_of

__all__ = ["find_calls", "never_called_text", "was_called_text"]

_SHOWN = 20


def find_calls(
    calls: Sequence[Call], command: str, arguments: Sequence[tuple[Sequence[str], Any]]
) -> list[Call]:
    """The calls of a command that have at least these arguments."""
    return [
        call
        for call in calls
        if call.command == command
        and all(
            any(n in call.arguments and is_part_of(value, call.arguments[n]) for n in names)
            for names, value in arguments
        )
    ]


def never_called_text(calls: Sequence[Call], command: str, arguments: dict[str, Any]) -> str:
    """What to say when a call was missed."""
    wanted = show(command, arguments)
    same = [call for call in calls if call.command == command]
    if same:
        return f"{wanted} was never sent; {command} came as:\n{_lines(same)}"
    if calls:
        return f"{wanted} was never sent; what came is:\n{_lines(calls)}"
    return f"{wanted} was never sent; no command came at all"


def was_called_text(calls: Sequence[Call], command: str, arguments: dict[str, Any]) -> str:
    """What to say when a call was not wanted."""
    times = "once" if len(calls) == 1 else f"{len(calls)} times"
    return f"{show(command, arguments)} was sent {times}:\n{_lines(calls)}"


def show(command: str, arguments: dict[str, Any]) -> str:
    """A command and its arguments as one would write the call."""
    return f"{command}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _lines(calls: Sequence[Call]) -> str:
    lines = [f"  {show(call.command, call.arguments)}" for call in calls[-_SHOWN:]]
    if len(calls) > _SHOWN:
        lines.insert(0, f"  ... {len(calls) - _SHOWN} more before these")
    return "\n".join(lines)
