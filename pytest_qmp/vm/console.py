"""The console: a pexpect spawn on a guest's serial port."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

from pytest_qmp.qmp.deadline import limits
from pytest_qmp.vm.console_errors import (
    ConsoleCommandError,
    ConsoleEOFError,
    ConsoleLoginError,
    ConsoleTimeoutError,
    ConsoleVerdictError,
)
from pytest_qmp.vm.console_reading import ConsoleReading
from pytest_qmp.vm.console_shell import CommandResult, ConsoleShell, ShellState
from pytest_qmp.vm.shell_frames import RESTORE

__all__ = [
    "CommandResult",
    "Console",
    "ConsoleCommandError",
    "ConsoleEOFError",
    "ConsoleLoginError",
    "ConsoleTimeoutError",
    "ConsoleVerdictError",
    "ShellState",
]

# How long a guest that takes nothing is waited for until the verdicts are looked at again.
_LONGEST_SLEEP = 0.01


class Console(ConsoleShell, ConsoleReading):
    """A pexpect spawn on a serial port: ``expect``, ``expect_exact``, ``send``, ``sendline``, ….

    All of it is pexpect's own, but: what a guest writes is drained in the background from its
    first byte on, a pattern is searched for in all of it and found however it came in pieces, a
    failed expect shows the guest's last lines, and the errors are also ``QMPError``. It speaks
    text; what is no UTF-8 becomes U+FFFD.

    Args:
        name: of the port, for messages.
        sock: its socket.
        stream: what the guest wrote and will write.
        timeout: seconds for an expect, unless it says otherwise; None: no limit.
        explain_end: says why the guest's side has closed.
        board: of the machine's verdicts.
    """

    def isalive(self) -> bool:
        """True until the console is closed."""
        return not self.closed

    def close(self) -> None:
        """Stops using the port; the machine runs on."""
        self.closed = True

    def send(self, text: str) -> int:
        """Types a text, as it is.

        Returns:
            The number of bytes.

        Raises:
            ConsoleTimeoutError: the guest did not take it all in time.
            ConsoleVerdictError: something happened to the machine before it took it all.
            ConsoleEOFError: the guest's side has closed.
        """
        __tracebackhide__ = True
        text = self._coerce_send_string(text)
        self._log(text, "send")
        data = str(text).encode("utf-8")
        deadline = limits.deadline(self.timeout)
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        sent = 0
        while sent < len(data):
            if not poll.poll(deadline.poll_milliseconds(_LONGEST_SLEEP)):
                if self._patience() <= 0:
                    self._awaited = f"room for {len(data) - sent} bytes", False
                    self._raise_verdict(gone=False)
                if not deadline.expired:
                    continue
                raise ConsoleTimeoutError(
                    f"typed {sent} of {len(data)} bytes at the console {self.name}: the guest "
                    f"took no more within {deadline.words}.\n{self._shown()}"
                )
            try:
                sent += self._sock.send(data[sent:], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                continue
            except OSError as error:
                self._awaited = f"room for {len(data) - sent} bytes", False
                self._raise_verdict(gone=True)
                raise ConsoleEOFError(
                    f"can't type at the console {self.name}: {self._ended()}\n{self._shown()}"
                ) from error
        return len(data)

    def sendline(self, text: str = "") -> int:
        """Types a text and a newline."""
        __tracebackhide__ = True
        return self.send(f"{text}{self.linesep}")

    def sendcontrol(self, char: str) -> int:
        """Types a control character: ``sendcontrol("c")`` is Ctrl-C.

        Args:
            char: a letter, or one of ``@[\\]^_?``.

        Raises:
            ValueError: there is no such control character.
        """
        __tracebackhide__ = True
        code = ord(char.upper()) ^ 0x40 if len(char) == 1 else -1
        if not (0 <= code < 0x20 or code == 0x7F):
            raise ValueError(f"there is no control character Ctrl-{char}")
        return self.send(chr(code))

    def sendintr(self) -> int:
        """Types Ctrl-C, which ends the program in front."""
        __tracebackhide__ = True
        return self.sendcontrol("c")

    def sendeof(self) -> int:
        """Types Ctrl-D, which ends the input of the program in front."""
        __tracebackhide__ = True
        return self.sendcontrol("d")

    def interact(self, escape_character: str | None = "\x1d") -> None:
        """Gives the console to a person at the terminal, until Ctrl-] is pressed.

        What was shown is passed over by the next expect. Where ``run()`` has turned the guest's
        echo off, it is turned on meanwhile. Run pytest with ``-s``, so that it leaves the terminal
        alone.

        Args:
            escape_character: what ends it; None: nothing but the machine's end.

        Raises:
            VMError: there is no terminal.
        """
        __tracebackhide__ = True
        from pytest_qmp.vm.console_interact import interact

        if self.shell_state is not None:
            self.send(f"{RESTORE}\n")
            self.shell_state = None
        shown = interact(self._stream, self._unread.start, self.send, self.name, escape_character)
        self._unread.skip(shown)

    def write(self, text: str) -> None:
        """Types a text, as a file's ``write`` does."""
        __tracebackhide__ = True
        self.send(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Types texts, one after the other."""
        __tracebackhide__ = True
        for text in texts:
            self.send(text)
