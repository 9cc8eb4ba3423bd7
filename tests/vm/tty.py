"""A console whose guest is a program at a pseudo-terminal of this host: a shell, no machine."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pytest_qmp.vm.console import Console
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.supervisor import drain
from pytest_qmp.vm.verdict_board import VerdictBoard

__all__ = ["at_tty", "console_on"]


@contextmanager
def console_on(sock: socket.socket, timeout: float = 20) -> Iterator[Console]:
    """A console on a socket, drained as a machine's is."""
    stream = OutputStream()
    attendance = drain(sock, stream.feed)
    board = VerdictBoard((), lambda verdict, limit: "", watched=False, firmware_resets=False)
    console = Console("serial0", sock, stream, timeout=timeout, explain_end=lambda: "", board=board)
    try:
        yield console
    finally:
        attendance.stop()
        console.close()
        stream.close()
        sock.close()


@contextmanager
def at_tty(
    argv: Sequence[str],
    *,
    prompt: str = "guest# ",
    columns: int = 80,
    path: str = os.defpath,
    timeout: float = 20,
) -> Iterator[tuple[Console, socket.socket]]:
    """A program at a terminal, and the guest's side of the console, to write to it as a kernel."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {"PATH": path, "PS1": prompt, "TERM": "vt100", "LC_ALL": "C.UTF-8"}

    def take_terminal() -> None:
        os.setsid()
        # What a shell has started in its background has inherited these as ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    program = subprocess.Popen(
        argv,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    ours, theirs = socket.socketpair()

    def to_console() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                data = b""
            # At the end of a test nobody is there any more.
            with suppress(OSError):
                if not data:
                    theirs.shutdown(socket.SHUT_WR)
                    return
                theirs.sendall(data)
                continue
            return

    def to_program() -> None:
        with suppress(OSError):
            while data := theirs.recv(4096):
                os.write(master, data)

    threads = [threading.Thread(target=one, daemon=True) for one in (to_console, to_program)]
    for thread in threads:
        thread.start()
    try:
        with console_on(ours, timeout) as console:
            yield console, theirs
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
        for thread in threads:
            thread.join(10)
        os.close(master)
        theirs.close()
