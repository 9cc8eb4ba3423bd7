"""The destination of a migration: ``-incoming``, ``migrate-incoming``, and what comes in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .migration_address import Address, read_address
from .migration_channels import Listening, Pipe, TakeDescriptor, listen, open_reader
from .migration_settings import MigrationSettings
from .migration_stream import MAGIC, Incomplete, Stream, read_stream
from .replies import CommandFailed

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Incoming"]

#: How often, in seconds, it is looked whether something has come.
_LOOK = 0.01
#: How long, in seconds, what is on its way is waited for before others get their turn.
_PATIENCE = 0.25
#: Run states in which the guest ran, or slept, at the source.
_LIVE = frozenset({"running", "suspended"})


class Incoming:
    """The migration to a machine.

    Args:
        machine: the destination.
        settings: its capabilities and parameters.

    Attributes:
        status: as ``query-migrate`` says; None before it begins.
        expected: there is an ``-incoming``.
        started: it is known where from.
    """

    def __init__(self, machine: Machine, settings: MigrationSettings) -> None:
        self._machine = machine
        self._settings = settings
        self._listening: Listening | None = None
        self._pipe: Pipe | None = None
        self._data = bytearray()
        self._exits = True
        self.status: str | None = None
        self.error: str | None = None
        self.started = False
        given = [one for one in machine.options.arguments if one.option == "incoming"]
        self.expected = bool(given)
        if given and given[-1].value != "defer":
            self.started = True
            self._begin_at_start(given[-1].value, given[-1].text)

    @property
    def began(self) -> bool:
        """Whether it has begun, or is over."""
        return self.status is not None

    def begin(
        self,
        uri: str | None,
        channels: list[Mapping[str, Any]] | None,
        take: TakeDescriptor,
        *,
        exits: bool = True,
    ) -> None:
        """What ``migrate-incoming`` does.

        Args:
            uri: where from.
            channels: the same in other words.
            take: takes a descriptor that was passed, by its name.
            exits: QEMU ends if it fails.

        Raises:
            CommandFailed: QEMU refuses it.
        """
        if self.started:
            raise CommandFailed("The incoming migration has already been started")
        if self._machine.status != "inmigrate":
            raise CommandFailed("'-incoming' was not specified on the command line")
        self._exits = exits
        self._open(uri, channels, take)
        self.started = True

    def info(self) -> dict[str, Any]:
        """The part of ``query-migrate`` that is about it."""
        info: dict[str, Any] = {}
        if self.status is not None:
            info["status"] = self.status
        if self.error is not None:
            info["error-desc"] = self.error
        if self._listening is not None:
            info["socket-address"] = self._listening.shown()
        return info

    def close(self) -> None:
        """Gives back what it has open."""
        if self._listening is not None:
            self._listening.close()
        if self._pipe is not None:
            self._pipe.close()
        self._listening = self._pipe = None

    def _begin_at_start(self, uri: str, text: str) -> None:
        try:
            self._open(uri, None, lambda name: None, at_start=True)
        except CommandFailed as failed:
            reason = f"{text}: {failed.desc}"
            self._machine.clock.call_soon(lambda: self._machine.abort(reason))

    def _open(
        self,
        uri: str | None,
        channels: list[Mapping[str, Any]] | None,
        take: TakeDescriptor,
        *,
        at_start: bool = False,
    ) -> None:
        dialect = self._machine.dialect
        if dialect.version < (10, 0):
            # That version tells it whether or not anybody asked for events.
            if not at_start:
                self._machine.emit("MIGRATION", {"status": "setup"})
            address = read_address(dialect, uri, channels)
        else:
            address = read_address(dialect, uri, channels)
            if self.status is not None:
                raise CommandFailed(f"Illegal migration incoming state: {self.status}")
            self._set("setup")
        if address.takes_channels:
            self._listening = listen(address)
            self._machine.clock.look_later(_LOOK, self._accept)
        else:
            self._read_from(address, take)

    def _read_from(self, address: Address, take: TakeDescriptor) -> None:
        if address.kind == "rdma":
            raise CommandFailed("RDMA ERROR: could not create rdma event channel")
        self._pipe = open_reader(address, take, self._machine.descriptors.copy)
        self._machine.clock.call_soon(self._read)

    def _accept(self) -> None:
        if self._listening is None:
            return
        self._pipe = self._listening.accept()
        if self._pipe is None:
            self._machine.clock.look_later(_LOOK, self._accept)
            return
        self._listening.close()
        self._listening = None
        self._read()

    def _read(self) -> None:
        """Reads what there is, and for a moment what comes soon."""
        deadline = time.monotonic() + _PATIENCE
        while self._pipe is not None:
            came = self._pipe.read()
            if came:
                self._data += came
                if self.status != "active":
                    self._set("active")
                self._judge(at_end=False)
            elif came is not None:
                self._ended()
            elif not self._pipe.wait(max(0.0, deadline - time.monotonic()), writing=False):
                self._machine.clock.look_later(_LOOK, self._read)
                return

    def _ended(self) -> None:
        pipe = self._pipe
        if pipe is None:
            return
        if not self._data and pipe.is_command:
            # QEMU is never told about the end of a pipe through which nothing came.
            pipe.close()
            self._pipe = None
            return
        if self.status != "active":
            self._set("active")
        self._judge(at_end=True)

    def _judge(self, *, at_end: bool) -> None:
        try:
            self._complete(read_stream(self._data))
        except Incomplete:
            if at_end:
                self._fail("Input/output error", "")
        except ValueError:
            self._refuse()

    def _refuse(self) -> None:
        """What came is no stream of a fake's."""
        magic = bytes(self._data[:4])
        if magic == MAGIC:
            self._fail(
                "Invalid argument",
                "pytest-qmp's fake reads what another fake sends, and this comes from elsewhere",
            )
        elif self._machine.dialect.version >= (11, 0):
            self._fail(
                f"Invalid argument: Not a migration stream, magic: {magic.hex()} != {MAGIC.hex()}",
                "",
            )
        else:
            self._fail("Invalid argument", "Not a migration stream")

    def _fail(self, reason: str, before: str) -> None:
        self.close()
        self._set("failed")
        text = f"load of migration failed: {reason}"
        if self._exits:
            if before:
                self._machine.warn(before)
            self._machine.abort(text)
        else:
            self.error = text

    def _complete(self, stream: Stream) -> None:
        self.close()
        machine = self._machine
        machine.arrive(stream.status, suspended=stream.suspended, live=stream.status in _LIVE)
        self._set("completed")

    def _set(self, status: str) -> None:
        self.status = status
        if self._settings.enabled("events"):
            self._machine.emit("MIGRATION", {"status": status})
