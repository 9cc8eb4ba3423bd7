"""The run state of the emulated machine, and the events of its transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .block import BlockLayer
from .block_start import start_block_devices
from .chardevs import Chardevs
from .clock import Clock
from .compat_policy import CompatPolicy
from .descriptors import Descriptors
from .devices import Devices
from .guest_dump import DumpState
from .network import Network
from .objects import Objects
from .options import Options
from .qom_tree import Node
from .replies import CommandFailed
from .screen import Screen
from .versions import Dialect, load_schema

__all__ = ["Machine"]

Emit = Callable[[str, "Mapping[str, Any] | None"], None]

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
        exit_status: None until the machine is to end; QEMU's exit status from then on.
        ended_abruptly: QEMU found no way on, and left its sockets where they are.
        warn: takes what QEMU writes to its standard error.
    """

    def __init__(self, options: Options, dialect: Dialect, emit: Emit, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.dialect = dialect
        self.emit = emit
        self.block = BlockLayer(dialect, clock, emit)
        self.exit_status: int | None = None
        self.ended_abruptly = False
        self.warn: Callable[[str], None] = lambda text: None
        self.descriptors = Descriptors(
            dialect.first_descriptor, removes_late=dialect.removes_descriptors_late
        )
        self.chardevs = Chardevs(options, dialect, self.descriptors)
        self.screen = Screen(options)
        self.policy = CompatPolicy(options, dialect.name)
        self.dump = DumpState()
        self.balloon: int | None = None
        self.traced: set[str] = set()
        self.network = Network.of(options)
        self.objects = Objects(options, dialect)
        self.devices = Devices(self)
        self.block.group_exists = lambda name: any(
            group.name == name for group in self.objects.of_kind("throttle-group")
        )
        self.block.backends.has_device = self._has_device
        start_block_devices(self.block, options, load_schema(dialect.name))
        self._suspended = False
        if options.incoming:
            self.status = "inmigrate"
        else:
            self.status = "prelaunch" if options.paused else "running"

    def close(self) -> None:
        """Gives back what the machine has open; it is safe to call again."""
        self.chardevs.close()
        self.descriptors.close()

    def _has_device(self, name: str) -> bool:
        path = name if name.startswith("/") else f"/machine/peripheral/{name}"
        return isinstance(self.objects.tree.lookup(path), Node)

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
        if self.running or self.status in ("inmigrate", "suspended"):
            return
        self.status = "suspended" if self._suspended else "running"
        self.emit("RESUME", None)

    def reset(self, *, guest: bool, reason: str) -> None:
        """Resets the machine, or ends it where that is what a reboot is to do."""
        if self.options.actions["reboot"] == "shutdown":
            self.shut_down(guest=guest, reason=reason)
            return
        self.emit("RESET", {"guest": guest, "reason": reason})
        self.devices.reset()
        self._suspended = False
        if not self.running and self.status != "inmigrate":
            self.status = "prelaunch"

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

    def panic(self) -> None:
        """The guest says that it has panicked."""
        action = self.options.actions["panic"]
        stops = action == "pause" or (
            action == "shutdown" and self.options.actions["shutdown"] == "pause"
        )
        shown = "run" if action == "none" else "pause" if stops else "poweroff"
        self.emit("GUEST_PANICKED", {"action": shown})
        if action == "none":
            return
        if stops:
            self.stop("guest-panicked")
            return
        self.emit("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
        self.exit_status = 1 if action == "exit-failure" else 0
