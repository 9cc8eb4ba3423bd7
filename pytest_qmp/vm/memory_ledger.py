"""The memory of this run's machines, reserved so that together they don't overcommit the host."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pytest_qmp.errors import VMConfigError, VMLaunchError
from pytest_qmp.qmp.deadline import limits
from pytest_qmp.vm.config import VMConfig, memory_bytes
from pytest_qmp.vm.host_memory import available_memory, format_memory, total_memory
from pytest_qmp.vm.shared_state import SharedState, process_started

__all__ = ["MemoryLedger", "MemoryWantingError", "Reservation", "guest_memory"]

# What QEMU gives a machine of which nobody says how much; some have more of their own accord.
_DEFAULT = 128 * 1024 * 1024
_FIRST_LOOK_SECONDS = 0.02
_LAST_LOOK_SECONDS = 0.5
_QUIET_SECONDS = 1.0


def guest_memory(config: VMConfig) -> int:
    """Bytes of memory that a machine's guest gets: by ``memory``, or by a ``-m`` in ``args``."""
    size = memory_bytes(config.memory) if config.memory is not None else _DEFAULT
    for option, value in zip(config.args, config.args[1:], strict=False):
        if option in ("-m", "--m"):
            first, _, rest = value.partition(",")
            given = [one for one in (first, *rest.split(",")) if one.startswith("size=")]
            try:
                size = memory_bytes((given or [first])[-1].removeprefix("size="))
            except VMConfigError:
                continue  # QEMU is going to refuse it, in its own words.
    return size


class MemoryWantingError(VMLaunchError):
    """There was not enough memory in time."""


class Reservation:
    """Memory that is kept for a machine, until ``release()``."""

    def __init__(self, ledger: MemoryLedger, ticket: str) -> None:
        self._ledger = ledger
        self.ticket = ticket
        self.is_over: Callable[[], bool] = lambda: False

    def release(self) -> None:
        """Gives it back. Idempotent."""
        self._ledger.remove(self)


