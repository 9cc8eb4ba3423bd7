"""What a blocking client of a machine that is watched adds to a client."""

from __future__ import annotations

from pytest_qmp.qmp.connection import BlockingConnection
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.qmp.watching import Watch

__all__ = ["WatchedClient"]


class WatchedClient:
    """The part of a client that lets somebody else end its waits."""

    _connection: BlockingConnection | None = None
    _watch: Watch | None = None

    def watch(self, watch: Watch | None) -> None:
        """Lets somebody who watches the machine end waits, or nobody; see ``Watch``."""
        self._watch = watch
        if self._connection is not None:
            self._connection.watch = watch

    def want(self, event: QMPEvent) -> None:
        """The test wants this very event: it is no verdict."""
        if self._watch is not None:
            self._watch.wanted(event)

    def look_again(self) -> None:
        """Makes each wait look at the watch anew; for any thread."""
        if self._connection is not None:
            self._connection.look_again()
