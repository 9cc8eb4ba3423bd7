"""What a guest agent tells of its system, and does to it: power, file systems, network, clock."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_qmp.errors import QMPError
from pytest_qmp.qmp.agent_commands import AgentCommands
from pytest_qmp.qmp.waiting import DEFAULT, Timeout

if TYPE_CHECKING:
    from pytest_qmp.qmp.events import QMPEvent

__all__ = ["AgentSystem", "FrozenFileSystems", "ShutdownMode"]

ShutdownMode = Literal["powerdown", "reboot", "halt"]

_NANOSECONDS = 10**9


class AgentSystem(AgentCommands):
    """A client with the commands about the guest's system as methods.

    Each raises ``QMPCommandError`` if the agent refuses it or lacks it, and what ``execute``
    raises besides.
    """

    def info(self, *, timeout: Timeout = DEFAULT) -> dict[str, Any]:
        """The agent itself (``guest-info``): its ``version``, its ``supported_commands``."""
        __tracebackhide__ = True
        found: dict[str, Any] = self.execute("guest-info", timeout=timeout)
        return found

    def supported_commands(self, *, timeout: Timeout = DEFAULT) -> list[str]:
        """The names of the commands that the agent has and that are enabled, sorted."""
        __tracebackhide__ = True
        commands = self.info(timeout=timeout)["supported_commands"]
        return sorted(one["name"] for one in commands if one["enabled"])

    # -- power -----------------------------------------------------------------------------------

    def shutdown(
        self, mode: ShutdownMode = "powerdown", *, timeout: Timeout = DEFAULT
    ) -> QMPEvent | None:
        """Has the guest shut itself down (``guest-shutdown``).

        The agent says nothing when it succeeds, and this channel does not tell what follows:
        ``vm.guest`` of a ``VirtualMachine`` waits for that, too.

        Args:
            mode: ``powerdown``, ``reboot`` or ``halt``.
            timeout: seconds for the whole wait.

        Returns:
            None here; ``vm.guest`` returns the event that it has waited for.

        Raises:
            ValueError: there is no such mode.
            QMPCommandError: the agent refused it.
            QMPTimeoutError: no agent answers.
        """
        __tracebackhide__ = True
        if mode not in get_args(ShutdownMode):
            raise ValueError(f"shutdown() takes 'powerdown', 'reboot' or 'halt', not {mode!r}")
        self.execute("guest-shutdown", mode=mode, timeout=timeout)
        return None

    # -- file systems ----------------------------------------------------------------------------

    def fsfreeze(
        self, mountpoints: Iterable[str] | None = None, *, timeout: Timeout = DEFAULT
    ) -> FrozenFileSystems:
        """Freezes the guest's file systems: what was written is on the disk, and nothing more is.

        At once; at the end of a ``with`` block they are thawed. Meanwhile the agent executes
        hardly more than ``ping``, ``fsthaw`` and ``fsfreeze_status``.

        Source: ``guest-fsfreeze-freeze``, ``guest-fsfreeze-freeze-list``.

        Args:
            mountpoints: those to freeze; None: all.
            timeout: seconds for the whole wait.

        Returns:
            A context manager; its ``count`` is how many were frozen.
        """
        __tracebackhide__ = True
        if mountpoints is None:
            count = self.execute("guest-fsfreeze-freeze", timeout=timeout)
        else:
            if isinstance(mountpoints, str):
                raise TypeError(f"mountpoints is a list, as in [{mountpoints!r}]")
            named = {"mountpoints": list(mountpoints)}
            count = self.execute("guest-fsfreeze-freeze-list", named, timeout=timeout)
        return FrozenFileSystems(self, int(count))

    def fsthaw(self, *, timeout: Timeout = DEFAULT) -> int:
        """Thaws what ``fsfreeze`` froze (``guest-fsfreeze-thaw``); returns how many it thawed."""
        __tracebackhide__ = True
        return int(self.execute("guest-fsfreeze-thaw", timeout=timeout))

    def fsfreeze_status(self, *, timeout: Timeout = DEFAULT) -> str:
        """``frozen`` or ``thawed`` (``guest-fsfreeze-status``)."""
        __tracebackhide__ = True
        return str(self.execute("guest-fsfreeze-status", timeout=timeout))

    # -- what the guest is -----------------------------------------------------------------------

    def network_interfaces(self, *, timeout: Timeout = DEFAULT) -> list[dict[str, Any]]:
        """The guest's network interfaces (``guest-network-get-interfaces``).

        Returns:
            For each its ``name``, and where it has them its ``hardware-address``, its
            ``ip-addresses`` (each with ``ip-address``, ``ip-address-type`` and ``prefix``) and its
            ``statistics``.
        """
        __tracebackhide__ = True
        found: list[dict[str, Any]] = self.execute("guest-network-get-interfaces", timeout=timeout)
        return found

    def hostname(self, *, timeout: Timeout = DEFAULT) -> str:
        """The guest's host name (``guest-get-host-name``)."""
        __tracebackhide__ = True
        return str(self.execute("guest-get-host-name", timeout=timeout)["host-name"])

    def os_info(self, *, timeout: Timeout = DEFAULT) -> dict[str, str]:
        """The guest's operating system (``guest-get-osinfo``): ``id``, ``kernel-release``, …"""
        __tracebackhide__ = True
        found: dict[str, str] = self.execute("guest-get-osinfo", timeout=timeout)
        return found

    # -- the clock -------------------------------------------------------------------------------

    def get_time(self, *, timeout: Timeout = DEFAULT) -> float:
        """The guest's clock (``guest-get-time``), in seconds since 1970."""
        __tracebackhide__ = True
        return int(self.execute("guest-get-time", timeout=timeout)) / _NANOSECONDS

    def set_time(
        self, moment: float | datetime | None = None, *, timeout: Timeout = DEFAULT
    ) -> None:
        """Sets the guest's clock (``guest-set-time``).

        Args:
            moment: seconds since 1970, or a ``datetime``; None takes the machine's own clock
                (RTC), as after a long stop.
            timeout: seconds for the whole wait.
        """
        __tracebackhide__ = True
        arguments: dict[str, int] = {}
        if moment is not None:
            seconds = moment.timestamp() if isinstance(moment, datetime) else moment
            arguments["time"] = round(seconds * _NANOSECONDS)
        self.execute("guest-set-time", arguments, timeout=timeout)


class FrozenFileSystems:
    """What ``fsfreeze`` froze, until the end of its ``with`` block.

    Attributes:
        count: how many file systems were frozen.
    """

    def __init__(self, agent: AgentSystem, count: int) -> None:
        self.count = count
        self._agent = agent

    def thaw(self) -> int:
        """Thaws them; returns how many file systems were thawed."""
        __tracebackhide__ = True
        return self._agent.fsthaw()

    def __enter__(self) -> FrozenFileSystems:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if kind is None:
            self.thaw()
            return
        # What ended the block is what counts; the guest may be gone with it.
        with suppress(QMPError):
            self.thaw()

    def __repr__(self) -> str:
        return f"<{self.count} frozen file systems>"
