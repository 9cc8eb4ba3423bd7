"""Migration of the emulated machine, in either direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .migration_address import Address, UnknownProtocol, read_address
from .migration_channels import TakeDescriptor
from .migration_incoming import Incoming
from .migration_outgoing import Outgoing
from .migration_settings import MigrationSettings
from .replies import CommandFailed, NotModelled
from .versions import load_schema

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Migration"]

_CREDENTIALS = ("tls-creds-x509", "tls-creds-psk", "tls-creds-anon")


class Migration:
    """What a machine's migration commands act on.

    Args:
        machine: whose; its run state is set already.

    Attributes:
        settings: capabilities and parameters.
        outgoing: the migration away from here.
        incoming: the migration to here.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.settings = MigrationSettings(machine.dialect, load_schema(machine.dialect.name))
        self.outgoing = Outgoing(machine, self.settings)
        self.incoming = Incoming(machine, self.settings)

    def migrate(
        self,
        uri: str | None,
        channels: list[Mapping[str, Any]] | None,
        take: TakeDescriptor,
        *,
        resume: bool,
    ) -> None:
        """Starts to migrate away.

        Args:
            uri: where to.
            channels: the same in other words.
            take: takes a descriptor that was passed, by its name.
            resume: goes on with a migration that was paused.

        Raises:
            CommandFailed: QEMU refuses it.
        """
        dialect = self._machine.dialect
        if dialect.version >= (10, 0):
            address = read_address(dialect, uri, channels)
            self._check_transport(address)
            self._check_may_begin(resume)
        else:
            self._check_may_begin(resume)
            try:
                address = read_address(dialect, uri, channels)
            except CommandFailed as failed:
                self._fail_to_begin(failed)
        if address.kind == "vsock":
            raise NotModelled("migration over vsock")
        name = self.settings.parameters["tls-creds"]
        objects = self._machine.objects
        if any(node.name == name for kind in _CREDENTIALS for node in objects.of_kind(kind)):
            raise NotModelled("migration over TLS")
        if self.settings.enabled("background-snapshot"):
            raise NotModelled("a snapshot in the background")
        self.outgoing.begin(address, take)

    def info(self) -> dict[str, Any]:
        """What ``query-migrate`` says: of the migration to here, then of the one away."""
        return {**self.incoming.info(), **self.outgoing.info()}

    def close(self) -> None:
        """Gives back what it has open; it is safe to call again."""
        self.outgoing.close()
        self.incoming.close()

    def _check_may_begin(self, resume: bool) -> None:
        status = self._machine.status
        if resume:
            raise CommandFailed("Cannot resume if there is no paused migration")
        if self.outgoing.under_way:
            raise CommandFailed("There's a migration process in progress")
        if status == "inmigrate":
            raise CommandFailed("Guest is waiting for an incoming migration")
        if status == "postmigrate":
            raise CommandFailed("Can't migrate the vm that was paused due to previous migration")

    def _check_transport(self, address: Address) -> None:
        enabled = self.settings.enabled
        mapped = enabled("mapped-ram")
        if mapped and address.kind != "file":
            raise CommandFailed("Migration requires seekable transport (e.g. file)")
        if mapped and self.settings.parameters["tls-creds"]:
            raise CommandFailed("Cannot use TLS with mapped-ram")
        several = enabled("multifd") or enabled("postcopy-preempt")
        if several and not mapped and not address.takes_channels:
            raise CommandFailed("Migration requires multi-channel URIs (e.g. tcp)")

    def _fail_to_begin(self, failed: CommandFailed) -> None:
        """QEMU 7.2 begins before it has understood where to."""
        unknown = isinstance(failed, UnknownProtocol)
        self.outgoing.begin_in_vain(None if unknown else failed.desc)
        if unknown:
            raise CommandFailed("Parameter 'uri' expects a valid migration protocol")
        raise failed
