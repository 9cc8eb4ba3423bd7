"""Assertions on what a command returns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from pytest_qmp.asserts.comparing import brief, describe, fits, is_list, listed, show
from pytest_qmp.text import nearest

__all__ = [
    "ANYTHING",
    "Path",
    "Target",
    "assert_qmp",
    "assert_qmp_absent",
    "assert_status",
    "assert_value",
]

_STEP = re.compile(r"([^/\[\]]+)|\[(\d+)\]")
_SHORT = 60
_WHOLE = 1000
_PLACES = 3
_LOOKED_AT = 20_000
_RUN_STATES = (
    *("colo", "debug", "finish-migrate", "guest-panicked", "inmigrate", "internal-error"),
    *("io-error", "paused", "postmigrate", "preconfig", "prelaunch", "restore-vm", "running"),
    *("save-vm", "shutdown", "suspended", "watchdog"),
)

#: Where to look: ``0/inserted/file``, or its steps, as ``[0, "inserted", "file"]``.
Path = str | Sequence[str | int]


class Executes(Protocol):
    """A client, or a machine."""

    def execute(self, command: str, arguments: Any = None, /) -> Any:
        """Executes a command, and returns what came of it."""


#: A client or a machine, or its ``execute``.
Target = Executes | Callable[..., Any]


class _Anything:
    def __repr__(self) -> str:
        return "anything"


#: What stands for a value that need only be there.
ANYTHING: Final = _Anything()


def assert_status(target: Target, expected: str | Iterable[str]) -> None:
    """Asserts the run state, such as ``running`` or ``paused``. Looks once, and does not wait.

    Args:
        target: a client, or its ``execute``.
        expected: as ``query-status`` spells it; or several, of which any will do.

    Raises:
        AssertionError: it is another.
    """
    __tracebackhide__ = True
    wanted = (expected,) if isinstance(expected, str) else tuple(expected)
    found = _execute(target, "query-status", None)["status"]
    if found in wanted:
        return
    hints = [
        f"there is no run state {one!r}{nearest(one, _RUN_STATES)}"
        for one in wanted
        if one not in _RUN_STATES
    ]
    hints = hints or ["This looks once; wait_for_status() waits for a run state"]
    names = " or ".join(map(repr, wanted))
    raise AssertionError(
        f"the machine was to be {names}, but query-status says {found!r}\n" + "\n".join(hints)
    )


def assert_qmp(
    target: Target,
    command: str,
    path: Path = "",
    value: object = ANYTHING,
    arguments: Mapping[str, Any] | None = None,
    *,
    match: object = None,
) -> None:
    """Asserts one value in what a command returns.

    Args:
        target: a client, or its ``execute``.
        command: what to ask.
        path: where to look: members and list indices, as in ``0/inserted/file``,
            ``[0]/inserted/file`` or ``[0, "inserted", "file"]``; a leading ``return`` is taken
            for the whole, as an empty one is.
        value: what must be there, exactly; or a compiled regular expression, searched for in a
            text, a class, a predicate; left out, anything.
        arguments: those of the command.
        match: instead of ``value``: the same, but a mapping names only some of the members.

    Raises:
        AssertionError: there is something else, or nothing; the text shows the expected beside
            the found, how far the path led, and where there is something like it.
        ValueError: both ``value`` and ``match``, or a path that is none.
    """
    __tracebackhide__ = True
    reply = _execute(target, command, arguments)
    assert_value(reply, path, value, match=match, what=command)


def assert_qmp_absent(
    target: Target, command: str, path: Path, arguments: Mapping[str, Any] | None = None
) -> None:
    """Asserts that there is no such member or item in what a command returns.

    Args:
        target: a client, or its ``execute``.
        command: what to ask.
        path: where to look, as for ``assert_qmp``.
        arguments: those of the command.

    Raises:
        AssertionError: there is; the text shows it.
    """
    __tracebackhide__ = True
    reply = _execute(target, command, arguments)
    walk = _Walk(reply, path)
    if walk.missing is None:
        raise AssertionError(
            f"{command}: there was to be no {walk.asked!r}, but there is {brief(walk.found)}"
        )


def assert_value(
    found: object,
    path: Path = "",
    value: object = ANYTHING,
    *,
    match: object = None,
    what: str = "the value",
) -> None:
    """Asserts one value in what was returned already, by an asynchronous client for one.

    Args:
        found: what to look into.
        path: as for ``assert_qmp``.
        value: as for ``assert_qmp``.
        match: as for ``assert_qmp``.
        what: it is, for the message.

    Raises:
        AssertionError: as for ``assert_qmp``.
        ValueError: as for ``assert_qmp``.
    """
    __tracebackhide__ = True
    partial = match is not None
    if partial and value is not ANYTHING:
        raise ValueError(
            "value= is what must be there exactly, match= a part of it: give one of them, not "
            f"{value!r} and {match!r}"
        )
    wanted = match if partial else value
    walk = _Walk(found, path)
    if walk.missing is not None:
        raise AssertionError(
            f"{what}: there is no {walk.asked!r}: {walk.lack()}{walk.elsewhere()}\n"
            f"{walk.shown(what)}"
        )
    if wanted is ANYTHING or fits(wanted, walk.found, partial=partial):
        return
    raise AssertionError(
        f"{what}: {_told(walk, wanted, partial)}{_where_else(walk, wanted)}"
        + (f"\n{walk.shown(what)}" if walk.steps else "")
    )


class _Walk:
    """A path followed as far as it leads."""

    def __init__(self, reply: object, path: Path) -> None:
        self.reply = reply
        self.steps = _steps(path)
        if self.steps[:1] == ["return"] and not (isinstance(reply, Mapping) and "return" in reply):
            del self.steps[0]
        self.asked = path if isinstance(path, str) else "/".join(map(str, path))
        self.found = self.around = reply
        self.walked = self.place = ""
        self.missing: str | None = None
        for step in self.steps:
            found = self.found
            if isinstance(found, Mapping) and step in found:
                inner = found[step]
            elif is_list(found) and _index(step, found):
                inner = found[int(step)]
            else:
                self.missing = step
                self.around, self.place = found, self.walked
                return
            self.around, self.place = found, self.walked
            self.found = inner
            self.walked = f"{self.walked}/{step}" if self.walked else step

    def lack(self) -> str:
        """Why the path leads no further."""
        found, step = self.found, self.missing or ""
        place = f"at {self.walked!r}" if self.walked else "at the top"
        if isinstance(found, Mapping):
            members = ", ".join(map(str, found)) or "none"
            near = nearest(step, map(str, found))
            return f"{place} is no member {step!r}{near} (members: {members})"
        if is_list(found):
            return f"{place} is a list of {len(found)}, which has no item {step!r}"
        return f"{place} is {brief(found)}, which has no members"

    def elsewhere(self) -> str:
        """Where what was looked for is to be found instead."""
        names = [one for one in (self.steps[-1], self.missing) if one and not one.isdigit()]
        places: list[str] = []
        for name in dict.fromkeys(names):
            places = [path for path, _ in _places(self.reply) if path.split("/")[-1] == name]
            if places:
                return f"\n{name!r} is at {_few(places, '/'.join(self.steps))}"
        return ""

    def shown(self, what: str) -> str:
        """What came, or if that is long what is around the place where the path ended."""
        whole = show(self.reply)
        if len(whole) <= _WHOLE or not self.place:
            return f"{what} returned {whole}"
        return f"{what} returned at {self.place!r} {show(self.around)}"


def _told(walk: _Walk, wanted: object, partial: bool) -> str:
    found = walk.found
    name = f"{walk.asked!r} " if walk.steps else "it "
    both_deep = isinstance(wanted, Mapping) and isinstance(found, Mapping)
    if both_deep or (is_list(wanted) and is_list(found)):
        return f"{name}is not as it was to be:\n{listed(wanted, found, partial=partial)}"
    expected, seen = describe(wanted), brief(found)
    if max(len(expected), len(seen)) <= _SHORT:
        return f"{name}was to be {expected}, but it is {seen}"
    return f"{name}is not as it was to be:\n  expected {expected}\n  found    {seen}"


def _where_else(walk: _Walk, wanted: object) -> str:
    # Of what is everywhere, it says nothing.
    if not isinstance(wanted, (str, int, float)) or isinstance(wanted, bool) or wanted in ("", 0):
        return ""
    places = [path for path, value in _places(walk.reply) if fits(wanted, value)]
    if not places:
        return ""
    return f"\n{describe(wanted)} is at {_few(places, '/'.join(walk.steps))}"


def _places(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every path in a reply, with what is there; of a huge reply not all."""
    waiting = [(path, value)]
    for _ in range(_LOOKED_AT):
        if not waiting:
            return
        path, value = waiting.pop()
        if path:
            yield path, value
        inner: Iterable[tuple[object, object]] = ()
        if isinstance(value, Mapping):
            inner = value.items()
        elif is_list(value):
            inner = enumerate(value)
        deeper = [(f"{path}/{step}" if path else str(step), one) for step, one in inner]
        waiting.extend(reversed(deeper))


def _few(places: list[str], asked: str) -> str:
    def far(place: str) -> float:
        return -difflib.SequenceMatcher(None, asked, place).ratio()

    near = sorted(places[:1000], key=far)[:_PLACES]
    more = len(places) - len(near)
    return ", ".join(map(repr, near)) + (f" and {more} other places" if more > 0 else "")


def _index(step: str, found: Sequence[Any]) -> bool:
    return step.isdecimal() and int(step) < len(found)


def _steps(path: Path) -> list[str]:
    if isinstance(path, str):
        return [key or index for key, index in _STEP.findall(path)]
    if not is_list(path):
        raise ValueError(
            "a path is a text such as '0/inserted/file', or its steps, as [0, 'inserted', "
            f"'file']: not {path!r}"
        )
    return [str(step) for step in path]


def _execute(target: Target, command: str, arguments: Mapping[str, Any] | None) -> Any:
    __tracebackhide__ = True
    execute: Any = getattr(target, "execute", None) or target
    return execute(command, arguments)
