"""How far the long things have come: told by who does them, shown by who has a terminal."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Protocol

__all__ = ["Progress", "ProgressSink", "Report", "progress", "set_progress_sink"]

#: Seconds after which a thing takes long enough to be told of.
PATIENCE = 2.0

_REDRAW_SECONDS = 0.5
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


class Report(Protocol):
    """What ``with progress(…) as report:`` gives."""

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None:
        """Tells how far it is; costs next to nothing, so tell it as often as you know it.

        Args:
            done: what is done, in any unit.
            total: all there is to do, in the same unit; None or 0 if that is not known.
            unit: what is counted, in the plural: ``clusters``; ``bytes`` is shown as MiB and so on.
        """


class ProgressSink(Protocol):
    """Where progress is shown. Called by one thread at a time, but not always the same."""

    def show(self, what: str, figures: str) -> None:
        """Shows this in place of what was shown before."""

    def clear(self) -> None:
        """Takes away what was shown."""


class _Task:
    """One thing in the doing."""

    __slots__ = ("_far", "began", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = time.monotonic()
        self._far: tuple[float, float | None, str] | None = None

    def report(self, done: float, total: float | None = None, unit: str = "") -> None:
        self._far = (done, total, unit)

    def figures(self, now: float) -> str:
        """How far and how long, in words."""
        elapsed = now - self.began
        if self._far is None:
            return _duration(elapsed)
        done, total, unit = self._far
        parts = []
        if total:
            parts.append(f"{min(100, int(100 * done / total))} %")
        if unit or not total:
            parts.append(_amount(done, total, unit))
        parts.append(_duration(elapsed))
        if total and 0 < done < total:
            parts.append(f"about {_duration(elapsed * (total - done) / done)} left")
        return ", ".join(parts)


class _Board:
    """What is in the doing in this process; a thread shows it for as long as there is some."""

    def __init__(self, sink: ProgressSink) -> None:
        self.sink = sink
        self._tasks: list[_Task] = []
        self._shown: _Task | None = None
        self._changed = threading.Condition()
        self._running = self._closed = False

    def add(self, task: _Task) -> None:
        with self._changed:
            if self._closed:
                return
            self._tasks.append(task)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="qmp-progress", daemon=True).start()

    def remove(self, task: _Task) -> None:
        with self._changed:
            if task not in self._tasks:
                return
            self._tasks.remove(task)
            if self._shown is task:
                self._clear()
            if self._shown is None:
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._tasks.clear()
            self._clear()
            self._changed.notify_all()

    def _clear(self) -> None:
        if self._shown is not None:
            self._shown = None
            self.sink.clear()

    def _run(self) -> None:
        with self._changed:
            while self._tasks:
                now = time.monotonic()
                # What was begun last is what is being done for the others.
                long = [one for one in self._tasks if now - one.began >= PATIENCE]
                if long:
                    self._shown = long[-1]
                    self.sink.show(self._shown.what, self._shown.figures(now))
                    self._changed.wait(_REDRAW_SECONDS)
                else:
                    self._changed.wait(max(0.0, self._tasks[0].began + PATIENCE - now))
            self._running = False


_board: _Board | None = None


class Progress:
    """The context manager that ``progress()`` gives."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: tuple[_Board, _Task] | None = None

    def __enter__(self) -> Report:
        board = _board
        if board is None:
            return _untold
        task = _Task(self._what)
        self._told = (board, task)
        board.add(task)
        return task.report

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._told is not None:
            board, task = self._told
            self._told = None
            board.remove(task)


def progress(what: str) -> Progress:
    """Tells whoever watches the run that something may take long; a context manager.

    Nothing is shown before it has taken 2 seconds, and nothing at all where there is no terminal.
    May be nested and used from several threads: what was begun last is shown.

    Args:
        what: is being done, and to what: ``migrating vm0``.

    Returns:
        A context manager that gives ``report(done, total, unit)``.

    >>> with progress("copying the image") as report:
    ...     report(3 << 20, 10 << 20, "bytes")
    """
    return Progress(what)


def set_progress_sink(sink: ProgressSink | None) -> ProgressSink | None:
    """Sets where this process shows progress from now on; what is shown is taken away.

    Args:
        sink: the place; None for nowhere.

    Returns:
        The one before.
    """
    global _board
    before, _board = _board, None if sink is None else _Board(sink)
    if before is None:
        return None
    before.close()
    return before.sink


def _untold(done: float, total: float | None = None, unit: str = "") -> None:
    """Nobody watches."""


def _forget() -> None:
    """A child after a fork: the thread that shows is not there, its lock may be held."""
    global _board
    _board = None


os.register_at_fork(after_in_child=_forget)


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        scale = 0
        while (total or done) >= 1024 ** (scale + 1) and scale < len(_BYTES) - 1:
            scale += 1
        done, total, unit = done / 1024**scale, (total or 0) / 1024**scale, _BYTES[scale]
    of = f" of {_number(total)}" if total else ""
    return f"{_number(done)}{of} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:.1f}" if value % 1 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{whole:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02} h"
