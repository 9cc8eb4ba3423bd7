"""Plays QEMU's side of a recording to a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .emitter import emit
from .json_parser import ParseFault
from .monitor import Call, MonitorSession
from .recording import Conversation, Exchange, Recording

__all__ = ["Replay"]

_NEGOTIATE = "qmp_capabilities"


class Replay:
    """What is left of a recording, for the sessions of one server.

    Args:
        recording: what to play.
        strict: the commands have to come as they were recorded; else each is answered as it was,
            wherever it comes.
        note: takes what is wrong, for the test.
        noted: takes each command that came.
        end: takes QEMU's exit status, where the recording ends with it.
    """

    def __init__(
        self,
        recording: Recording,
        strict: bool,
        note: Callable[[str], None],
        noted: Callable[[Call], None],
        end: Callable[[int], None],
    ) -> None:
        self._recording = recording
        self._strict = strict
        self._note = note
        self._noted = noted
        self._end = end
        self._begun = 0
        self._answers: dict[str, list[Exchange]] = {}
        self._played: dict[MonitorSession, list[Exchange]] = {}
        if not strict:
            for conversation in recording.conversations:
                for exchange in conversation.exchanges:
                    if exchange.command is not None:
                        self._answers.setdefault(_key(exchange.command), []).append(exchange)

    def greet(self, session: MonitorSession) -> None:
        """A client has connected: it has the next conversation of the recording."""
        conversations = self._recording.conversations
        if self._strict and self._begun >= len(conversations):
            self._note(
                f"a client connected, but in {self._recording.path} there are no more than "
                f"{len(conversations)} connections"
            )
            session.ended = session.hangs_up = True
            return
        conversation = conversations[min(self._begun, len(conversations) - 1)]
        self._begun += 1
        session.take_over(lambda message: self._receive(session, message))
        if conversation.greeting is not None:
            session.send(conversation.greeting)
        self._played[session] = list(conversation.exchanges)
        self._skip_events(session)

    def check_end(self) -> None:
        """Notes what a strict recording holds and nobody asked for."""
        if not self._strict:
            return
        left = [exchange for queue in self._played.values() for exchange in queue]
        for conversation in self._recording.conversations[self._begun :]:
            left += conversation.exchanges
        missing = [_shown(exchange.command) for exchange in left if exchange.command is not None]
        if missing:
            self._note(
                f"{self._recording.path} goes on, but these commands never came:\n  "
                + "\n  ".join(missing)
            )

    def _receive(self, session: MonitorSession, message: Any) -> None:
        if isinstance(message, dict):
            name = message.get("execute", message.get("exec-oob", ""))
            self._noted(Call(str(name), message.get("arguments", {}), message.get("id")))
        exchange = (
            self._expected(session, message) if self._strict else self._found(session, message)
        )
        for event in exchange.before:
            session.send(event)
        if exchange.reply is not None:
            reply = {key: value for key, value in exchange.reply.items() if key != "id"}
            if isinstance(message, dict) and "id" in message:
                reply["id"] = message["id"]
            session.send(reply)
        self._skip_events(session)

    def _expected(self, session: MonitorSession, message: Any) -> Exchange:
        queue = self._played[session]
        exchange = queue.pop(0) if queue else None
        expected = exchange.command if exchange else None
        if exchange is None or _key(expected) != _key(message):
            wanted = _shown(expected) if exchange else "nothing more"
            difference = (
                f"the client does not say what it said in {self._recording.path}:\n"
                f"  expected {wanted}\n  got      {_shown(message)}"
            )
            self._note(difference)
            queue.clear()
            session.take_over(lambda message: None)
            session.hangs_up = True
            return _refused(message, difference)
        return exchange

    def _found(self, session: MonitorSession, message: Any) -> Exchange:
        answers = self._answers.get(_key(message), [])
        if not answers and isinstance(message, dict) and message.get("execute") == _NEGOTIATE:
            # Which capabilities it asks for is the client library's affair, not the test's.
            return Exchange(message, [], {"return": {}})
        if not answers:
            self._note(f"{self._recording.path} has no answer to {_shown(message)}")
            return _refused(message, f"the recording has no answer to {_shown(message)}")
        if len(answers) > 1:
            exchange = answers.pop(0)
        else:
            # Its answer serves again, its events have happened.
            exchange = answers[0]
            answers[0] = Exchange(exchange.command, [], exchange.reply)
        queue = self._played[session]
        if exchange in queue:
            del queue[: queue.index(exchange) + 1]
        return exchange

    def _skip_events(self, session: MonitorSession) -> None:
        """Sends what came of itself before the next command, and ends where the recording does."""
        queue = self._played[session]
        while queue and queue[0].command is None:
            for event in queue.pop(0).before:
                session.send(event)
        conversation = self._conversation(session)
        if not queue and conversation is not None:
            for event in conversation.after:
                session.send(event)
            if _quits(conversation) and self._recording.exit_status is not None:
                self._end(self._recording.exit_status)

    def _conversation(self, session: MonitorSession) -> Conversation | None:
        number = list(self._played).index(session)
        conversations = self._recording.conversations
        return conversations[number] if number < len(conversations) else None


def _refused(message: Any, desc: str) -> Exchange:
    """Tells the client, where a test sees it first, what ``check()`` will say."""
    return Exchange(message, [], {"error": {"class": "GenericError", "desc": desc}})


def _quits(conversation: Conversation) -> bool:
    """Whether QEMU announced its end in it."""
    messages = [*conversation.after]
    for exchange in conversation.exchanges:
        messages += exchange.before
    return any(message.get("event") == "SHUTDOWN" for message in messages)


def _key(message: Any) -> str:
    """What two commands have in common that are to be answered alike."""
    if isinstance(message, ParseFault) or message is None:
        return "not JSON"
    if isinstance(message, Mapping):
        told = {key: message[key] for key in message if key != "id"}
        return emit(_sorted({"arguments": {}} | told))
    return emit(message)


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _shown(message: Any, limit: int = 300) -> str:
    if isinstance(message, ParseFault):
        return "something that is not JSON"
    text = emit(message) if message is not None else "something that is not JSON"
    return text if len(text) <= limit else f"{text[:limit]}…"
