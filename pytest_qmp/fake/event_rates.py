"""Events that QEMU sends once a second at most: of several, the first and the last get through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .clock import Clock

__all__ = ["EventRates"]

_INTERVAL = 1.0
#: Names of those, each with the member of its data that tells apart what is counted on its own.
_LIMITED = {
    "RTC_CHANGE": "",
    "WATCHDOG": "",
    "BALLOON_CHANGE": "",
    "QUORUM_REPORT_BAD": "node-name",
    "QUORUM_FAILURE": "reference",
    "VSERPORT_CHANGE": "id",
    "MEMORY_DEVICE_SIZE_CHANGE": "qom-path",
    "HV_BALLOON_STATUS_REPORT": "",
}

_Event = tuple[str, "Mapping[str, Any] | None"]


class EventRates:
    """Lets events through, or keeps them for a while.

    Args:
        send: sends one to every monitor.
        clock: the machine's time.
    """

    def __init__(self, send: Callable[[str, Mapping[str, Any] | None], None], clock: Clock) -> None:
        self._send = send
        self._clock = clock
        #: What waits for its turn, by what is counted on its own; None where nothing does.
        self._kept: dict[tuple[str, str], _Event | None] = {}

    def emit(self, name: str, data: Mapping[str, Any] | None) -> None:
        """Sends an event, now or once its time has come; a later one takes its place."""
        if name not in _LIMITED:
            self._send(name, data)
            return
        key = (name, str((data or {}).get(_LIMITED[name], "")))
        if key in self._kept:
            self._kept[key] = (name, data)
            return
        self._kept[key] = None
        self._send(name, data)
        self._clock.call_later(_INTERVAL, lambda: self._due(key))

    def _due(self, key: tuple[str, str]) -> None:
        event = self._kept.pop(key)
        if event is not None:
            self.emit(*event)
