"""What is said when a wait or a connection fails: the same words from every client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_qmp.errors import (
    QMPCapabilitiesError,
    QMPCommandError,
    QMPDisconnectedError,
    QMPError,
    QMPProtocolError,
    QMPTimeoutError,
)
from pytest_qmp.qmp.deadline import Deadline, seconds
from pytest_qmp.qmp.events import EventMatcher, QMPEvent
from pytest_qmp.qmp.messages import QMPVersion
from pytest_qmp.qmp.session import Call, Session
from pytest_qmp.qmp.wire import show_bytes
from pytest_qmp.text import printable

__all__ = [
    "ONE_CLIENT",
    "came_anyway",
    "lost",
    "negotiation_refused",
    "no_address",
    "not_connected",
    "refused",
    "stray_instead_of_greeting",
    "unknown_command",
    "unmet",
]

ONE_CLIENT = (
    "A QMP socket serves one client at a time and lets the others wait without a word: check that "
    "no other client is connected to it"
)


def unmet(
    session: Session,
    peer: str,
    awaited: str,
    deadline: Deadline,
    *,
    seen: str = "",
    sent: bool = True,
    explain: Callable[[], str] | None = None,
) -> QMPError:
    """The error of a wait that ended without what it was for.

    Args:
        session: of the connection that was waited on.
        peer: who is at the other end.
        awaited: what for, as ``the reply to 'stop'``.
        deadline: of the wait.
        seen: what came instead.
        sent: False if the request itself could not be sent.
        explain: as in ``lost``.
    """
    if session.failure is not None:
        return lost(session, peer, f" while {awaited} was awaited", seen, explain)
    text = f"waited {deadline.words} for {awaited} from {peer}, in vain"
    if not sent:
        text += "; the peer does not read, so it was not sent and is withdrawn"
    elif session.partial:
        text += f"; half a message came: {show_bytes(session.partial)}"
    elif session.stray is not None:
        text += f"; a reply to nothing that was asked came: {show_bytes(session.stray)}"
    elif session.last_received is None:
        text += "; it has not sent a byte"
    return QMPTimeoutError(f"{text}. {seen}" if seen else f"{text}.")


def lost(
    session: Session,
    peer: str,
    when: str = "",
    seen: str = "",
    explain: Callable[[], str] | None = None,
) -> QMPError:
    """The reason for which a connection is over, as an error.

    Args:
        session: of the connection.
        peer: who was at the other end.
        when: what was being done.
        seen: what came before.
        explain: knows why a peer that closed the connection did (QEMU's exit status).
    """
    failure = session.failure or QMPDisconnectedError(f"{peer} is not connected")
    text = f"{failure}{when}"
    if explain is not None and isinstance(failure, QMPDisconnectedError):
        why = explain()
        text = f"{text}: {why}" if why else text
    if seen:
        text = f"{text}\n{seen}"
    if isinstance(failure, QMPProtocolError):
        return QMPProtocolError(text)
    return QMPDisconnectedError(text)


def not_connected() -> QMPDisconnectedError:
    """The error of a client that was never connected."""
    return QMPDisconnectedError(
        "the client is not connected: connect(address) makes one that is, and one that "
        "listens is connected once accept() has returned"
    )


def no_address() -> QMPError:
    """The error of a reconnect that has nowhere to connect to."""
    return QMPError(
        "this client was given a connected socket, so it knows no address to reconnect to"
    )


def stray_instead_of_greeting(session: Session, peer: str) -> QMPProtocolError:
    """The error for a server that answers before it has greeted."""
    return QMPProtocolError(
        f"{peer} sent a reply before any greeting: {session.stray!r}. A guest agent "
        "greets nobody; QEMU's monitor does"
    )


def negotiation_refused(call: Call, peer: str) -> QMPCapabilitiesError | None:
    """The error of a ``qmp_capabilities`` that was refused; None if it was not."""
    if call.reply is None or "error" not in call.reply:
        return None
    return QMPCapabilitiesError(f"{peer} refused the negotiation: {printable(refused(call).desc)}")


def refused(call: Call, hint: str = "") -> QMPCommandError:
    """The error of a command that QEMU refused."""
    error = (call.reply or {}).get("error")
    error = error if isinstance(error, dict) else {}
    return QMPCommandError(
        str(error.get("class", "GenericError")),
        str(error.get("desc", "")),
        command=call.command,
        arguments=call.arguments,
        reply=call.reply,
        hint=hint,
    )


def unknown_command(command: str, known: Sequence[str], version: QMPVersion) -> str:
    """A hint at the commands that QEMU has and that are spelt like the one it does not have."""
    import difflib

    if command in known:
        return ""
    near = difflib.get_close_matches(command, known, n=3)
    if near:
        return f"QEMU {version} has no such command; did you mean {' or '.join(map(repr, near))}?"
    return f"QEMU {version} has no such command among its {len(known)}"


def watched_too_short(matcher: EventMatcher, within: float, deadline: Deadline) -> QMPTimeoutError:
    """An ``assert_no_event`` that the test's own end cut short: nobody knows what it would see."""
    return QMPTimeoutError(
        f"no event {matcher} was to come within {seconds(within)}: none came in {deadline.words}, "
        "and the rest can't be watched. Watch for a shorter time, or give the test more"
    )


def came_anyway(matcher: EventMatcher, deadline: Deadline, event: QMPEvent) -> AssertionError:
    """The failure of an ``assert_no_event``."""
    return AssertionError(
        f"no event {matcher} was to come within {deadline.words}, but after "
        f"{seconds(deadline.elapsed)} came {event}"
    )
