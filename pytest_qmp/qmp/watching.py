"""What can end a wait besides its connection: somebody who watches the machine."""

from __future__ import annotations

from typing import Protocol

from pytest_qmp.errors import QMPError
from pytest_qmp.qmp.events import QMPEvent

__all__ = ["Watch"]


class Watch(Protocol):
    """Knows that a machine is past helping before its monitor says so, if it ever does."""

    @property
    def pending(self) -> bool:
        """False as long as no wait has to end; looked at in each wait, so it costs nothing."""

    def ends(self, names: tuple[str, ...] | None) -> bool:
        """Whether a wait has to end now.

        Args:
            names: of the events that are waited for; None for the reply to a command.
        """

    def error(self, awaited: str, *, gone: bool) -> QMPError | None:
        """The error that the wait ends with; None if it has to end with its own.

        Args:
            awaited: what was waited for, as ``the reply to 'stop'``.
            gone: the connection is over.
        """

    def wanted(self, event: QMPEvent) -> None:
        """A wait was for this very event, and got it."""
