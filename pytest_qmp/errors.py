"""Every error that pytest-qmp raises, in one tree under QMPError.

The text of each says what was being done, what was seen, and what to do about it. Nothing here
imports anything heavy, so that any floor can raise any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_qmp.text import printable

__all__ = [
    "FakeQMPServerError",
    "NeedsRealGuestError",
    "QEMUNotFoundError",
    "QMPAddressError",
    "QMPCapabilitiesError",
    "QMPCommandError",
    "QMPConnectError",
    "QMPDisconnectedError",
    "QMPError",
    "QMPProtocolError",
    "QMPTimeoutError",
    "ScreenMismatchError",
    "UnmodelledCommandError",
    "VMConfigError",
    "VMError",
    "VMGoneError",
    "VMHotplugError",
    "VMJobError",
    "VMLaunchError",
    "VMMigrationError",
    "VMVerdictError",
]


class QMPError(Exception):
    """The root of the tree: catch it to catch whatever pytest-qmp raises."""


class QMPConnectError(QMPError, ConnectionError):
    """No connection could be made, or the connection is not there any more."""


class QMPAddressError(QMPConnectError, ValueError):
    """An address that can't be one."""


class QMPDisconnectedError(QMPConnectError):
    """The peer went away in the middle of a conversation, or the client was closed."""


class QMPCapabilitiesError(QMPError):
    """The peer refused the capabilities negotiation (``qmp_capabilities``)."""


class QMPTimeoutError(QMPError, TimeoutError):
    """A wait reached its deadline. The connection stays usable unless the text says otherwise."""


class QMPProtocolError(QMPError):
    """The peer sent something that is not QMP. The text shows the bytes."""


class QMPCommandError(QMPError):
    """QEMU, or a guest agent, answered a command with an error.

    Source: the QMP specification, section "Error".

    Attributes:
        error_class: QMP's error class, mostly ``GenericError`` or ``CommandNotFound``.
        desc: QEMU's own words.
        command: the command that was sent.
        arguments: its arguments, as they were sent.
        reply: the whole reply.
        hint: what may have been meant, or what to do; empty if unknown.
        who: who refused it, for the message.
    """

    def __init__(
        self,
        error_class: str,
        desc: str,
        *,
        command: str = "",
        arguments: Mapping[str, Any] | None = None,
        reply: Mapping[str, Any] | None = None,
        hint: str = "",
        who: str = "QEMU",
    ) -> None:
        self.error_class = error_class
        self.desc = desc
        self.command = command
        self.arguments = dict(arguments or {})
        self.reply = dict(reply or {})
        self.hint = hint
        self.who = who
        super().__init__(error_class, desc)

    def __str__(self) -> str:
        asked = f"{self.who} refused {repr(self.command) if self.command else 'a command'}"
        if self.arguments:
            asked += f" with {_short(self.arguments)}"
        # A guest agent's words are the guest's.
        text = f"{asked}: {printable(f'{self.error_class}: {self.desc}')}"
        return f"{text}\n{self.hint}" if self.hint else text


class VMError(QMPError):
    """A virtual machine could not do what it was asked to."""


class QEMUNotFoundError(VMError):
    """There is no such QEMU binary. The text says where it was looked for, and what to install.

    Attributes:
        given: True if somebody named this very path.
    """

    def __init__(self, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.given = given


class VMConfigError(VMError, ValueError):
    """A VMConfig (or what the marker or the options made of it) can't describe a machine."""


class VMLaunchError(VMError):
    """The machine did not start.

    Attributes:
        argv: the full command line.
        exit_status: the exit status of QEMU, negative for a signal, None if it did not get so far.
        stderr: what QEMU wrote to its standard error.
    """

    def __init__(
        self,
        message: str,
        *,
        argv: tuple[str, ...] = (),
        exit_status: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.argv = argv
        self.exit_status = exit_status
        self.stderr = stderr


class VMJobError(VMError):
    """A background job failed, was cancelled, can't go on by itself, or is not there.

    Attributes:
        info: what is known of it, a ``JobInfo``; empty if there is no such job.
    """

    def __init__(self, message: str, *, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.info: Any = {} if info is None else info


class VMMigrationError(VMError):
    """A migration could not begin, failed, or was cancelled. The text has the words of both ends.

    Attributes:
        info: what the source's ``query-migrate`` said last; empty if it was not asked.
        destination: the same of the destination, where that is one of ours.
    """

    def __init__(
        self,
        message: str,
        *,
        info: Mapping[str, Any] | None = None,
        destination: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.info = dict(info or {})
        self.destination = dict(destination or {})


class VMHotplugError(VMError):
    """A device can't be plugged in or unplugged, or the guest would not let it go.

    Attributes:
        device: its id; empty if it never got one.
    """

    def __init__(self, message: str, *, device: str = "") -> None:
        super().__init__(message)
        self.device = device


class VMVerdictError(VMError):
    """Something happened to the machine that the test did not want, and nothing can come of it.

    Attributes:
        kind: what ``vm.allow()`` calls it: ``"panic"``, ``"reset"``, ``"exit"``, …
        verdict: all that is known of it, a ``Verdict``.
    """

    def __init__(self, message: str, *, kind: str, verdict: Any = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.verdict = verdict


class VMGoneError(VMVerdictError, QMPDisconnectedError):
    """The same, and QEMU is gone with it."""


class NeedsRealGuestError(VMError):
    """The fake can't do this: it has no guest, and no script plays one.

    The plugin turns it into a skip, or into a failure under ``--qmp-require``.
    """


class ScreenMismatchError(QMPError, AssertionError):
    """A screen is not like the picture that it was to be like.

    Attributes:
        pictures: PNGs by name: ``actual``, and where they could be made ``expected`` and
            ``difference``.
    """

    def __init__(self, message: str, *, pictures: Mapping[str, bytes]) -> None:
        super().__init__(message)
        self.pictures = dict(pictures)


class FakeQMPServerError(QMPError):
    """The fake was used in a way that a real QEMU could not have been, or broke down itself."""


class UnmodelledCommandError(FakeQMPServerError):
    """A client sent commands that the fake does not model. The text names the stubs to write."""


def _short(arguments: Mapping[str, Any], limit: int = 400) -> str:
    text = repr(dict(arguments))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


for _name in __all__:
    # As people import them, so that a report's one line has room for the reason.
    globals()[_name].__module__ = "pytest_qmp"
