"""Plays the client's side of a recording on another QEMU, and says what comes out differently."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .conformance import ANSWER_LIMIT, Case, Difference, Peer
from .emitter import emit
from .json_parser import JSONReader
from .recorder import without_monitors
from .recording import Conversation, Exchange, Recording

__all__ = ["compare_replay"]


def compare_replay(recording: Recording, start: Callable[[Case], Peer]) -> Iterator[str]:
    """Plays a recording on another QEMU.

    Times, ids, and what the greeting says of the version are not compared.

    Args:
        recording: what to play.
        start: starts the other QEMU with the arguments of a case.

    Yields:
        each difference, as a text of some lines.

    Raises:
        OSError: the other QEMU can't be started.
    """
    args, _ = without_monitors(recording.argv[1:])
    peer = start(Case(str(recording.path), "", tuple(args), "greeting", (), True))
    try:
        for number, conversation in enumerate(recording.conversations):
            try:
                with peer.connect() as client:
                    yield from _Player(client).play(conversation)
            except (Difference, OSError) as broken:
                yield f"connection {number}: {broken}"
                return
        if recording.exit_status is not None and _ends(recording):
            status = peer.wait_exit(ANSWER_LIMIT)
            if status != recording.exit_status:
                yield _differ("the exit status", recording.exit_status, status)
    finally:
        peer.close()


class _Player:
    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._reader = JSONReader(False)
        self._received: deque[Any] = deque()

    def play(self, conversation: Conversation) -> Iterator[str]:
        if conversation.greeting is not None:
            message = self._take()
            greeting = message.get("QMP", {}) if isinstance(message, dict) else {}
            if greeting.get("capabilities") != conversation.greeting["QMP"].get("capabilities"):
                yield _differ("the greeting", conversation.greeting, message)
        for exchange in conversation.exchanges:
            yield from self._exchange(exchange)
        yield from self._events("after the last command", conversation.after)

    def _exchange(self, exchange: Exchange) -> Iterator[str]:
        if exchange.command is None:
            yield from self._events("between two commands", exchange.before)
            return
        shown = emit(exchange.command)
        self._client.sendall(shown.encode())
        if exchange.reply is None:
            return
        came: list[Any] = []
        while not _is_reply(message := self._take(shown)):
            came.append(message)
        wanted, got = list(map(_plain, exchange.before)), list(map(_plain, came))
        if wanted != got:
            yield _differ(f"the events before the reply to {shown}", wanted, got)
        reply, answer = _plain(exchange.reply), _plain(message)
        if reply != answer:
            yield _differ(f"the reply to {shown}", reply, answer)

    def _events(self, when: str, expected: list[dict[str, Any]]) -> Iterator[str]:
        for event in expected:
            wanted = _plain(event)
            try:
                got = _plain(self._take())
            except Difference as missing:
                yield _differ(f"what came {when}", wanted, f"nothing: {missing}")
                return
            if wanted != got:
                yield _differ(f"what came {when}", wanted, got)

    def _take(self, command: str = "") -> Any:
        deadline = time.monotonic() + ANSWER_LIMIT
        what = f"the reply to {command}" if command else "a message"
        while not self._received:
            self._client.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._client.recv(1 << 16)
            except TimeoutError:
                raise Difference(f"{what} did not come within {ANSWER_LIMIT:g} s") from None
            if not data:
                raise Difference(f"the connection ended where {what} was expected")
            self._received.extend(self._reader.feed(data))
        return self._received.popleft()


def _is_reply(message: Any) -> bool:
    return isinstance(message, dict) and ("return" in message or "error" in message)


def _plain(message: Any) -> Any:
    """Without what differs from one run to the next."""
    if not isinstance(message, Mapping):
        return message
    return {key: message[key] for key in message if key not in ("timestamp", "id")}


def _ends(recording: Recording) -> bool:
    """Whether QEMU ended of what was said, and not of something else."""
    return any(
        message.get("event") == "SHUTDOWN"
        for conversation in recording.conversations
        for messages in (conversation.after, *(one.before for one in conversation.exchanges))
        for message in messages
    )


def _differ(what: str, wanted: Any, got: Any) -> str:
    return f"{what} differs:\n- {_shown(wanted)}\n+ {_shown(got)}"


def _shown(value: Any, limit: int = 2000) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
