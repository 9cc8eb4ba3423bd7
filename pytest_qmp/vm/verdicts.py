"""Which of the things that happen to a machine are a verdict on the test, unless it wants them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pytest_qmp.errors import VMConfigError
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.text import nearest

__all__ = ["EVENT_KINDS", "KINDS", "STATUS_KINDS", "Judge", "ProcessEnd", "Verdict", "check_kinds"]

#: What ``vm.allow()`` takes, and what each means.
KINDS = {
    "reset": "the guest reset the machine",
    "shutdown": "the machine was shut down by its guest, or from outside",
    "panic": "the guest panicked (GUEST_PANICKED)",
    "crash-loaded": "the guest crashed into its crash kernel (GUEST_CRASHLOADED)",
    "watchdog": "a watchdog expired (WATCHDOG)",
    "io-error": "a disk failed (BLOCK_IO_ERROR, or a stop with the run state io-error)",
    "internal-error": "the machine stopped with the run state internal-error",
    "memory-failure": "the host reported broken memory (MEMORY_FAILURE)",
    "exit": "the QEMU process ended without having been asked to, or not cleanly",
    "console": "a console wrote what was declared fatal, or an error",
}

#: The kinds that an event belongs to: a wait for it wants these.
EVENT_KINDS = {
    "RESET": frozenset({"reset"}),
    "SHUTDOWN": frozenset({"shutdown"}),
    "GUEST_PANICKED": frozenset({"panic"}),
    "GUEST_CRASHLOADED": frozenset({"crash-loaded"}),
    "WATCHDOG": frozenset({"watchdog"}),
    "BLOCK_IO_ERROR": frozenset({"io-error"}),
    "MEMORY_FAILURE": frozenset({"memory-failure"}),
}

#: The kinds that a run state is reached by: a wait for it wants these.
STATUS_KINDS = {
    "shutdown": frozenset({"shutdown"}),
    "guest-panicked": frozenset({"panic"}),
    "internal-error": frozenset({"internal-error"}),
    "io-error": frozenset({"io-error"}),
    "watchdog": frozenset({"watchdog"}),
    "prelaunch": frozenset({"reset"}),
}

# SeaBIOS, run anew after a reset, resets the machine itself, up to four times, to find its memory
# as it was. It does so first of all, within 0.1 s, but a busy host takes its time. A guest that
# goes on resetting is noticed a little later.
_FIRMWARE_SECONDS = 2.0

_ASKED_FOR = frozenset({"host-qmp-quit", "host-qmp-system-reset", "snapshot-load", "none"})


def check_kinds(kinds: Iterable[str], where: str) -> frozenset[str]:
    """The kinds as a set.

    Raises:
        VMConfigError: one is unknown; the text names the nearest.
    """
    __tracebackhide__ = True
    if isinstance(kinds, str):
        kinds = (kinds,)
    found = frozenset(kinds)
    for kind in sorted(found - KINDS.keys()):
        known = "\n".join(f"  {name}: {meaning}" for name, meaning in KINDS.items())
        raise VMConfigError(
            f"{where}: there is no {kind!r}{nearest(kind, KINDS)}\nIt takes:\n{known}"
        )
    return found


@dataclass(frozen=True)
class Verdict:
    """Something that happened to a machine and that ends every wait, unless the test allows it.

    Attributes:
        kind: one of ``KINDS``.
        text: what happened, in a few words.
        event: the event that told it, if one did.
        moment: when it was noticed, by ``time.monotonic()``.
        fatal: False only fails the test at its end, and ends no wait.
    """

    kind: str
    text: str
    event: QMPEvent | None = None
    moment: float = field(default_factory=time.monotonic)
    fatal: bool = True


@dataclass(frozen=True)
class ProcessEnd:
    """How a QEMU process ended.

    Attributes:
        status: its exit status, negative for a signal.
        text: the same in words.
    """

    status: int
    text: str


class Judge:
    """Follows one machine's events, in order, and says which are a verdict.

    What was asked for over QMP is none, and what only follows from another is no second one.

    Args:
        firmware_resets: True if the machine's firmware answers each reset with its own.

    Attributes:
        own_resets: the timestamps of the resets that were the firmware's own.
    """

    def __init__(self, *, firmware_resets: bool = False) -> None:
        self.own_resets: set[float] = set()
        self._firmware_resets = firmware_resets
        self._reset_at = -math.inf
        self._stopped = self._boots_later = False
        self._power_button = False
        self._asked_to_end = self._asked_to_crash = False
        self._shutdown: QMPEvent | None = None
        self._cause: QMPEvent | None = None

    def ask_to_end(self) -> None:
        """We are about to end the process ourselves, however it takes that."""
        self._asked_to_end = True

    def ask_to_crash(self, asked: bool = True) -> None:
        """The guest is about to be crashed, until it starts anew or is off; or no longer."""
        self._asked_to_crash = asked

    def event(self, event: QMPEvent) -> Verdict | None:
        """Looks at an event; None if it is no verdict."""
        judge = _EVENTS.get(event.name)
        return judge(self, event) if judge is not None else None

    def status(self, status: str) -> Verdict | None:
        """Looks at the run state that a STOP led to."""
        if status == "internal-error":
            return Verdict(status, "the machine stopped with the run state internal-error")
        if status == "io-error" and not self._caused_by("BLOCK_IO_ERROR"):
            return Verdict(status, "the machine stopped with the run state io-error")
        return None

    def end(self, end: ProcessEnd) -> Verdict | None:
        """Looks at how the process ended."""
        if self._asked_to_end:
            return None
        if self._shutdown is None:
            # riscv64's QEMU 7.2 powers off like this.
            kind = "shutdown" if end.status == 0 else "exit"
            return Verdict(kind, f"QEMU {end.text} without having been asked to")
        reason = self._shutdown.data.get("reason")
        if end.status == 0 or (end.status == 1 and reason == "guest-panic"):
            return None
        return Verdict("exit", f"QEMU {end.text} after {self._shutdown}")

    def _caused_by(self, name: str, *actions: str) -> bool:
        cause = self._cause
        if cause is None or cause.name != name:
            return False
        return not actions or cause.data.get("action") in actions

    def _on_panicked(self, event: QMPEvent) -> Verdict | None:
        self._cause = event
        if self._asked_to_crash:
            return None
        action = event.data.get("action")
        return Verdict("panic", f"the guest panicked (GUEST_PANICKED, action {action})", event)

    def _on_crash_loaded(self, event: QMPEvent) -> Verdict | None:
        self._cause = event
        if self._asked_to_crash:
            return None
        return Verdict(
            "crash-loaded", "the guest crashed into its crash kernel (GUEST_CRASHLOADED)", event
        )

    def _on_watchdog(self, event: QMPEvent) -> Verdict:
        self._cause = event
        action = event.data.get("action")
        return Verdict("watchdog", f"the watchdog expired (WATCHDOG, action {action})", event)

    def _on_io_error(self, event: QMPEvent) -> Verdict:
        self._cause = event
        data = event.data
        where = data.get("node-name") or data.get("device") or data.get("qom-path") or "a disk"
        return Verdict(
            "io-error",
            f"a {data.get('operation', 'request')} of {where} failed: "
            f"{data.get('reason', 'no reason given')} "
            f"(BLOCK_IO_ERROR, action {data.get('action')})",
            event,
        )

    def _on_memory_failure(self, event: QMPEvent) -> Verdict:
        return Verdict("memory-failure", f"the host's memory failed ({event})", event)

    def _on_reset(self, event: QMPEvent) -> Verdict | None:
        caused = self._caused_by("WATCHDOG", "reset")
        self._cause = None
        self._power_button = False
        reason = event.data.get("reason")
        since = abs(event.timestamp - self._reset_at)
        if self._firmware_resets and reason == "guest-reset" and since <= _FIRMWARE_SECONDS:
            self.own_resets.add(event.timestamp)
            return None
        self._reset_at = event.timestamp
        self._boots_later = self._stopped
        crashed, self._asked_to_crash = self._asked_to_crash, False
        if caused or crashed or reason in _ASKED_FOR:
            return None
        return Verdict("reset", f"the machine was reset (RESET, reason {reason})", event)

    def _on_shutdown(self, event: QMPEvent) -> Verdict | None:
        self._shutdown = event
        caused = self._caused_by("WATCHDOG", "poweroff", "shutdown")
        caused = caused or self._caused_by("GUEST_PANICKED") or self._asked_to_crash
        self._cause = None
        self._asked_to_crash = False
        reason = event.data.get("reason")
        if caused or self._asked_to_end or reason in _ASKED_FOR:
            return None
        if self._power_button and reason == "guest-shutdown":
            return None
        return Verdict("shutdown", f"the machine was shut down (SHUTDOWN, reason {reason})", event)

    def _on_powerdown(self, event: QMPEvent) -> None:
        self._power_button = True

    def _on_stop(self, event: QMPEvent) -> None:
        self._stopped = True

    def _on_resume(self, event: QMPEvent) -> None:
        self._shutdown = self._cause = None
        if self._boots_later:
            self._reset_at = event.timestamp
        self._stopped = self._boots_later = False


_EVENTS = {
    "GUEST_PANICKED": Judge._on_panicked,
    "GUEST_CRASHLOADED": Judge._on_crash_loaded,
    "WATCHDOG": Judge._on_watchdog,
    "BLOCK_IO_ERROR": Judge._on_io_error,
    "MEMORY_FAILURE": Judge._on_memory_failure,
    "RESET": Judge._on_reset,
    "SHUTDOWN": Judge._on_shutdown,
    "POWERDOWN": Judge._on_powerdown,
    "STOP": Judge._on_stop,
    "RESUME": Judge._on_resume,
}
