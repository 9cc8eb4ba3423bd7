"""A machine's power and CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pytest_qmp.errors import QMPCommandError, QMPDisconnectedError, QMPError, VMError
from pytest_qmp.qmp.events import EventMatcher, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import nearest
from pytest_qmp.vm.ports import MachinePorts
from pytest_qmp.vm.reboot import RebootExpectation, Until

if TYPE_CHECKING:
    from pytest_qmp.vm.console import Console

__all__ = ["MachinePower"]

# In these the CPUs stand, and `cont` lets them run.
_PAUSED = frozenset({"paused", "prelaunch", "postmigrate", "debug"})
_OFF = frozenset({"shutdown", "exit"})


class MachinePower(MachinePorts):
    """The power button, the reset button and the CPUs of ``VirtualMachine``."""

    def stop(self) -> None:
        """Stops the CPUs (``stop``)."""
        __tracebackhide__ = True
        self.qmp.execute("stop")

    def cont(self) -> None:
        """Lets the CPUs run (``cont``)."""
        __tracebackhide__ = True
        self.qmp.execute("cont")

    def pause(self, timeout: Timeout = DEFAULT) -> None:
        """Stops the CPUs, if they run, and waits until they stand.

        Args:
            timeout: seconds for the whole wait.

        Raises:
            VMError: the machine can't be paused in its run state; the text says which.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        status = str(self.qmp.execute("query-status", timeout=deadline)["status"])
        if status in _PAUSED:
            return
        if status != "running":
            raise VMError(
                f"{self} can't be paused: its run state is {status!r}, so it does not run"
            )
        self.qmp.execute("stop", timeout=deadline)
        self.wait_for_status("paused", deadline)

    def resume(self, timeout: Timeout = DEFAULT) -> None:
        """Lets the CPUs run, if they do not, and waits until they do.

        Args:
            timeout: seconds for the whole wait.

        Raises:
            VMError: the guest sleeps: ``wakeup()`` wakes it.
            QMPCommandError: QEMU refuses it, as after a panic; the text says why.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        status = str(self.qmp.execute("query-status", timeout=deadline)["status"])
        if status == "running":
            return
        if status == "suspended":
            raise VMError(f"the guest of {self} sleeps (run state 'suspended'): wakeup() wakes it")
        self.qmp.execute("cont", timeout=deadline)
        self.wait_for_status("running", deadline)

    @contextmanager
    def paused(self, timeout: Timeout = DEFAULT) -> Iterator[None]:
        """A context manager: the CPUs stand inside it, and run after it if they ran before.

        Args:
            timeout: seconds for each of the two waits.

        Raises:
            VMError: as for ``pause()``.
        """
        __tracebackhide__ = True
        ran = self.status == "running"
        self.pause(timeout)
        try:
            yield
        except BaseException:
            # What went wrong inside is the news, and not that this fails too.
            with suppress(QMPError):
                if ran:
                    self.resume(timeout)
            raise
        if ran:
            self.resume(timeout)

    def reset(self) -> None:
        """Resets the machine (``system_reset``), and does not wait; see also ``reboot()``."""
        __tracebackhide__ = True
        self.qmp.execute("system_reset")
        self._forget_shells()

    def reboot(
        self,
        until: Until | None = None,
        *,
        console: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> QMPEvent:
        """Resets the machine (``system_reset``) and waits for the proof that it was.

        Args:
            until: a regular expression that the console is to write once the guest is up again;
                only what comes after the reset counts.
            console: the name of that console; None: the first.
            timeout: seconds for all of it.

        Returns:
            The RESET event, which ``wait_for_event`` still finds.

        Raises:
            QMPTimeoutError: there was no reset.
            ConsoleTimeoutError: the console did not write that in time.
            VMVerdictError: something else happened to the machine.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        with self.expect_reboot(until, guest=False, console=console, timeout=deadline) as reset:
            self.qmp.execute("system_reset", timeout=deadline)
        return reset.value

    def expect_reboot(
        self,
        until: Until | None = None,
        *,
        guest: bool | None = None,
        console: str | None = None,
        timeout: Timeout = DEFAULT,
    ) -> RebootExpectation:
        """A context manager: at its end waits for the proof that the machine was reset inside it.

        Inside it a reset is no verdict. Those that SeaBIOS makes of one before do not count.

        Args:
            until: a regular expression that the console is to write once the guest is up again;
                only what comes after the reset counts.
            guest: True for a reset by the guest itself, False for one by the host; None: either.
            console: the name of that console; None: the first.
            timeout: seconds for all of it, from the end of the block.

        Returns:
            A context manager; ``value`` is the RESET event once the block has ended, which
            ``wait_for_event`` still finds.

        Raises:
            QMPTimeoutError: at the end of the block: there was no such reset.
            ConsoleTimeoutError: the console did not write that in time.
            VMVerdictError: something else happened to the machine.
            ValueError: ``until`` is no regular expression.
        """
        __tracebackhide__ = True
        return RebootExpectation(self, guest, until, console, timeout)

    def crash(self) -> None:
        """Crashes the guest by a non-maskable interrupt (``inject-nmi``), and does not wait.

        What the guest does then is its own affair: Linux panics where ``kernel.unknown_nmi_panic``
        is set. That it panics, and then starts anew or powers off, is no verdict.
        ``wait_for_event("GUEST_PANICKED")`` waits for it where the machine has a device to tell it
        by, and the guest a driver (``pvpanic``). To cut the power, ``kill()``.

        Raises:
            QMPCommandError: this machine type has no such interrupt.
        """
        __tracebackhide__ = True
        board = self._oversight.board
        board.ask_to_crash()
        try:
            self.qmp.execute("inject-nmi")
        except QMPCommandError as error:
            board.ask_to_crash(False)
            error.hint = (
                f"{self} has a machine type without non-maskable interrupts (PCs have them): crash "
                "the guest from inside, as by Linux's echo c > /proc/sysrq-trigger, "
                "or cut its power with kill()"
            )
            raise

    def wakeup(self, timeout: Timeout = DEFAULT) -> None:
        """Wakes a guest that sleeps (``system_wakeup``) and waits until it runs.

        ``wait_for_status("suspended")`` waits until it sleeps.

        Args:
            timeout: seconds for the whole wait.

        Raises:
            QMPCommandError: it does not sleep, or the machine can't be woken.
            QMPTimeoutError: it did not wake up.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        self.qmp.execute("system_wakeup", timeout=deadline)
        self.wait_for_status("running", deadline)

    def powerdown(self, timeout: Timeout = DEFAULT) -> QMPEvent:
        """Presses the power button (``system_powerdown``) and waits until the guest is down.

        The event is only looked at: ``wait_for_event("SHUTDOWN")`` still finds it.

        Args:
            timeout: seconds for the whole wait.

        Returns:
            The SHUTDOWN event.

        Raises:
            QMPTimeoutError: the guest did not react.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        since = self.events.total
        self.qmp.execute("system_powerdown", timeout=deadline)
        return self.qmp.wait_for_event_since(since, EventMatcher("SHUTDOWN"), deadline, keep=True)

    def wait_for_shutdown(self, timeout: Timeout = DEFAULT) -> QMPEvent | None:
        """Waits until the guest has powered the machine off by itself.

        The event is only looked at: ``wait_for_event("SHUTDOWN")`` still finds it. ``wait()`` waits
        for the end of QEMU.

        Args:
            timeout: seconds for the whole wait.

        Returns:
            The SHUTDOWN event; None where QEMU ended without one, as riscv64's 7.2 does.

        Raises:
            QMPTimeoutError: it did not.
            VMVerdictError: something else happened to the machine.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        board = self._oversight.board
        with board.permitting(_OFF):
            board.forgive(_OFF)
            try:
                matcher = EventMatcher("SHUTDOWN")
                return self.qmp.wait_for_event_since(0, matcher, deadline, keep=True)
            except QMPDisconnectedError:
                external = self._backend.kind == "external"
                end = None if external else board.wait_for_end(deadline)
                if end is None or end.status != 0:
                    raise
        return next((one for one in reversed(self.events) if one.name == "SHUTDOWN"), None)

    def _forget_shells(self) -> None:
        # They are gone with the guest: run() begins anew.
        for console in self._opened_consoles.values():
            console.shell_state = None

    def _console_called(self, name: str | None) -> Console:
        __tracebackhide__ = True
        if name is None:
            return self.console
        consoles = self.consoles
        if name not in consoles:
            raise VMError(
                f"{self} has no console {name!r}{nearest(name, consoles)} (its consoles: "
                f"{', '.join(consoles) or 'none'})"
            )
        return consoles[name]
