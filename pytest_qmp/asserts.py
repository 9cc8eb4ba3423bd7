"""Assertion helpers that work on anything that executes QMP commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_qmp.text import nearest

__all__ = ["assert_qmp", "assert_status"]

_STEP = re.compile(r"([^/\[\]]+)|\[(\d+)\]")
_SHOWN = 1000


def assert_status(execute: Callable[..., Any], expected: str) -> None:
    """Asserts the run state, such as ``running`` or ``paused``.

    Args:
        execute: a client's ``execute``.
        expected: as ``query-status`` spells it.

    Raises:
        AssertionError: it is another.
    """
    __tracebackhide__ = True
    found = execute("query-status")["status"]
    if found != expected:
        raise AssertionError(f"the machine was to be {expected!r}, but query-status says {found!r}")


def assert_qmp(
    execute: Callable[..., Any],
    command: str,
    path: str,
    value: object,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Asserts one value in what a command returns.

    Args:
        execute: a client's ``execute``.
        command: what to ask.
        path: where to look: members and list indices, as in ``0/inserted/file`` or
            ``[0]/inserted/file``; empty for the whole.
        value: what must be there; compared by ``==``.
        arguments: those of the command.

    Raises:
        AssertionError: there is something else, or nothing; the text shows how far the path led.
    """
    __tracebackhide__ = True
    reply = execute(command, arguments)
    found = reply
    walked = ""
    for step in (key or index for key, index in _STEP.findall(path)):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, Sequence) and not isinstance(found, str) and _fits(step, found):
            found = found[int(step)]
        else:
            raise AssertionError(
                f"{command}: there is no {path!r}: {_lacks(step, found, walked)}\n"
                f"{command} returned {_show(reply)}"
            )
        walked = f"{walked}/{step}" if walked else step
    if found != value:
        raise AssertionError(
            f"{command}: {path!r} was to be {value!r}, but it is {found!r}"
            + (f"\n{command} returned {_show(reply)}" if path else "")
        )


def _fits(step: str, found: Sequence[Any]) -> bool:
    return step.isdigit() and int(step) < len(found)


def _lacks(step: str, found: object, walked: str) -> str:
    place = f"at {walked!r}" if walked else "at the top"
    if isinstance(found, Mapping):
        members = ", ".join(map(str, found)) or "none"
        return f"{place} is no member {step!r}{nearest(step, map(str, found))} (members: {members})"
    if isinstance(found, Sequence) and not isinstance(found, str):
        return f"{place} is a list of {len(found)}, which has no item {step!r}"
    return f"{place} is {found!r}, which has no members"


def _show(reply: object) -> str:
    text = json.dumps(reply, indent=2, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
