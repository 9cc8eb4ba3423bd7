"""The state of a conversation with a guest agent, without I/O: in sync, or on the way there.

A guest agent greets nobody and may answer whoever spoke to it before. A reply that follows the
byte 0xFF, which no JSON holds, and that repeats a number of ours is the first one for us.

Source: the QEMU guest agent protocol, ``guest-sync-delimited``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from time import monotonic
from typing import Any

from pytest_qmp.errors import QMPError, QMPProtocolError
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.messages import encode_command
from pytest_qmp.qmp.session import Call, Session, SessionCheckpoint
from pytest_qmp.qmp.wire import DEFAULT_MAX_MESSAGE_SIZE, MessageReader

__all__ = ["SYNC", "AgentSession"]

SYNC = "guest-sync-delimited"

_MARK = b"\xff"
_SHOWN = 200
_ID_BITS = 53  # what every JSON parser keeps exactly


class AgentSession(Session):
    """A session in which nothing counts until the agent has answered our own sync.

    No command has an ``id``: agents before QEMU 3.0 refuse a command that has one. So order is
    all there is to go by, and it is not trusted after anything odd: then the session is out of
    sync, drops whatever comes, and waits for the next sync.

    Args:
        max_message_size: bytes.

    Attributes:
        synced: True while replies can be trusted to be ours.
        complaint: what was wrong with what the agent sent when a command got no reply but that.
        dropped: how many bytes were dropped since it was last in sync.
        last_dropped: the last of them.
    """

    def __init__(self, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        super().__init__(EventLog(1), max_message_size)
        self._max_message_size = max_message_size
        self.synced = False
        self.complaint: QMPProtocolError | None = None
        self.dropped = 0
        self.last_dropped = b""
        self._sync: Call | None = None
        self._sync_id = 0
        self._marked = False
        self._undo = self._own_state()

    @property
    def partial(self) -> bytes:
        """The beginning of a message that may be for us, and whose end has not come."""
        return super().partial if self.synced or self._marked else b""

    def call(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, oob: bool = False
    ) -> Call:
        """Makes a command ready to be sent, on a line of its own and without an id.

        Raises:
            TypeError, ValueError: if the arguments can't be JSON.
        """
        return Call(command, arguments, None, False, encode_command(command, arguments) + b"\n")

    def sync_call(self) -> Call:
        """Makes a sync ready; from here on all is dropped until its own reply.

        An earlier sync counts no more: with the reply to the last one, nothing is owed.
        """
        self.lose_sync()
        self._sync_id = secrets.randbits(_ID_BITS)
        sync = self.call(SYNC, {"id": self._sync_id})
        # The byte makes the agent, too, forget the half command that a client may have left.
        sync.data = _MARK + sync.data
        self._sync = sync
        return sync

    def lose_sync(self) -> None:
        """Trusts nothing until the next sync: what is owed is not awaited any more."""
        self.synced = self._marked = False
        self._sync = self.stray = None
        self.owed.clear()

    def checkpoint(self) -> SessionCheckpoint:
        """All that ``receive`` may change, for the ``restore`` that may follow."""
        self._undo = self._own_state()
        return super().checkpoint()

    def restore(self, checkpoint: SessionCheckpoint) -> None:
        """Undoes a ``receive`` that an exception out of a signal handler cut short."""
        (
            self._reader,
            self.synced,
            self._marked,
            self._sync,
            self.complaint,
            self.dropped,
            self.last_dropped,
        ) = self._undo
        super().restore(checkpoint)

    def _own_state(
        self,
    ) -> tuple[MessageReader, bool, bool, Call | None, QMPProtocolError | None, int, bytes]:
        return (
            self._reader,
            self.synced,
            self._marked,
            self._sync,
            self.complaint,
            self.dropped,
            self.last_dropped,
        )

    def receive(self, data: bytes) -> None:
        """Takes bytes from the agent: resolves calls, drops what is not for us, or ends."""
        if self.failure is not None:
            return
        before, *marked = data.split(_MARK)
        self._receive_piece(before)
        for piece in marked:
            # Half a message that came before the mark has no second half.
            self._reader = MessageReader(self._max_message_size)
            self._marked = True
            self._receive_piece(piece)

    def _receive_piece(self, piece: bytes) -> None:
        if not piece:
            return
        if self.synced or self._marked:
            super().receive(piece)
        else:
            self.last_received = monotonic()
            self.transcript.append((self.last_received, "<", piece))
            self._drop(piece)

    def _receive_message(self, message: Any, raw: bytes) -> None:
        if self.synced:
            super()._receive_message(message, raw)
            if self.stray is not None and not self.owed:
                self.lose_sync()
        elif self._marked and self._sync is not None and _returned(message) == self._sync_id:
            self._sync.reply = message
            self.owed.clear()
            self._sync = None
            self.synced = True
            self.dropped, self.last_dropped = 0, b""
        else:
            # The reply to somebody else's sync, or to one of ours that came too late.
            self._marked = False
            self._drop(raw)

    def _drop(self, data: bytes) -> None:
        self.dropped += len(data)
        self.last_dropped = (self.last_dropped + data[-_SHOWN:])[-_SHOWN:]

    def end(self, failure: QMPError) -> None:
        """The connection is over, unless it was only garbled: the next sync mends that."""
        if not isinstance(failure, QMPProtocolError):
            super().end(failure)
        elif self.synced:
            self.complaint = failure
            for call in self.owed:
                call.reply = {}
            self.lose_sync()
        else:
            self._marked = False


def _returned(message: Any) -> Any:
    return message.get("return") if isinstance(message, dict) else None
