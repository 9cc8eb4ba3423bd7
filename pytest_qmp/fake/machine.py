"""The run state of the emulated machine, and the events of its transitions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .block import BlockLayer
from .block_start import start_block_devices
from .chardevs import Chardevs
from .clock import Clock
from .compat_policy import CompatPolicy
from .descriptors import Descriptors
from .devices import Devices
from .dirty_rate import DirtyRate
from .event_rates import EventRates
from .guest_dump import DumpState
from .hardware import open_files, parts
from .migration import Migration
from .network import Network
from .objects import Objects
from .options import Options
from .qom_tree import Node
from .replies import CommandFailed, NotModelled
from .screen import Screen
from .versions import Dialect, load_schema

__all__ = ["Machine"]

Emit = Callable[[str, "Mapping[str, Any] | None"], None]

#: How long, in seconds, a guest takes from a reset to what it does first.
_BOOT_TIME = 0.01
#: States that only a reset leaves.
_NEEDS_RESET = frozenset({"internal-error", "shutdown"})


class Machine:
    """What runs, or does not, behind the monitors.

    Args:
        options: QEMU's command line.
        dialect: the version that is emulated.
        emit: sends an event to every monitor.
        clock: the machine's time.

    Attributes:
        block: its block nodes, block devices and jobs.
        status: as ``query-status`` says.
        preconfig: it waits for its configuration (``--preconfig``).
        autostart: the guest is to run as soon as it is there.
        migration: its migration, in either direction.
        exit_status: None until the machine is to end; QEMU's exit status from then on.
        ended_abruptly: QEMU found no way on, and left its sockets where they are.
        warn: takes what QEMU writes to its standard error.
        refuse: is told the option, its value and the error, of what can't be made at the start.
    """

    def __init__(self, options: Options, dialect: Dialect, emit: Emit, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.dialect = dialect
        self.emit = EventRates(emit, clock).emit
        self.block = BlockLayer(dialect, clock, emit)
        self.exit_status: int | None = None
        self.ended_abruptly = False
        self.warn: Callable[[str], None] = lambda text: None
        self.refuse: Callable[[str, str, str], None] = lambda option, text, desc: None
        self.descriptors = Descriptors(
            dialect.first_descriptor,
            removes_late=dialect.removes_descriptors_late,
            names_flags=dialect.version >= (10, 0, 0),
        )
        self.block.borrow = self.descriptors.borrow
        for _ in range(open_files(options, dialect.version)):
            self.descriptors.numbers.take()
        for argument in options.arguments:
            if argument.option == "add-fd":
                self.descriptors.add_given(argument)
        self.chardevs = Chardevs(options, dialect, self.descriptors)
        self.screen = Screen(self)
        self.policy = CompatPolicy(options, dialect.name)
        self.dump = DumpState()
        #: What the guest has made of its memory, in bytes; None for nothing.
        self.balloon: int | None = None
        self.traced: set[str] = set()
        self.network = Network.of(options)
        self.objects = Objects(options, dialect)
        self.devices = Devices(self)
        self.block.group_exists = lambda name: any(
            group.name == name for group in self.objects.of_kind("throttle-group")
        )
        self.objects.throttles = self.block.uses_group
        self.block.backends.has_device = self._has_device
        start_block_devices(self.block, options, load_schema(dialect.name))
        self.block.start_devices = self.devices.start
        self._suspended = False
        if options.incoming:
            self.status = "inmigrate"
        else:
            waits = options.paused or options.preconfig
            self.status = "prelaunch" if waits else "running"
        self.preconfig = options.preconfig
        self.autostart = not options.paused
        self.migration = Migration(self)
        self.dirty_rate = DirtyRate(dialect, clock, has_memory=options.machine != "none")
        self._on_boot: Callable[[], None] | None = None
        self._on_wake: Callable[[], None] | None = None
        self._on_powerdown: Callable[[], None] | None = None
        self._on_unplug: Callable[[str], None] | None = None
        self._booted = False

    def close(self) -> None:
        """Gives back what the machine has open; it is safe to call again."""
        self.migration.close()
        self.chardevs.close()
        self.block.exports.close()
        self.descriptors.close()

    def _has_device(self, name: str) -> bool:
        path = name if name.startswith("/") else f"/machine/peripheral/{name}"
        return isinstance(self.objects.tree.lookup(path), Node)

    @property
    def has_balloon(self) -> bool:
        """Whether the guest can be asked to give memory back."""
        return any(part.driver.startswith("virtio-balloon") for part in parts(self))

    @property
    def running(self) -> bool:
        """Whether the guest's CPUs run."""
        return self.status == "running"

    @property
    def suspended(self) -> bool:
        """Whether the guest sleeps (it may be stopped at the same time)."""
        return self._suspended

    @property
    def can_suspend(self) -> bool:
        """Whether this machine type can be woken up, and so go to sleep."""
        kind = self.options.machine
        return kind in ("pc", "q35") or kind.startswith(("pc-i440fx", "pc-q35"))

    @property
    def clock_path(self) -> str:
        """Where the guest's clock is among QEMU's objects: behind the CPUs."""
        smp = [value for option, value in self.options.pairs if option == "smp"]
        cpus = int(re.sub(r"^(?:.*cpus=)?(\d+)?.*", r"0\1", smp[-1]) if smp else "1") or 1
        number = cpus + (1 if "q35" in self.options.machine else 2)
        if self.dialect.version < (10, 0, 0):
            return f"/machine/unattached/device[{number + 6}]"
        return f"/machine/unattached/device[{number}]/rtc"

    def stop(self, status: str = "paused") -> None:
        """Stops the CPUs; nothing happens where they don't run."""
        stoppable = self.running or (
            self.status == "suspended" and self.dialect.stops_while_suspended
        )
        if stoppable:
            self.status = status
            self.emit("STOP", None)

    def cont(self) -> None:
        """Lets the CPUs run."""
        if self.status in _NEEDS_RESET:
            raise CommandFailed("Resetting the Virtual Machine is required")
        if self.status == "finish-migrate":
            raise CommandFailed("Migration is not finalized yet")
        if self.status == "inmigrate":
            self.autostart = True
        if self.status == "postmigrate" and self._suspended:
            raise NotModelled("a sleeping guest that goes on here, on which QEMU breaks down")
        if self.running or self.status in ("inmigrate", "suspended"):
            return
        self.block.backends.recover()
        self.status = "suspended" if self._suspended else "running"
        self.emit("RESUME", None)
        self._boot()

    def script(
        self,
        *,
        boot: Callable[[], None] | None = None,
        wake: Callable[[], None] | None = None,
        powerdown: Callable[[], None] | None = None,
        unplug: Callable[[str], None] | None = None,
    ) -> None:
        """Has the guest do something whenever it boots, wakes or is asked for something.

        It boots now if it runs.
        """
        self._on_boot = boot or self._on_boot
        self._on_wake = wake or self._on_wake
        self._on_powerdown = powerdown or self._on_powerdown
        self._on_unplug = unplug or self._on_unplug
        self._boot()

    def _boot(self, seconds: float = 0.0) -> None:
        """Lets a guest that runs for the first time since a reset do what it does then."""
        if self._booted or not self.running or self._on_boot is None:
            return
        self._booted = True
        if seconds:
            self.clock.call_later(seconds, lambda: self._act(self._on_boot))
        else:
            self.clock.call_soon(lambda: self._act(self._on_boot))

    def _act(self, action: Callable[[], None] | None) -> None:
        if action is not None and self.running:
            action()

    def leave_preconfig(self) -> None:
        """Builds the machine, which waited for its configuration."""
        if not self.preconfig:
            raise CommandFailed("The command is permitted only before machine initialization")
        self.preconfig = False
        if self.autostart and self.status != "inmigrate":
            self.cont()

    def halt(self, status: str) -> None:
        """Stops the CPUs, and takes on a run state even where they did not run."""
        if self.status == "suspended" and not self.dialect.stops_while_suspended:
            # An older QEMU wakes the guest to stop it.
            self._suspended = False
            self.status = "running"
            self.emit("WAKEUP", None)
        self.stop(status)
        self.status = status

    def unhalt(self, status: str) -> None:
        """Goes back to the run state before ``halt()``."""
        self.status = status
        if self.running:
            self.emit("RESUME", None)

    def arrive(self, status: str, *, suspended: bool, live: bool) -> None:
        """A guest has come in by migration.

        Args:
            status: the run state that its source was in.
            suspended: it sleeps.
            live: it ran, or would have but for its sleep.
        """
        self._suspended = suspended
        self._booted = True
        self.status = "paused" if live else status
        if live and self.autostart:
            self.cont()

    def reset(self, *, guest: bool, reason: str) -> None:
        """Resets the machine, or ends it where that is what a reboot is to do."""
        if self.options.actions["reboot"] == "shutdown":
            self.shut_down(guest=guest, reason=reason)
            return
        self.emit("RESET", {"guest": guest, "reason": reason})
        self.devices.reset()
        self._suspended = False
        if not self.running and self.status not in ("inmigrate", "finish-migrate"):
            self.status = "prelaunch"
        self._booted = False
        # Not at once: a guest that does nothing but reset leaves others their turn.
        self._boot(_BOOT_TIME)

    def shut_down(self, *, guest: bool, reason: str) -> None:
        """Ends the machine, or stops it for good where that is what a shutdown is to do."""
        self.emit("SHUTDOWN", {"guest": guest, "reason": reason})
        if self.options.actions["shutdown"] == "pause":
            self.stop("shutdown")
        else:
            self.block.jobs.end_all()
            self.exit_status = 0

    def end(self, reason: str) -> None:
        """Ends the machine whatever a shutdown is to do."""
        self.emit("SHUTDOWN", {"guest": False, "reason": reason})
        self.block.jobs.end_all()
        self.exit_status = 0

    def abort(self, text: str, status: int = 1) -> None:
        """Ends QEMU at once, where it finds no way on.

        Args:
            text: why, as it writes it to its standard error; "" for nothing.
            status: its exit status.
        """
        if text:
            self.warn(text)
        self.ended_abruptly = True
        self.exit_status = status

    def end_with(self, status: int) -> None:
        """Ends the machine with an exit status, and says nothing of it."""
        self.exit_status = status

    def power_button(self) -> None:
        """Asks the guest to power off; what it makes of that is up to it."""
        self.emit("POWERDOWN", None)
        self.clock.call_soon(lambda: self._act(self._on_powerdown))

    def unplug_request(self, device: str) -> None:
        """Asks for a device to go: the guest, where that is up to it; CommandFailed if it can't."""
        self.devices.remove(device)
        action = self._on_unplug
        if action is not None and self.devices.is_leaving(device):
            self.clock.call_soon(lambda: self._act(lambda: action(device)))

    def suspend(self) -> None:
        """The guest goes to sleep."""
        self._suspended = True
        self.status = "suspended"
        self.emit("SUSPEND", None)

    def wake_up(self) -> None:
        """Wakes the guest from its sleep."""
        if not self.can_suspend:
            raise CommandFailed("wake-up from suspend is not supported by this guest")
        if self.status != "suspended":
            raise CommandFailed("Unable to wake up: guest is not in suspended state")
        self._suspended = False
        self.status = "running"
        self.emit("WAKEUP", None)
        self.clock.call_soon(lambda: self._act(self._on_wake))

    def panic(self) -> None:
        """The guest says that it has panicked."""
        action = self.options.actions["panic"]
        stops = action == "pause" or (
            action == "shutdown" and self.options.actions["shutdown"] == "pause"
        )
        shown = "run" if action == "none" else "pause" if stops else "poweroff"
        self.emit("GUEST_PANICKED", {"action": shown})
        if stops:
            self.stop("guest-panicked")
        elif action != "none":
            self.shut_down(guest=True, reason="guest-panic")
            if action == "exit-failure" and self.exit_status is not None:
                self.exit_status = 1

    def watchdog(self) -> None:
        """The guest has left its watchdog alone for too long."""
        action = self.options.actions["watchdog"]
        self.emit("WATCHDOG", {"action": action})
        if action == "reset":
            self.reset(guest=True, reason="guest-reset")
        elif action == "shutdown":
            self.power_button()
        elif action == "poweroff":
            # QEMU ends on the spot, and says nothing more.
            self.exit_status = 0
        elif action == "pause":
            self.stop("watchdog")
        elif action == "debug":
            self.warn("watchdog: timer fired")
