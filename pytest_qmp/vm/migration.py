"""Migration: away to another machine, to a file or to any address, and in from there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp.errors import VMMigrationError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.commands import MachineCommands
from pytest_qmp.vm.drive import Drive
from pytest_qmp.vm.migrating import Migration, OnProgress
from pytest_qmp.vm.migration_routes import (
    FileRoute,
    Route,
    capability_states,
    is_address,
    route_of,
)

__all__ = ["MachineMigration"]

_Capabilities = Iterable[str] | Mapping[str, bool]


class MachineMigration(MachineCommands):
    """The migrations of ``VirtualMachine``."""

    def migrate(
        self,
        to: MachineMigration | str | os.PathLike[str],
        *,
        via: str | None = None,
        timeout: Timeout = DEFAULT,
        capabilities: _Capabilities = (),
        parameters: Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
        wait: bool = True,
    ) -> Migration:
        """Migrates the guest to another machine, which then goes on with it, or to a file.

        Afterwards this machine stays stopped, in the run state ``postmigrate``. The other one has
        to have the same machine type, CPU, memory and devices.

        Args:
            to: a machine with ``VMConfig(incoming=True)``, or one that was not started yet, which
                then is; or the path of a file, which ``migrate_incoming()`` reads; or an address
                as for QMP's ``migrate``, such as ``unix:/run/m`` or ``exec:gzip -c > state.gz``.
            via: to a machine: ``fd`` (a pair of sockets; the default), ``unix`` (a unix socket),
                or ``file``.
            timeout: seconds for all of it.
            capabilities: to enable at both ends: names, or a mapping of names to True and False.
                ``events`` is enabled always, ``return-path`` where the way allows it.
            parameters: to set at both ends, such as ``{"max-bandwidth": 1 << 20}``.
            on_progress: called from time to time with the bytes of memory that were sent, and
                with all that there are.
            wait: False returns as soon as it has begun.

        Returns:
            The migration: its ``info``, and with ``wait=False`` its ``wait()`` and ``cancel()``.

        Raises:
            VMMigrationError: it can't begin, or failed; the text has the words of both ends.
            QMPCommandError: QEMU refused it, a capability or a parameter.
            QMPTimeoutError: it goes on; the text tells its state and how far it is.
            VMVerdictError: something happened to one of the guests meanwhile.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        states = capability_states(capabilities)
        other = to if isinstance(to, MachineMigration) else None
        if other is not None:
            route = route_of(via, [name for name, state in states.items() if state])
        else:
            route = _named_route(to)
            if via is not None and not (via == "file" and route.stored):
                raise VMMigrationError(
                    f"via={via!r} is for another machine: {route} says itself which way"
                )
        migration = Migration(self, other, route)
        self._releases.append(route.close)
        ends = [self] if other is None else [self, other]
        # With a way back, a source knows whether the guest has arrived, and goes on if it has
        # not; without one it would wait for an answer for ever.
        defaults = {"events": True, "return-path": other is not None and route.two_way}

        def begin() -> None:
            __tracebackhide__ = True
            if other is not None:
                self._check_destination(other, deadline)
            for end in ends:
                end._set_up_migration({**defaults, **states}, parameters or {}, deadline)
            if other is not None and not route.stored:
                route.receive(other.qmp, deadline)
            route.send(self.qmp, deadline)

        migration.begin(begin)
        return migration.wait(timeout=deadline, on_progress=on_progress) if wait else migration

    def migrate_incoming(
        self,
        source: str | os.PathLike[str],
        *,
        timeout: Timeout = DEFAULT,
        capabilities: _Capabilities = (),
        parameters: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Migration:
        """Takes a guest in: from a file that ``migrate()`` wrote, or from an address.

        Args:
            source: the path of the file, or an address as for QMP's ``migrate-incoming``. The
                machine has ``VMConfig(incoming=True)``.
            timeout: seconds for all of it.
            capabilities: to enable: names, or a mapping of names to True and False.
            parameters: to set.
            wait: False returns as soon as it listens, or reads.

        Returns:
            The migration.

        Raises:
            VMMigrationError: the machine was not started to take a guest in, or it failed.
            QMPCommandError: QEMU refused it, a capability or a parameter.
            QMPTimeoutError: nobody has sent a guest, or not all of it.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        self._check_waits_for_guest(self, deadline)
        route = _named_route(source)
        migration = Migration(None, self, route)
        states = {"events": True, "return-path": False, **capability_states(capabilities)}
        self._set_up_migration(states, parameters or {}, deadline)
        migration.begin(lambda: route.receive(self.qmp, deadline))
        return migration.wait(timeout=deadline) if wait else migration

    def _set_up_migration(
        self, states: Mapping[str, bool], parameters: Mapping[str, Any], deadline: Deadline
    ) -> None:
        __tracebackhide__ = True
        listed = [{"capability": name, "state": state} for name, state in states.items()]
        self.qmp.execute("migrate-set-capabilities", {"capabilities": listed}, timeout=deadline)
        if parameters:
            named = {name.replace("_", "-"): value for name, value in parameters.items()}
            self.qmp.execute("migrate-set-parameters", named, timeout=deadline)

    def _check_destination(self, other: MachineMigration, deadline: Deadline) -> None:
        __tracebackhide__ = True
        if other is self:
            raise VMMigrationError(
                f"{self} can't migrate to itself: make another machine, or migrate to a file"
            )
        if "fake" in (self.backend, other.backend) and self.backend != other.backend:
            raise VMMigrationError(
                f"{self} can't migrate to {other}: the fake and a real QEMU have no guests that "
                "the other could run"
            )
        written = [
            one for one in self.config.drives if not (isinstance(one, Drive) and one.read_only)
        ]
        if self.config.cloneable and written:
            raise VMMigrationError(
                f"{self} can't migrate to {other}: it is cloneable, so what its guest has written "
                "to its disks is in files that no other machine sees. Start both without that: "
                "qmp_vm_factory(boot=None), or VMConfig(cloneable=False)"
            )
        if not other.started and other.backend != "external":
            other.config = other.config.replace(incoming=True)
            other._backend.configure(other.config)
            other.start()
        self._check_waits_for_guest(other, deadline)

    @staticmethod
    def _check_waits_for_guest(machine: MachineMigration, deadline: Deadline) -> None:
        __tracebackhide__ = True
        status = machine.qmp.execute("query-status", timeout=deadline)["status"]
        if status != "inmigrate":
            raise VMMigrationError(
                f"{machine} can't take a guest in: its run state is {status!r}, not 'inmigrate'. "
                "Start it with VMConfig(incoming=True), for one guest each time"
            )


def _named_route(named: object) -> Route:
    __tracebackhide__ = True
    if is_address(named):
        text = str(named)
        return FileRoute(text[5:]) if text.startswith("file:") and "," not in text else Route(text)
    if isinstance(named, (str, os.PathLike)) and os.fspath(named):
        return FileRoute(os.fsdecode(named))
    raise VMMigrationError(
        "a guest migrates to or from another machine, the path of a file, or an address such as "
        f"'unix:/run/m': not {named!r}"
    )
