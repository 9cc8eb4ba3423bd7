"""A console for a person: this terminal, as if it were the guest's own."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable

from pytest_qmp.errors import VMError
from pytest_qmp.vm.stream import OutputStream

__all__ = ["interact"]

_READ_SIZE = 4096
# Of what nobody has read yet, a person is shown the end.
_SHOWN_BYTES = 4096


def interact(
    stream: OutputStream,
    start: int,
    send: Callable[[str], object],
    name: str,
    escape_character: str | None,
) -> int:
    """Shows what the guest writes, and types what the person types.

    Args:
        stream: what the guest writes.
        start: the byte from which nobody has read it.
        send: types a text at the console.
        name: of the console.
        escape_character: ends it.

    Returns:
        The byte up to which it was shown.

    Raises:
        VMError: there is no terminal.
    """
    __tracebackhide__ = True
    terminal = _terminal()
    sys.stdout.flush()
    screen = sys.stdout.fileno()
    escape = escape_character.encode() if escape_character else b""
    hint = f"; Ctrl-{chr(escape[0] ^ 0x40)} leaves it" if len(escape) == 1 and escape < b" " else ""
    _write(screen, f"[the console {name}{hint}]\r\n".encode())
    news, tell = os.pipe()
    os.set_blocking(tell, False)
    shown = max(start, stream.size - _SHOWN_BYTES)
    before = termios.tcgetattr(terminal)
    remove = stream.add_listener(lambda: _wake(tell))
    try:
        tty.setraw(terminal, termios.TCSANOW)
        while True:
            ended = stream.ended
            while data := stream.read_at(shown, _READ_SIZE):
                _write(screen, data)
                shown += len(data)
            if ended:
                _write(screen, f"\r\n[the console {name} has closed]\r\n".encode())
                return shown
            ready, _, _ = select.select([terminal, news], [], [])
            if news in ready:
                os.read(news, _READ_SIZE)
            if terminal in ready:
                typed, found, _ = _partition(os.read(terminal, _READ_SIZE), escape)
                if typed:
                    send(typed.decode("utf-8", "replace"))
                if found:
                    _write(screen, f"\r\n[left the console {name}]\r\n".encode())
                    return shown
    finally:
        remove()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(news)
        os.close(tell)


def _terminal() -> int:
    __tracebackhide__ = True
    try:
        number = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        number = -1  # pytest's own, which it gives to tests without -s.
    if number >= 0 and os.isatty(number):
        return number
    raise VMError(
        "interact() needs a terminal for a person, and standard input is none: run pytest in one, "
        "with -s (and without -n)"
    )


def _partition(typed: bytes, escape: bytes) -> tuple[bytes, bytes, bytes]:
    # An end of the terminal itself is no input.
    if not typed:
        return b"", b"eof", b""
    return typed.partition(escape) if escape else (typed, b"", b"")


def _wake(tell: int) -> None:
    try:
        os.write(tell, b"\0")
    except BlockingIOError:
        return  # It has enough to wake from.


def _write(screen: int, data: bytes) -> None:
    while data:
        data = data[os.write(screen, data) :]
