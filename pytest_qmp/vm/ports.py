"""The ports on which a guest is spoken with: its consoles and its agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import NeedsRealGuestError, VMError
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import nearest
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands
from pytest_qmp.vm.config import VMConfig

if TYPE_CHECKING:
    from pytest_qmp.vm.console import Console
    from pytest_qmp.vm.guest_agent import MachineGuestAgent

__all__ = ["MachinePorts"]


class MachinePorts(MachineCommands):
    """The consoles and the guest agent of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._opened_consoles: dict[str, Console] = {}
        self._agent: MachineGuestAgent | None = None

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
            if name not in self._opened_consoles:
                console = Console(
                    name,
                    sock,
                    self._oversight.streams[name],
                    timeout=self._timeout,
                    explain_end=self.explain_end,
                    board=self._oversight.board,
                )
                self._opened_consoles[name] = console
                self._releases.append(console.close)
        return self._opened_consoles

    def assert_console(
        self, pattern: Any, timeout: Timeout = DEFAULT, *, console: str | None = None
    ) -> Any:
        """Asserts that a console has shown something since the start, or shows it in time.

        What was expected before counts too, and is not taken from a later ``expect``.

        Args:
            pattern: a regular expression, compiled or not, or a list of them, of which any will
                do.
            timeout: seconds; 0 looks once.
            console: its name; None: the first.

        Returns:
            The match.

        Raises:
            AssertionError: it does not; the text shows what was expected beside the last lines and
                the line most like it.
            VMVerdictError: something happened to the machine, so that it will not.
            VMError: there is no such console.
        """
        __tracebackhide__ = True
        from pytest_qmp.asserts.consoles import assert_console

        if console is not None and console not in self.consoles:
            raise VMError(
                f"{self} has no console {console!r}; it has {', '.join(self.consoles) or 'none'}"
                f"{nearest(console, self.consoles)}"
            )
        shown = self.console if console is None else self.consoles[console]
        return assert_console(shown, pattern, self._deadline(timeout))

    @property
    def guest(self) -> MachineGuestAgent:
        """The guest agent's client; the first use waits until the agent has opened its port.

        Raises:
            VMError: the machine has no port for it: ``VMConfig(guest_agent=True)`` gives it one.
            NeedsRealGuestError: the fake has no guest.
            QMPTimeoutError: the guest has not opened the port, or no agent answers.
            VMVerdictError: something happened to the machine meanwhile.
        """
        __tracebackhide__ = True
        if self._agent is None:
            self._agent = self._make_agent()
        self._agent.require_answer()
        return self._agent

    def _make_agent(self) -> MachineGuestAgent:
        __tracebackhide__ = True
        from pytest_qmp.vm.guest_agent import MachineGuestAgent

        if self._agent_socket and self._backend.kind == "fake" and not self.fake.guest.agent.used:
            raise NeedsRealGuestError(
                "the guest agent needs a real guest, and this test runs on the fake: play one with "
                "vm.fake.guest.agent.on(…), or install QEMU"
            )
        if self._agent_socket is None:
            raise VMError(
                f"{self} runs already, and its guest agent's channel is not known: connect to it "
                "with GuestAgentClient.connect(ADDRESS)"
                if self._backend.kind == "external"
                else f"{self} has no port for a guest agent: VMConfig(guest_agent=True) gives it "
                "one"
            )
        agent = MachineGuestAgent(self, self._agent_socket)
        self._releases.append(agent.close)
        return agent
