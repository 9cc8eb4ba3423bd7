"""What a test can ask about the commands that came."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .core import Core
from .monitor import Call
from .reactor import Reactor
from .stubs import is_part_of

__all__ = ["Spying"]

_SHOWN = 20
_NEAREST = 5
_Named = Sequence[tuple[Sequence[str], Any]]


class Spying:
    """The part of a server that remembers what came; mixed into FakeQMPServer."""

    _core: Core
    _reactor: Reactor

    @property
    def calls(self) -> list[Call]:
        """The commands that came so far, oldest first, those that were refused included."""
        with self._reactor.lock:
            return list(self._core.calls)

    def calls_of(self, command: str, /, **arguments: Any) -> list[Call]:
        """The calls of a command that had at least these arguments, oldest first.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such argument.
        """
        with self._reactor.lock:
            named = self._core.stubs.named(command, arguments)
            return _find_calls(self._core.calls, command, named)

    def assert_called(self, command: str, /, *, times: int | None = None, **arguments: Any) -> None:
        """Fails the test unless a command came, with at least these arguments.

        Args:
            command: its name.
            times: how often exactly; None for once or more.
            arguments: what it had, among others.
        """
        __tracebackhide__ = True
        found = self.calls_of(command, **arguments)
        if found if times is None else len(found) == times:
            return
        if found:
            wanted = "once" if times == 1 else f"{times} times"
            raise AssertionError(_was_called_text(found, command, arguments, f", not {wanted}"))
        with self._reactor.lock:
            named = self._core.stubs.named(command, arguments)
            raise AssertionError(_never_called_text(self._core.calls, command, arguments, named))

    def assert_called_once(self, command: str, /, **arguments: Any) -> None:
        """Fails the test unless a command came exactly once with at least these arguments."""
        __tracebackhide__ = True
        self.assert_called(command, times=1, **arguments)

    def assert_not_called(self, command: str, /, **arguments: Any) -> None:
        """Fails the test if a command came, with at least these arguments.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such command or argument, so that this
                could never fail.
        """
        __tracebackhide__ = True
        found = self.calls_of(command, **arguments)
        if not found:
            with self._reactor.lock:
                self._core.checker.check_command(command)
        if found:
            raise AssertionError(_was_called_text(found, command, arguments))


def _find_calls(calls: Sequence[Call], command: str, named: _Named) -> list[Call]:
    return [
        call
        for call in calls
        if call.command == command and not list(_differences(named, call.arguments))
    ]


def _never_called_text(
    calls: Sequence[Call], command: str, arguments: Mapping[str, Any], named: _Named
) -> str:
    wanted = _show(command, arguments)
    same = [call for call in calls if call.command == command]
    if same:
        return f"{wanted} was never sent; {command} came as:\n{_nearest(same, named)}"
    if calls:
        return f"{wanted} was never sent; what came is:\n{_lines(calls)}"
    return f"{wanted} was never sent; no command came at all"


def _was_called_text(
    calls: Sequence[Call], command: str, arguments: Mapping[str, Any], more: str = ""
) -> str:
    times = "once" if len(calls) == 1 else f"{len(calls)} times"
    return f"{_show(command, arguments)} was sent {times}{more}:\n{_lines(calls)}"


def _nearest(calls: Sequence[Call], named: _Named) -> str:
    """The calls that differ least from what was wanted, each with what differs in it."""
    judged = [(list(_differences(named, call.arguments)), call) for call in calls]
    # The arguments that differ count, before how much there is of it inside of one.
    judged.sort(key=lambda one: (len({re.split("[.:]", text)[0] for text in one[0]}), len(one[0])))
    lines = []
    for differences, call in judged[:_NEAREST]:
        lines.append(f"  {_show(call.command, call.arguments)}")
        lines += [f"    > {difference}" for difference in differences]
    if len(judged) > _NEAREST:
        lines.append(f"  ... {len(judged) - _NEAREST} more that differ as much or more")
    return "\n".join(lines)


def _differences(named: _Named, arguments: Mapping[str, Any]) -> Iterator[str]:
    """What keeps arguments from being the wanted ones, a line each."""
    for names, wanted in named:
        given = [name for name in names if name in arguments]
        if not given:
            yield f"{names[0]}: wanted {wanted!r}, was not given"
        elif not any(is_part_of(wanted, arguments[name]) for name in given):
            yield from _inside(given[0], wanted, arguments[given[0]])


def _inside(path: str, wanted: Any, came: Any) -> Iterator[str]:
    if not isinstance(wanted, Mapping) or not isinstance(came, Mapping):
        yield f"{path}: wanted {wanted!r}, came {came!r}"
        return
    for key, value in wanted.items():
        if key not in came:
            yield f"{path}.{key}: wanted {value!r}, was not given"
        elif not is_part_of(value, came[key]):
            yield from _inside(f"{path}.{key}", value, came[key])


def _show(command: str, arguments: Mapping[str, Any]) -> str:
    """A command and its arguments as one would write the call."""
    return f"{command}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _lines(calls: Sequence[Call]) -> str:
    lines = [f"  {_show(call.command, call.arguments)}" for call in calls[-_SHOWN:]]
    if len(calls) > _SHOWN:
        lines.insert(0, f"  ... {len(calls) - _SHOWN} more before these")
    return "\n".join(lines)
