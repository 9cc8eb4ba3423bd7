"""A machine's power and CPUs."""

from __future__ import annotations

from pytest_qmp.qmp.events import EventMatcher, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.commands import MachineCommands

__all__ = ["MachinePower"]


class MachinePower(MachineCommands):
    """The power button, the reset button and the CPUs of ``VirtualMachine``."""

    def stop(self) -> None:
        """Stops the CPUs (``stop``)."""
        __tracebackhide__ = True
        self.qmp.execute("stop")

    def cont(self) -> None:
        """Lets the CPUs run (``cont``)."""
        __tracebackhide__ = True
        self.qmp.execute("cont")

    def reset(self) -> None:
        """Resets the machine (``system_reset``)."""
        __tracebackhide__ = True
        self.qmp.execute("system_reset")

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
