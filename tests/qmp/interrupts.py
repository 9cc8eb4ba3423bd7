"""Raises at every point of a Python call at which a signal handler could have raised."""

from __future__ import annotations

import dis
import gc
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

__all__ = ["Interrupted", "called_at", "interrupted_at", "points_of"]


class Interrupted(BaseException):
    """What the handler of a signal raised, as ``KeyboardInterrupt`` is."""


class _Points:
    """Counts the places where CPython looks for signals, and raises at one of them.

    These are: after a call, at a jump back, and at the start of a function (CHECK_EVAL_BREAKER in
    CPython's ceval; since 3.10 nowhere else).
    """

    def __init__(self, point: int | None, strike: Callable[[str], object] | None = None) -> None:
        self.count = 0
        self.place = ""
        self._point = point
        self._strike = strike or self._interrupt
        self._before: dict[FrameType, int] = {}
        self._names: dict[CodeType, dict[int, str]] = {}

    @staticmethod
    def _interrupt(place: str) -> None:
        raise Interrupted(place)

    def pass_by(self, frame: FrameType, offset: int) -> None:
        """The instruction at that offset is about to run."""
        code = frame.f_code
        names = self._names.get(code)
        if names is None:
            names = {one.offset: one.opname for one in dis.get_instructions(code)}
            self._names[code] = names
        last = self._before.get(frame)
        self._before[frame] = offset
        name = "RESUME" if last is None else names.get(last, "")
        if sys.version_info >= (3, 12):
            # It looks before it jumps; 3.13 leaves that jump out of the try that it loops in.
            back = names.get(offset) == "JUMP_BACKWARD"
        else:
            back = name.startswith("JUMP") and last is not None and offset < last
        if not (name == "RESUME" or name.startswith("CALL") or back):
            return
        if self.count == self._point and not self.place:
            self.place = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
            self._strike(self.place)
        self.count += 1

    def watch(self, action: Callable[[], object]) -> None:
        """Does it, and looks at each instruction of this thread meanwhile, but for our own."""
        watch = self._monitor if sys.version_info >= (3, 12) else self._trace
        # What is raised in a callback of the collector goes nowhere, and hypothesis has one.
        collecting = gc.isenabled()
        gc.disable()
        try:
            watch(action)
        finally:
            if collecting:
                gc.enable()

    def _trace(self, action: Callable[[], object]) -> None:
        def trace(frame: FrameType, what: str, _: Any) -> Any:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            if what == "opcode" and frame.f_code.co_filename != __file__:
                self.pass_by(frame, frame.f_lasti)
            return trace

        sys.settrace(trace)
        try:
            action()
        finally:
            sys.settrace(None)

    def _monitor(self, action: Callable[[], object]) -> None:
        # Tracing by instructions misses some on 3.12 and 3.13. Monitoring sees all threads'.
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        tool = monitoring.DEBUGGER_ID
        me = threading.get_ident()

        def instruction(code: CodeType, offset: int) -> None:
            if threading.get_ident() == me and code.co_filename != __file__:
                self.pass_by(sys._getframe(1), offset)

        monitoring.use_tool_id(tool, "interrupts")
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, instruction)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        try:
            action()
        finally:
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
            monitoring.free_tool_id(tool)


def points_of(action: Callable[[], object]) -> int:
    """Does it, and returns how many points it has."""
    points = _Points(None)
    points.watch(action)
    return points.count


def interrupted_at(point: int, action: Callable[[], object]) -> str:
    """Does it, with an exception at that point; returns the place, or "" if it came to its end."""
    points = _Points(point)
    try:
        points.watch(action)
    except Interrupted:
        return points.place
    return ""


def called_at(point: int, action: Callable[[], object], handler: Callable[[], object]) -> str:
    """Does it, with the handler called at that point; returns the place, or ""."""
    points = _Points(point, lambda _: handler())
    points.watch(action)
    return points.place
