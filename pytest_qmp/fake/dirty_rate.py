"""How fast the guest writes to its memory, as ``calc-dirty-rate`` measures: not at all."""

from __future__ import annotations

import time
from typing import Any

from .clock import Clock
from .replies import CommandFailed
from .versions import Dialect

__all__ = ["DirtyRate"]

_DEFAULT_PAGES = 512
_PAGES = range(128, 16385)
#: Milliseconds.
_TIMES = range(50, 60001)


class DirtyRate:
    """The measurement of a machine.

    Args:
        dialect: the version that is emulated.
        clock: the machine's time.
        has_memory: the machine has any.
    """

    def __init__(self, dialect: Dialect, clock: Clock, *, has_memory: bool) -> None:
        self._dialect = dialect
        self._clock = clock
        self._rate = 0 if has_memory else -1
        self._state = "unstarted"
        self._milliseconds = 0
        self._pages = 0
        self._mode = "page-sampling"
        self._started = 0

    def begin(self, milliseconds: int, pages: int | None, mode: str) -> None:
        """Starts to measure.

        Args:
            milliseconds: for how long.
            pages: of each GiB, None for QEMU's own choice.
            mode: how, in QEMU's words.

        Raises:
            CommandFailed: QEMU refuses it.
        """
        old = self._dialect.version < (10, 0)
        if self._state == "measuring":
            raise CommandFailed("the dirty rate is already being measured.")
        if milliseconds not in (range(1000, 60001) if old else _TIMES):
            raise CommandFailed(
                "calc-time is out of range[1, 60]."
                if old
                else "Calculation time is out of range [50ms, 60000ms]."
            )
        if pages is not None and mode != "page-sampling":
            raise CommandFailed("sample-pages is used only in page-sampling mode")
        if pages is not None and pages not in _PAGES:
            raise CommandFailed("sample-pages is out of range[128, 16384].")
        if mode == "dirty-ring":
            raise CommandFailed("mode dirty-ring is not enabled, use other method instead.")
        self._state = "measuring"
        self._milliseconds = milliseconds
        self._pages = _DEFAULT_PAGES if pages is None else pages
        self._mode = mode
        # QEMU 7.2 counts from the start of the host.
        self._started = int(time.monotonic() if old else time.time())
        if self._rate < 0:
            self._end()
        else:
            self._clock.call_later(milliseconds / 1000, self._end)

    def info(self, unit: str) -> dict[str, Any]:
        """What ``query-dirty-rate`` says, in seconds or milliseconds."""
        shown = self._milliseconds if unit == "millisecond" else self._milliseconds // 1000
        info: dict[str, Any] = {
            "status": self._state,
            "start-time": self._started,
            "calc-time": shown,
            "sample-pages": self._pages,
            "mode": self._mode,
        }
        if self._dialect.version >= (10, 0):
            info["calc-time-unit"] = unit
        if self._state == "measured":
            info["dirty-rate"] = self._rate
        return info

    def _end(self) -> None:
        self._state = "measured"
        if self._mode != "page-sampling":
            self._pages = 0
