"""A program that takes QEMU's arguments, real or fake, as the peer of a recorded conversation."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence

from pytest_qmp.keeper import client as keeper

from .conformance import Case, Difference

__all__ = ["ProgramPeer"]

#: How long, in seconds, a program may take to listen.
_START_LIMIT = 20.0
_POLL = 0.002


class ProgramPeer:
    """A program, started for a case, for :func:`pytest_qmp.fake.conformance.play`.

    Args:
        case: what it is started for.
        command: the program and its own arguments, those of the case come after them.

    Raises:
        OSError: it can't be executed.
    """

    def __init__(self, case: Case, command: Sequence[str], *, takes_time: bool = True) -> None:
        self.takes_time = takes_time
        self._folder = tempfile.TemporaryDirectory(prefix="qmp-")
        self.address = os.path.join(self._folder.name, "q.sock")
        args = [*case.qemu_args]
        own = re.search(r"path=([^,]*/q\.sock)", " ".join(args))
        if own:
            self.address = own[1]
        elif case.handshake != "unconnected":
            args += ["-qmp", f"unix:{self.address},server=on,wait=off"]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [*command, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            **keeper.kept(),
        )

    def connect(self) -> socket.socket:
        """Connects to its QMP socket, which may not be there yet."""
        deadline = time.monotonic() + _START_LIMIT
        while True:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(self.address)
            except OSError as error:
                client.close()
                status = self._process.poll()
                if status is not None:
                    raise Difference(f"ended with status {status}: {self.stderr()}") from error
                if time.monotonic() > deadline:
                    raise Difference(f"doesn't listen: {error}") from error
                time.sleep(_POLL)
            else:
                return client

    def signal(self, name: str) -> None:
        """Sends it a signal."""
        self._process.send_signal(signal.Signals[name])

    def wait_exit(self, timeout: float) -> int | None:
        """Its exit status, None if it has none in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def has_socket_file(self) -> bool:
        """Whether the socket is still in the file system."""
        return os.path.exists(self.address)

    def stderr(self) -> str:
        """What it wrote to its standard error, without its name."""
        self._stderr.seek(0)
        text = self._stderr.read().decode("utf-8", "replace")
        return re.sub(r"^qemu[\w-]*: ", "", text, flags=re.MULTILINE).strip()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()
        self._folder.cleanup()