class MemoryLedger:
    """Who of a run holds how much memory, and who waits for some, first come first served.

    What a process held or waited for is dropped when that process is dead.

    Args:
        state: shared by the workers of the run.
        maximum: bytes that all machines together may have; None: what the host has to spare.
        total: tells how many bytes the host has.
        available: tells how many it has to spare; asked while none of the machines runs.
    """

    def __init__(
        self,
        state: SharedState,
        maximum: int | None = None,
        *,
        total: Callable[[], int] = total_memory,
        available: Callable[[], int] = available_memory,
    ) -> None:
        self._state = state
        self._maximum = maximum
        self._total = total
        self._most: int | None = None
        self._available = available
        self._held: list[Reservation] = []

    def reserve(
        self,
        size: int,
        who: str,
        *,
        on_wait: Callable[[str], None] = lambda text: None,
        timeout: float | None = None,
    ) -> Reservation:
        """Reserves memory for a machine; waits until others have given back enough.

        No lock is held while it waits.

        Args:
            size: bytes.
            who: whose it is, for the messages of others.
            on_wait: is told once what is waited for and who has it, if that takes a second.
            timeout: seconds; None: no limit but the test's own.

        Raises:
            VMLaunchError: it can never be had: it is more than the host has or than the maximum,
                or all who hold some wait for more themselves; or it could not be had in time.
        """
        self._refuse_if_never(size, who)
        reservation = Reservation(self, uuid.uuid4().hex)
        deadline = limits.deadline(timeout)
        pause, told = _FIRST_LOOK_SECONDS, False
        try:
            while True:
                obstacle = self._take(reservation, size, who)
                if not obstacle:
                    self._held.append(reservation)
                    return reservation
                if deadline.expired:
                    raise MemoryWantingError(
                        f"waited {deadline.words} for {obstacle}. Run fewer workers at a time, "
                        "or give the machines less memory"
                    )
                if not told and deadline.elapsed >= _QUIET_SECONDS:
                    told = True
                    on_wait(f"waiting for {obstacle}")
                left = deadline.remaining()
                time.sleep(pause if left is None else min(pause, left))
                pause = min(2 * pause, _LAST_LOOK_SECONDS)
        except BaseException:
            self.remove(reservation)
            raise

    def remove(self, reservation: Reservation) -> None:
        """Drops a reservation, or the wait for one."""
        # Another thread may have done it.
        with suppress(ValueError):
            self._held.remove(reservation)
        with self._state.locked() as state:
            _drop(state, lambda entry: entry["ticket"] == reservation.ticket)

    def release_ended(self) -> None:
        """Gives back what was reserved for machines that have ended."""
        for reservation in [one for one in self._held if one.is_over()]:
            reservation.release()

    def _refuse_if_never(self, size: int, who: str) -> None:
        if self._most is None:
            self._most = self._total()
        if size > self._most:
            raise VMLaunchError(
                f"{who} asks for {format_memory(size)} of memory, but this host has no more than "
                f"{format_memory(self._most)}: give the machine less (VMConfig(memory=…), "
                "--qmp-memory)"
            )
        if self._maximum is not None and size > self._maximum:
            raise VMLaunchError(
                f"{who} asks for {format_memory(size)} of memory, but --qmp-max-memory allows all "
                f"machines together {format_memory(self._maximum)}: give the machine less, or "
                "allow more"
            )

    def _take(self, reservation: Reservation, size: int, who: str) -> str:
        """Takes the memory if it can be had now; else says what it is waiting for."""
        self.release_ended()
        with self._state.locked() as state:
            _drop(state, lambda entry: process_started(entry["pid"]) != entry["started"])
            entries: list[dict[str, Any]] = state["entries"]
            mine = next((one for one in entries if one["ticket"] == reservation.ticket), None)
            if mine is None:
                mine = {
                    "ticket": reservation.ticket,
                    "pid": os.getpid(),
                    "started": process_started(os.getpid()),
                    "size": size,
                    "who": who,
                    "holds": False,
                }
                entries.append(mine)
            holding = [one for one in entries if one["holds"]]
            waiting = [one for one in entries if not one["holds"]]
            if not holding:
                state["room"] = self._available()
            room = state["room"] if self._maximum is None else min(state["room"], self._maximum)
            used = sum(one["size"] for one in holding)
            # Who holds some already goes before the others: it can't give back before it goes on.
            in_turn = waiting[0] is mine or any(one["pid"] == mine["pid"] for one in holding)
            if in_turn and (used + size <= room or not holding):
                mine["holds"] = True
                return ""
            holders = ", ".join(f"{one['who']} ({format_memory(one['size'])})" for one in holding)
            obstacle = (
                f"{format_memory(size)} of memory for {who}: of {format_memory(room)}, "
                f"{format_memory(used)} are reserved, for {holders or 'nobody'}"
            )
            self._refuse_deadlock(mine, holding, waiting, obstacle)
            return obstacle

    def _refuse_deadlock(
        self,
        mine: dict[str, Any],
        holding: list[dict[str, Any]],
        waiting: list[dict[str, Any]],
        obstacle: str,
    ) -> None:
        """Raises if nobody can ever give anything back, and this is the last who came to that."""
        holders = {one["pid"] for one in holding}
        stuck = [one for one in waiting if one["pid"] in holders]
        if holders and holders == {one["pid"] for one in stuck} and stuck[-1] is mine:
            raise VMLaunchError(
                f"there never will be {obstacle}; and all of these wait for memory themselves. "
                "Give the machines of a test less memory, or end one before the next is started"
            )


def _drop(state: dict[str, Any], unwanted: Callable[[dict[str, Any]], bool]) -> None:
    state["entries"] = [one for one in state.get("entries", []) if not unwanted(one)]
