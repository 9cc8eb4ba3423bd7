"""Asserting that a command is refused, and with which words."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from pytest_qmp.errors import QMPCommandError
from pytest_qmp.text import nearest, printable

__all__ = ["ErrorExpectation", "assert_error"]

_CLASSES = ("CommandNotFound", "DeviceNotActive", "DeviceNotFound", "GenericError", "KVMMissingCap")


def assert_error(
    error_class: str | None = None, match: str | re.Pattern[str] | None = None
) -> ErrorExpectation:
    """Asserts that a command inside the block is refused; a context manager, as ``pytest.raises``.

    It takes the errors of any client: blocking, asynchronous, a guest agent's.

    Args:
        error_class: QMP's error class, such as ``GenericError``; None: any.
        match: a regular expression that is searched for in QEMU's own words; None: any.

    Returns:
        A context manager; ``value`` is the ``QMPCommandError`` once the block has ended.

    Raises:
        AssertionError: at the end of the block: nothing was refused, or with another class or
            with other words; the text shows both.
        ValueError: the class is no text, or the pattern is none.

    >>> from pytest_qmp import FakeQMPServer, QMPClient
    >>> with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
    ...     with assert_error("CommandNotFound", match="has not been found") as refused:
    ...         _ = client.execute("stopp")
    ...     refused.value.command
    'stopp'
    """
    __tracebackhide__ = True
    if error_class is not None and not isinstance(error_class, str):
        raise ValueError(
            f"assert_error takes QMP's error class as a text, such as 'GenericError', not "
            f"{error_class!r}; leave it out for any"
        )
    try:
        pattern = None if match is None else re.compile(match)
    except (re.error, TypeError) as error:
        raise ValueError(f"match is a regular expression, and {match!r} is none: {error}") from None
    return ErrorExpectation(error_class, pattern)


class ErrorExpectation:
    """What ``assert_error`` gives; ``value`` is the error, once the block has ended."""

    def __init__(self, error_class: str | None, pattern: re.Pattern[str] | None) -> None:
        self._class = error_class
        self._pattern = pattern
        self._error: QMPCommandError | None = None

    @property
    def value(self) -> QMPCommandError:
        """The error, with ``error_class``, ``desc``, ``command`` and ``arguments``.

        Raises:
            ValueError: the block has not ended yet.
        """
        if self._error is None:
            raise ValueError("the error is known once the with block has ended")
        return self._error

    def __enter__(self) -> ErrorExpectation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        __tracebackhide__ = True
        if error is None:
            raise AssertionError(
                f"a command was to be refused{self._wanted()}, but none in the block was"
            )
        if not isinstance(error, QMPCommandError):
            return False
        fault = self._fault(error)
        if fault:
            raise AssertionError(f"{fault}\n{error}") from error
        self._error = error
        return True

    def _wanted(self) -> str:
        text = f" with {self._class}" if self._class else ""
        return text + (f" and words matching {self._pattern.pattern!r}" if self._pattern else "")

    def _fault(self, error: QMPCommandError) -> str:
        asked = repr(error.command) if error.command else "the command"
        found = printable(f"{error.error_class}: {error.desc}")
        if self._class is not None and error.error_class != self._class:
            text = f"{asked} was to be refused with another error:"
            known = {error.error_class, *_CLASSES}
            hint = "" if self._class in known else nearest(self._class, known)
            return f"{text}\n  expected {self._class}{self._words()}{hint}\n  found    {found}"
        if self._pattern is not None and not self._pattern.search(error.desc):
            text = f"{asked} was to be refused with other words:"
            hint = self._literal(error.desc)
            return (
                f"{text}\n  expected {error.error_class}{self._words()}{hint}\n  found    {found}"
            )
        return ""

    def _words(self) -> str:
        return f": (a text matching) {self._pattern.pattern!r}" if self._pattern else ""

    def _literal(self, desc: str) -> str:
        pattern: Any = self._pattern.pattern if self._pattern else ""
        return "; did you mean re.escape() of it?" if pattern and pattern in desc else ""
