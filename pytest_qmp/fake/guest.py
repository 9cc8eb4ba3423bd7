"""The guest's side of the emulated machine: what a test lets it do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from pytest_qmp.errors import FakeQMPServerError

from .agent import FakeGuestAgent
from .console import Console
from .machine import Machine
from .shell import Answer, ScriptedShell

__all__ = ["FakeGuest"]


class FakeGuest:
    """Does on demand what a guest does of itself; ``FakeQMPServer.guest``.

    What only a running guest can do raises FakeQMPServerError while it is not running, unless
    the server is not strict.

    Attributes:
        agent: the guest agent that runs in it, once it has a part to play.
    """

    def __init__(
        self,
        machine: Machine,
        console: Console,
        change: Callable[[], AbstractContextManager[object]],
        strict: bool,
    ) -> None:
        self._machine = machine
        self._console = console
        self._change = change
        self._strict = strict
        self.agent = FakeGuestAgent(change)

    def on_boot(self, action: Callable[[], None]) -> None:
        """Scripts what it does when it boots: when it first runs, and after each reset.

        Args:
            action: called in the server's thread, after the reply to the command that let it run;
                at once if the guest runs already. It can call the members of this guest.
        """
        with self._change():
            self._machine.script(boot=action)

    def on_wake(self, action: Callable[[], None]) -> None:
        """Scripts what it does when ``system_wakeup`` has woken it from its sleep.

        Args:
            action: as for :meth:`on_boot`.
        """
        with self._change():
            self._machine.script(wake=action)

    def on_powerdown(self, action: Callable[[], None]) -> None:
        """Scripts what it does when its power button is pressed: ``on_powerdown(guest.poweroff)``.

        Args:
            action: as for :meth:`on_boot`; called after the reply to ``system_powerdown``.
        """
        with self._change():
            self._machine.script(powerdown=action)

    def on_unplug(self, action: Callable[[str], None]) -> None:
        """Scripts what it does when a device of its is to go: ``on_unplug(guest.accept_unplug)``.

        Args:
            action: takes what ``device_del`` named, the device's id or path; called after the
                reply. It is not asked for devices that go without it.
        """
        with self._change():
            self._machine.script(unplug=action)

    def poweroff(self) -> None:
        """Powers itself off: SHUTDOWN with ``guest-shutdown``, then QEMU ends.

        With ``-no-shutdown`` it stops instead, in the state ``shutdown``.
        """
        with self._change():
            self._needs_running("power off")
            self._machine.shut_down(guest=True, reason="guest-shutdown")

    def reset(self) -> None:
        """Reboots: RESET with ``guest-reset``, or the end of QEMU with ``-no-reboot``."""
        with self._change():
            self._needs_running("reset")
            self._machine.reset(guest=True, reason="guest-reset")

    def panic(self) -> None:
        """Panics: GUEST_PANICKED, and what ``-action panic=`` says, which is to end QEMU."""
        with self._change():
            self._needs_running("panic")
            self._machine.panic()

    def watchdog(self) -> None:
        """Lets its watchdog run out: WATCHDOG, and what ``-action watchdog=`` says.

        That is a reset unless told otherwise.
        """
        with self._change():
            self._needs_running("let its watchdog run out")
            self._machine.watchdog()

    def crash_loaded(self) -> None:
        """Says that its crash kernel has taken over: GUEST_CRASHLOADED; it goes on."""
        with self._change():
            self._needs_running("load its crash kernel")
            self._machine.emit("GUEST_CRASHLOADED", {"action": "run"})

    def pv_shutdown(self) -> None:
        """Powers itself off by its paravirtual panic device: GUEST_PVSHUTDOWN, then SHUTDOWN.

        Raises:
            FakeQMPServerError: the emulated QEMU has no such event (7.2 has not).
        """
        with self._change():
            self._needs_running("power off")
            if self._machine.dialect.version < (10, 0, 0):
                raise FakeQMPServerError(
                    f"QEMU {self._machine.dialect.name} knows no shutdown by pvpanic: "
                    "use poweroff(), or emulate a newer version"
                )
            self._machine.emit("GUEST_PVSHUTDOWN", None)
            self._machine.shut_down(guest=True, reason="guest-shutdown")

    def rtc_change(self, offset: int) -> None:
        """Sets its clock: RTC_CHANGE, once a second at most as all events of its kind.

        Args:
            offset: how far from the host's, in seconds.
        """
        with self._change():
            self._needs_running("set its clock")
            self._machine.emit(
                "RTC_CHANGE", {"offset": offset, "qom-path": self._machine.clock_path}
            )

    def suspend(self) -> None:
        """Goes to sleep: SUSPEND; ``system_wakeup`` or a reset wakes it."""
        with self._change():
            self._needs_running("suspend")
            if self._strict and not self._machine.can_suspend:
                raise FakeQMPServerError(
                    f"the machine type {self._machine.options.machine!r} can't be woken up, "
                    "so its guest can't go to sleep (strict=False lets it)"
                )
            self._machine.suspend()

    @property
    def disks(self) -> list[str]:
        """The nodes that its disks have, in the order of ``query-block``."""
        with self._change():
            self._machine.devices.start()
            return self._machine.block.device_nodes()

    def io_error(
        self, node: str, *, operation: str = "read", nospace: bool = False, reason: str = ""
    ) -> None:
        """Reads or writes a disk and fails: BLOCK_IO_ERROR, and what the device's policy says.

        That is ``rerror`` or ``werror`` of its device: where they stop the machine, STOP follows
        and the run state is ``io-error``.

        Args:
            node: the name of a node that a device of the guest has, or of its ``-drive``.
            operation: ``"read"`` or ``"write"``.
            nospace: the host's disk is full.
            reason: the host's words for it; by default those that go with ``nospace``, or with
                the error that a ``blkdebug`` node injects.

        Raises:
            FakeQMPServerError: no device of the guest has that node, or there is no such operation.
        """
        if operation not in ("read", "write"):
            raise FakeQMPServerError(f"a disk fails to 'read' or to 'write', not to {operation!r}")
        with self._change():
            self._needs_running("use its disk")
            self._machine.devices.start()
            block = self._machine.block
            backend = block.device_of(node)
            if backend is None:
                raise FakeQMPServerError(
                    f"no device of the guest has the node {node!r}: it has those of "
                    f"{', '.join(repr(name) for name in block.device_nodes()) or 'none'}"
                )
            number = errno.ENOSPC if nospace else block.injected_error(backend) or errno.EIO
            stops = block.backends.fail(
                backend,
                operation,
                nospace=number == errno.ENOSPC,
                reason=reason or os.strerror(number),
            )
            if stops:
                self._machine.stop("io-error")

    def accept_unplug(self, device: str) -> None:
        """Lets a device go that ``device_del`` asked it for: DEVICE_DELETED follows.

        Args:
            device: its id, or its path in QOM.
        """
        with self._change():
            self._needs_running("let a device go")
            if not self._machine.devices.accept(device):
                raise self._not_asked(device)

    def refuse_unplug(self, device: str, *, silently: bool = False) -> None:
        """Does not let a device go: a new ``device_del`` is needed.

        DEVICE_UNPLUG_GUEST_ERROR follows, as where the guest's firmware interface can say no.

        Args:
            device: its id, or its path in QOM.
            silently: True sends no event, as the guests of x86 that keep a PCI device do.
        """
        with self._change():
            self._needs_running("keep a device")
            if not self._machine.devices.is_leaving(device):
                raise self._not_asked(device)
            self._machine.devices.keep(device, tell=not silently)

    def _not_asked(self, device: str) -> FakeQMPServerError:
        waiting = ", ".join(self._machine.devices.leaving()) or "none"
        return FakeQMPServerError(
            f"the guest was not asked to let go of {device!r}: send device_del first "
            f"(devices that it was asked for: {waiting})"
        )

    def set_balloon(self, actual: int) -> None:
        """Changes its memory, as ``balloon`` asks it to: BALLOON_CHANGE.

        Args:
            actual: what it has from now on, in bytes.
        """
        with self._change():
            self._needs_running("change its balloon")
            if self._strict and not self._machine.has_balloon:
                raise FakeQMPServerError(
                    "the guest can't change its balloon: the machine has none; give the server "
                    'the arguments "-device", "virtio-balloon" (strict=False lets it)'
                )
            self._machine.balloon = actual
            self._machine.emit("BALLOON_CHANGE", {"actual": actual})

    def write_console(self, data: bytes) -> None:
        """Writes bytes to the first serial port."""
        with self._change():
            self._console.write(data)

    def on_console(
        self,
        pattern: bytes | str,
        reply: bytes | Callable[[re.Match[bytes]], bytes | None],
    ) -> None:
        """Scripts an answer to what is typed on the first serial port.

        Args:
            pattern: a regular expression, searched for in what was typed and not answered yet.
            reply: what the guest writes then, or a function that takes the match and returns
                that (None for nothing). It runs in the server's thread.
        """
        with self._change():
            self._console.script(pattern, reply)

    def play_shell(
        self,
        commands: Mapping[str, Answer] | Callable[[str], Answer],
        *,
        prompt: str = "# ",
    ) -> None:
        """Plays a shell on the first serial port, for ``console.run()`` and for what is typed.

        Args:
            commands: what each command writes: a text or bytes, with the exit status in a tuple
                where that is not 0, or a function of the command that returns one of these. Or a
                function for all of them. A command that is not there is ``not found`` (127).
            prompt: what it writes when it waits for a command; at once, for the first time.

        Raises:
            FakeQMPServerError: an answer is none of these.
        """
        shell = ScriptedShell(commands, prompt)
        with self._change():
            self._console.shell = shell
            self._console.write(shell.prompt)

    @property
    def console_input(self) -> bytes:
        """All that was typed on the first serial port so far."""
        with self._change():
            return bytes(self._console.input)

    @property
    def has_console(self) -> bool:
        """Whether anything was ever written to the console, or an answer scripted."""
        return self._console.used

    def _needs_running(self, what: str) -> None:
        if self._machine.exit_status is not None:
            raise FakeQMPServerError(
                f"the guest can't {what}: its QEMU has ended with status "
                f"{self._machine.exit_status}"
            )
        if self._strict and not self._machine.running:
            raise FakeQMPServerError(
                f"the guest can't {what} in the run state {self._machine.status!r} "
                "(strict=False lets it)"
            )
