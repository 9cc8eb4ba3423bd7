"""The source of a migration: from ``migrate`` to its end, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .migration_address import Address
from .migration_channels import Pipe, TakeDescriptor, connect, open_writer
from .migration_ram import MachineSize
from .migration_settings import MigrationSettings
from .migration_stream import Stream, write_stream
from .replies import CommandFailed

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Outgoing"]

_UNDER_WAY = frozenset(
    {"setup", "active", "device", "pre-switchover", "cancelling", "failing", "postcopy-active"}
)
#: How often, in seconds, a peer that takes nothing is looked at.
_LOOK = 0.01
#: How long, in seconds, a peer that takes its time is waited for before others get their turn.
_PATIENCE = 0.25
#: A command that ends in less time, in seconds, has never read.
_AT_ONCE = 0.15
#: QEMU counts its bandwidth in this part of a second.
_SLICE = 0.1


class Outgoing:
    """The migration away from a machine, the latest one if there were several.

    Args:
        machine: the source.
        settings: its capabilities and parameters.

    Attributes:
        status: as ``query-migrate`` says; None before the first.
        error: why it failed.
    """

    def __init__(self, machine: Machine, settings: MigrationSettings) -> None:
        self._machine = machine
        self._settings = settings
        self._size = MachineSize.of(machine.options, machine.dialect)
        self._pipe: Pipe | None = None
        self._ending: Pipe | None = None
        self._stream = memoryview(b"")
        self._sent = 0
        self._syncs = 0
        self._times: dict[str, float] = {}
        self._stopped_in = ""
        self._answered = True
        self._awaits_answer = False
        self.status: str | None = None
        self.error: str | None = None

    @property
    def under_way(self) -> bool:
        """Whether it has begun and not ended."""
        return self.status in _UNDER_WAY

    def begin(self, address: Address, take: TakeDescriptor) -> None:
        """Starts it; all but the first step comes after the reply.

        Raises:
            CommandFailed: there is no way to the address.
        """
        self.close()
        self.error = None
        self._sent = self._syncs = 0
        clock = self._machine.clock
        self._times = {"begun": clock.now}
        self._set("setup")
        if self._settings.enabled("multifd") and not address.takes_channels:
            # Newer versions have refused the address before.
            self._machine.warn("multifd is not supported by current protocol")
            self._set("failed")
            return
        self._answered = address.kind != "exec"
        self._awaits_answer = False
        if address.takes_channels:
            clock.call_soon(lambda: self._connect(address))
            return
        try:
            if address.kind == "rdma":
                raise CommandFailed("RDMA ERROR: could not create CM channel")
            self._pipe = open_writer(address, take, self._machine.descriptors.copy)
            old = self._machine.dialect.version < (11, 0, 0)
            if address.kind == "fd" and not old and not self._pipe.is_stream:
                raise CommandFailed("fd: migration to a file is not supported. Use file: instead.")
        except CommandFailed as failed:
            self._fail(failed.desc)
            raise
        if self._is_plain():
            clock.call_soon(self._send_memory)

    def begin_in_vain(self, reason: str | None) -> None:
        """It begins and fails; the command's answer is the caller's.

        Args:
            reason: what ``query-migrate`` says of it, None for nothing.
        """
        self.error = None
        self._set("setup")
        self.error = reason
        self._set("failed")

    def cancel(self) -> None:
        """Ends it early; nothing happens where none is under way."""
        if not self.under_way or self.status == "cancelling":
            return
        version = self._machine.dialect.version
        if self.status == "pre-switchover" and version >= (10, 0):
            new = version >= (11, 0)
            self.error = "Switchover is interrupted" if new else "Channel error: Input/output error"
        self._set("cancelling")
        pipe = self._pipe
        if self._awaits_answer:
            self._wait_for_cancel()
        elif pipe is None or not pipe.is_command or pipe.over or pipe.wait(0, writing=True):
            self._machine.clock.call_soon(self._cancelled)

    def go_on(self, state: str) -> None:
        """Leaves the state in which it waits for the client.

        Raises:
            CommandFailed: it is not in that state.
        """
        if self.status != state:
            raise CommandFailed(f"Migration not in expected state: {self.status or 'none'}")
        if state == "pre-switchover":
            self._machine.clock.call_soon(self._switch_over)

    def info(self) -> dict[str, Any]:
        """The part of ``query-migrate`` that is about it."""
        if self.status is None:
            return {}
        info: dict[str, Any] = {"status": self.status}
        if self.error is not None:
            info["error-desc"] = self.error
        if self.status in ("setup", "failed", "cancelled"):
            return info
        completed = self.status == "completed"
        ram = self._size.statistics(self._machine.dialect, self._sent, self._syncs)
        begun, now = self._times["begun"], self._machine.clock.now
        total = self._times.get("ended", now) - begun
        setup = self._times.get("set up", now) - begun
        info["total-time"] = _milliseconds(total)
        info["setup-time"] = _milliseconds(setup)
        info["ram"] = ram
        if completed:
            info["downtime"] = _milliseconds(
                self._times["ended"] - self._times.get("stopped", self._times["ended"])
            )
            spent = max(1, _milliseconds(total) - _milliseconds(setup))
            ram["mbps"] = self._size.stream_bytes * 8 / spent / 1000
        else:
            info["expected-downtime"] = self._settings.parameters["downtime-limit"]
            if self._machine.dialect.version >= (11, 0):
                info["remaining"] = ram["remaining"]
                if self.status in ("pre-switchover", "device"):
                    # It knows no bandwidth by which to guess.
                    info["expected-downtime"] = 2**63 - 1
        if self._settings.enabled("xbzrle"):
            info["xbzrle-cache"] = {
                "cache-size": self._settings.parameters["xbzrle-cache-size"],
                **dict.fromkeys(("bytes", "pages", "cache-miss", "overflow"), 0),
                **dict.fromkeys(("cache-miss-rate", "encoding-rate"), 0),
            }
        return info

    def close(self) -> None:
        """Gives back what it has open."""
        for pipe in (self._pipe, self._ending):
            if pipe is not None:
                pipe.close()
        self._pipe = self._ending = None

    def _connect(self, address: Address) -> None:
        if self.status != "setup":
            return
        try:
            self._pipe = connect(address)
        except CommandFailed as failed:
            self._machine.warn(failed.desc)
            self._fail(failed.desc)
            return
        if self._is_plain():
            self._send_memory()

    def _is_plain(self) -> bool:
        """Whether no TLS is asked for; where it is, it fails for lack of credentials."""
        name = self._settings.parameters["tls-creds"]
        if not name:
            return True
        self._fail(f"No TLS credentials with id '{name}'")
        return False

    def _send_memory(self) -> None:
        if self.status != "setup":
            return
        machine = self._machine
        self._times["set up"] = machine.clock.now
        self._syncs = 1
        if machine.dialect.version < (11, 0):
            self._emit_pass()
        self._set("active")
        told = Stream(machine.status, machine.suspended)
        self._stream = memoryview(write_stream(told, self._size.stream_bytes))
        self._send_on()

    def _send_on(self) -> None:
        """Sends what the bandwidth allows; goes on later where that is not all."""
        if self.status == "cancelling":
            self._wait_for_cancel()
            return
        if self.status != "active":
            return
        self._push(self._allowed(), self._send_on, self._memory_sent)

    def _allowed(self) -> int:
        """How many bytes may have been sent by now."""
        bandwidth = self._settings.parameters["max-bandwidth"]
        if int(bandwidth * _SLICE) == 0:
            return len(self._stream)
        slices = int((self._machine.clock.now - self._times["set up"]) / _SLICE + 1e-6) + 1
        return min(len(self._stream), int(bandwidth * _SLICE) * slices)

    def _push(self, limit: int, again: Callable[[], None], done: Callable[[], None]) -> None:
        pipe, clock = self._pipe, self._machine.clock
        if pipe is None:
            return
        deadline = time.monotonic() + _PATIENCE
        try:
            while self._sent < limit:
                sent = pipe.write(self._stream[self._sent : limit])
                self._sent += sent
                left = deadline - time.monotonic()
                if not sent and (left <= 0 or not pipe.wait(left, writing=True)):
                    clock.look_later(_LOOK, again)
                    return
        except OSError as error:
            self._broken(error)
            return
        if limit < len(self._stream):
            clock.call_later(_SLICE, again)
        else:
            done()

    def _broken(self, error: OSError) -> None:
        """The peer reads no more."""
        reason = os.strerror(error.errno or 0)
        what = "command" if self._pipe is not None and self._pipe.is_command else "socket"
        text = f"Unable to write to {what}: {reason}"
        early = self._machine.clock.now - self._times["begun"] < _AT_ONCE
        if what == "command" and early and (10, 0) <= self._machine.dialect.version < (11, 0):
            text = "ram_save_setup failed: Input/output error"
        self._machine.warn(text)
        self._fail(text)

    def _memory_sent(self) -> None:
        machine = self._machine
        if machine.dialect.version >= (11, 0):
            self._syncs = 2
            self._emit_pass()
        self._times["stopped"] = machine.clock.now
        self._stopped_in = machine.status
        machine.halt("finish-migrate")
        if self._settings.enabled("pause-before-switchover"):
            self._set("pre-switchover")
        else:
            self._switch_over()

    def _switch_over(self) -> None:
        if self.status not in ("active", "pre-switchover"):
            return
        machine = self._machine
        if machine.dialect.version >= (10, 0) or self.status == "pre-switchover":
            self._set("device")
        if machine.dialect.version < (11, 0):
            self._syncs = 2
            self._emit_pass()
        if not self._answered and self._wants_answer():
            # QEMU waits for an answer, which no command gives; not even a cancel ends that.
            self._awaits_answer = True
            return
        if self._pipe is not None:
            self._pipe.finish()
            # Whoever asks next finds that the command has done its work, unless it takes long.
            self._pipe.ends_within(_PATIENCE)
        self._pipe, self._ending = None, self._pipe
        self._times["ended"] = self._machine.clock.now
        self._machine.status = "postmigrate"
        self._set("completed")

    def _wants_answer(self) -> bool:
        return self._settings.enabled("return-path") or self._settings.enabled("postcopy-ram")

    def _fail(self, text: str) -> None:
        self.error = text
        self.close()
        if self._machine.dialect.version >= (11, 0):
            self._set("failing")
        self._run_again()
        self._set("failed")

    def _wait_for_cancel(self) -> None:
        if self._pipe is not None and not self._pipe.over:
            self._machine.clock.look_later(_LOOK, self._wait_for_cancel)
        else:
            self._cancelled()

    def _cancelled(self) -> None:
        if self.status != "cancelling":
            return
        self.close()
        self._run_again()
        self._set("cancelled")

    def _run_again(self) -> None:
        """The guest goes on where it was stopped for nothing."""
        if self._machine.status == "finish-migrate":
            status = self._stopped_in
            if status != "running" and self._machine.dialect.version < (10, 0):
                status = "postmigrate"
            self._machine.unhalt(status)

    def _emit_pass(self) -> None:
        if self._settings.enabled("events"):
            self._machine.emit("MIGRATION_PASS", {"pass": self._syncs})

    def _set(self, status: str) -> None:
        self.status = status
        if self._settings.enabled("events"):
            self._machine.emit("MIGRATION", {"status": status})


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
