"""The handle on a virtual machine: what a test holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_qmp import asserts
from pytest_qmp.errors import (
    NeedsRealGuestError,
    QMPDisconnectedError,
    QMPTimeoutError,
    VMError,
    VMVerdictError,
)
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventMatcher, Match, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, EventExpectation, Timeout
from pytest_qmp.vm.argv import AGENT
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig, check_names
from pytest_qmp.vm.host import arch_of_binary
from pytest_qmp.vm.lifecycle import MachineLife, require_files
from pytest_qmp.vm.process import QEMUProcess
from pytest_qmp.vm.verdicts import STATUS_KINDS

if TYPE_CHECKING:
    from pytest_qmp.qmp.address import AddressLike
    from pytest_qmp.qmp.guest_agent import GuestAgentClient
    from pytest_qmp.vm.console import Console

__all__ = ["VirtualMachine"]

_FIRST_RECHECK_SECONDS = 0.25
_LAST_RECHECK_SECONDS = 4.0


class VirtualMachine(MachineLife):
    """A machine: QEMU in a process of its own, the fake, or a QEMU that somebody else runs.

    Start it with ``start()`` or as a context manager, which also ends it.

    Args:
        config: what to start; default: the defaults.
        overrides: fields of the config to change.

    Raises:
        VMConfigError: the config can't describe a machine.
        QEMUNotFoundError: there is no such QEMU binary.

    >>> from pytest_qmp import VirtualMachine
    >>> with VirtualMachine(backend="fake", paused=True) as vm:
    ...     vm.assert_status("prelaunch")
    ...     vm.cont()
    ...     vm.wait_for_event("RESUME").name
    'RESUME'
    """

    def __init__(self, config: VMConfig | None = None, **overrides: Any) -> None:
        check_names(overrides, "VirtualMachine")
        config = (config or VMConfig()).replace(**overrides)
        if config.arch is None:
            named = arch_of_binary(config.qemu) if config.qemu is not None else None
            config = config.replace(arch=named or "x86_64")
        require_files(config)
        super().__init__(config, _backend(config))
        self._consoles: dict[str, Console] = {}
        self._guest: GuestAgentClient | None = None

    @classmethod
    def attach(cls, address: AddressLike, *, timeout: float | None = None) -> VirtualMachine:
        """A handle on a QEMU that runs already; ``close()`` leaves it running.

        Args:
            address: of its QMP monitor.
            timeout: seconds that a wait takes at most.
        """
        from pytest_qmp.vm.external import ExternalMachine

        machine = cls.__new__(cls)
        config = VMConfig(timeout=timeout, consoles=())
        MachineLife.__init__(machine, config, ExternalMachine(address))
        machine._consoles = {}
        machine._guest = None
        return machine

    @property
    def console(self) -> Console:
        """The first serial port, as a pexpect spawn.

        Raises:
            NeedsRealGuestError: the fake has no guest, and no script plays one.
            VMError: the machine has no console.
        """
        __tracebackhide__ = True
        names = tuple(self.config.consoles)
        if not names:
            raise VMError(
                f"{self} has no console that we could read: somebody else started it"
                if self._backend.kind == "external"
                else f"{self} has no console: its VMConfig.consoles is empty"
            )
        return self.consoles[names[0]]

    @property
    def consoles(self) -> Mapping[str, Console]:
        """All serial ports, by name.

        Raises:
            NeedsRealGuestError: the fake has no guest, and no script plays one.
        """
        __tracebackhide__ = True
        if self._backend.kind == "fake" and not self.fake.guest.has_console:
            raise NeedsRealGuestError(
                "the console needs a real guest, and this test runs on the fake: play one with "
                "qmp_vm.fake.guest.write_console(…) or .on_console(…), or install QEMU"
            )
        from pytest_qmp.vm.console import Console

        for name, sock in self._sockets.items():
            if name not in self._consoles:
                console = Console(
                    name,
                    sock,
                    self._oversight.streams[name],
                    timeout=self._timeout,
                    explain_end=self.explain_end,
                    board=self._oversight.board,
                )
                self._consoles[name] = console
                self._releases.append(console.close)
        return self._consoles

    @property
    def guest(self) -> GuestAgentClient:
        """The guest agent's client; the first use waits until the agent has opened its port.

        Raises:
            VMError: the machine has no port for it: ``VMConfig(guest_agent=True)`` gives it one.
            NeedsRealGuestError: the fake has no guest.
            QMPTimeoutError: the guest has not opened the port, or no agent answers.
            VMVerdictError: something happened to the machine meanwhile.
        """
        __tracebackhide__ = True
        if self._guest is None:
            self._guest = self._connect_agent(self._deadline(DEFAULT))
        return self._guest

    def _connect_agent(self, deadline: Deadline) -> GuestAgentClient:
        __tracebackhide__ = True
        from pytest_qmp.qmp.guest_agent import GuestAgentClient

        if self._backend.kind == "fake" and self.config.guest_agent:
            raise NeedsRealGuestError("the guest agent needs a real guest, and this is the fake")
        if self._agent_socket is None:
            raise VMError(
                f"{self} has no port for a guest agent: VMConfig(guest_agent=True) gives it one"
            )
        self._await_agents_port(deadline)
        board = self._oversight.board
        agent = GuestAgentClient.connect(
            self._agent_socket,
            timeout=deadline,
            peer=f"the guest agent of {self.label}",
            watch=board,
        )
        agent.timeout = self._timeout
        agent.explain_loss = self.explain_end
        board.add_wait(agent.look_again)
        self._releases.append(agent.close)
        return agent

    def _await_agents_port(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        opened = EventMatcher("VSERPORT_CHANGE", {"data": {"open": True, "id": f"{AGENT}-port"}})
        seen = self.events.total
        chardevs = self.qmp.execute("query-chardev", timeout=deadline)
        if any(one["label"] == AGENT and one["frontend-open"] for one in chardevs):
            return
        try:
            self.qmp.wait_for_event_since(seen, opened, deadline, keep=True)
        except QMPTimeoutError:
            raise QMPTimeoutError(
                f"waited {deadline.words} for the guest of {self} to open the guest agent's port, "
                "in vain. Check that it has booted, and that qemu-guest-agent is installed and "
                f"runs in it.{self._shown_console()}"
            ) from None

    # -- QMP -------------------------------------------------------------------------------------

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any
    ) -> Any:
        """Executes a command; see ``QMPClient.execute``."""
        __tracebackhide__ = True
        return self.qmp.execute(command, arguments, **keywords)

    def wait_for_event(
        self, name: str | Iterable[str], match: Match = None, timeout: Timeout = DEFAULT
    ) -> QMPEvent:
        """Takes an event that came or will come; see ``QMPClient.wait_for_event``."""
        __tracebackhide__ = True
        return self.qmp.wait_for_event(name, match, timeout)

    def expect_event(
        self, name: str | Iterable[str], match: Match = None, timeout: Timeout = DEFAULT
    ) -> EventExpectation:
        """A context manager for an event from inside it; see ``QMPClient.expect_event``."""
        return self.qmp.expect_event(name, match, timeout)

    def assert_no_event(
        self, name: str | Iterable[str], within: float = 0.0, match: Match = None
    ) -> None:
        """Fails if such an event came or comes; see ``QMPClient.assert_no_event``."""
        __tracebackhide__ = True
        self.qmp.assert_no_event(name, within, match)

    @property
    def status(self) -> str:
        """The run state, as ``query-status`` tells it: ``running``, ``paused``, …"""
        return str(self.qmp.execute("query-status")["status"])

    def wait_for_status(self, status: str | Iterable[str], timeout: Timeout = DEFAULT) -> str:
        """Waits until the run state is that one, or one of those.

        Looks again whenever an event comes. A machine that ends by itself after a SHUTDOWN counts
        as ``shutdown``.

        Args:
            status: as ``query-status`` spells it.
            timeout: seconds for the whole wait.

        Returns:
            The run state that was reached.

        Raises:
            QMPTimeoutError: it was not reached; the text has the present one.
            QMPDisconnectedError: the machine is gone.
        """
        __tracebackhide__ = True
        wanted = (status,) if isinstance(status, str) else tuple(status)
        kinds = frozenset[str]().union(*(STATUS_KINDS.get(one, ()) for one in wanted))
        if not kinds:
            return self._await_status(wanted, self._deadline(timeout))
        board = self._oversight.board
        with board.permitting(kinds):
            board.forgive(kinds)
            found = self._await_status(wanted, self._deadline(timeout))
            self._oversight.sync()
        return found

    def _await_status(self, wanted: tuple[str, ...], deadline: Deadline) -> str:
        __tracebackhide__ = True
        names = " or ".join(map(repr, wanted))
        recheck = _FIRST_RECHECK_SECONDS
        found = ""
        while True:
            try:
                seen = self.qmp.events.total
                found = str(self.qmp.execute("query-status", timeout=deadline)["status"])
                if found in wanted:
                    return found
                if deadline.expired:
                    break
                # Not every change of the run state is told by an event.
                self.qmp.wait_for_news(seen, _sooner(deadline, recheck))
                recheck = min(2 * recheck, _LAST_RECHECK_SECONDS)
            except VMVerdictError as error:
                when = f"while the run state {names} of {self} was awaited"
                raise self._oversight.board.failure(error.verdict, when) from None
            except QMPDisconnectedError:
                # Not taken from those who wait for it: only looked for.
                if "shutdown" in wanted and "SHUTDOWN" in self.qmp.events.names():
                    return "shutdown"
                raise
            except QMPTimeoutError:
                break
        raise QMPTimeoutError(
            f"waited {deadline.words} for the run state {names} of {self}, in vain"
            + (f": it is {found!r}. " if found else ". ")
            + self.qmp.events.describe()
            + self._shown_console()
        )

    def assert_status(self, expected: str) -> None:
        """Asserts the run state, such as ``running`` or ``paused``.

        Raises:
            AssertionError: it is another.
        """
        __tracebackhide__ = True
        asserts.assert_status(self.qmp.execute, expected)

    def assert_qmp(
        self,
        command: str,
        path: str,
        value: object,
        arguments: Mapping[str, Any] | None = None,
        /,
        **keywords: Any,
    ) -> None:
        """Asserts one value in what a command returns.

        Args:
            command: what to ask.
            path: where to look: ``0/inserted/file``.
            value: what must be there.
            arguments: those of the command.
            keywords: more of them.

        Raises:
            AssertionError: there is something else, or nothing.
        """
        __tracebackhide__ = True

        def execute(name: str, given: Mapping[str, Any] | None) -> Any:
            return self.qmp.execute(name, given, **keywords)

        asserts.assert_qmp(execute, command, path, value, arguments)

    # -- power -----------------------------------------------------------------------------------

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


def _backend(config: VMConfig) -> Backend:
    if config.backend != "fake":
        return QEMUProcess(config)
    from pytest_qmp.vm.fake_machine import FakeMachine

    return FakeMachine(config)


def _sooner(deadline: Deadline, limit: float) -> Deadline:
    left = deadline.remaining()
    return Deadline(limit if left is None else min(limit, left))
