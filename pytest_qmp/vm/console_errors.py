"""What can go wrong at a console."""

from __future__ import annotations

import pexpect

from pytest_qmp.errors import (
    QMPDisconnectedError,
    QMPTimeoutError,
    VMError,
    VMGoneError,
    VMVerdictError,
)

__all__ = [
    "ConsoleCommandError",
    "ConsoleEOFError",
    "ConsoleLoginError",
    "ConsoleTimeoutError",
    "ConsoleVerdictError",
]


class ConsoleTimeoutError(QMPTimeoutError, pexpect.TIMEOUT):
    """What was expected did not come. Also a ``pexpect.TIMEOUT``.

    Attributes:
        output: where a command of ``run()`` did not end: what it had written by then.
    """

    __module__ = "pytest_qmp"

    def __init__(self, message: str, *, output: str = "") -> None:
        super().__init__(message)
        self.value = message
        self.output = output

    def __str__(self) -> str:
        return str(self.value)


class ConsoleEOFError(QMPDisconnectedError, pexpect.EOF):
    """The guest's side closed before what was expected came. Also a ``pexpect.EOF``."""

    __module__ = "pytest_qmp"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.value = message

    def __str__(self) -> str:
        return str(self.value)


class ConsoleVerdictError(VMGoneError, ConsoleEOFError):
    """Something happened to the machine, so that nothing more can come. Also a ``pexpect.EOF``."""

    __module__ = "pytest_qmp"

    def __init__(self, error: VMVerdictError) -> None:
        VMVerdictError.__init__(self, str(error), kind=error.kind, verdict=error.verdict)
        self.value = str(error)


class ConsoleLoginError(VMError):
    """The guest let nobody in: the password is wrong, or it asks for one that was not given."""

    __module__ = "pytest_qmp"


class ConsoleCommandError(VMError):
    """A command of ``run(…, check=True)`` failed.

    Attributes:
        command: what was run.
        output: what it wrote.
        status: its exit status.
    """

    __module__ = "pytest_qmp"

    def __init__(self, message: str, *, command: str, output: str, status: int) -> None:
        super().__init__(message)
        self.command = command
        self.output = output
        self.status = status
