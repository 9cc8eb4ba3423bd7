"""What the clients talk to: one real QEMU, and a server that floods them with events."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

__all__ = ["EVENT", "LAST_EVENT", "EventStorm", "RealQEMU"]

_BINARY = "qemu-system-x86_64"

#: As QEMU writes it: 158 bytes with its line end.
EVENT = (
    b'{"timestamp": {"seconds": 1763841600, "microseconds": 123456}, "event": "BLOCK_JOB_READY", '
    b'"data": {"device": "vda", "len": 512, "offset": 512, "speed": 0}}\r\n'
)
LAST_EVENT = "GUEST_PANICKED"

_LAST = (
    b'{"timestamp": {"seconds": 1763841601, "microseconds": 0}, "event": "%s", '
    b'"data": {"action": "pause"}}\r\n' % LAST_EVENT.encode()
)
_GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, '
    b'"capabilities": []}}\r\n'
)


class _Server:
    """A process with unix sockets in a folder of its own; both are gone afterwards."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="qmp-bench-")
        self.process: subprocess.Popen[bytes] | None = None

    def address(self, number: int = 0) -> str:
        """The path of one of its sockets."""
        return str(Path(self.folder, f"{number}.sock"))

    def _start(self, argv: list[str], sockets: int) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not all(map(self._listens, range(sockets))):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start: {self.process.poll()}")
            time.sleep(0.01)

    def _listens(self, number: int) -> bool:
        # The file alone is there a moment before anybody listens.
        with socket.socket(socket.AF_UNIX) as visitor:
            return visitor.connect_ex(self.address(number)) == 0

    def close(self) -> None:
        """Ends the process and removes the folder."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RealQEMU(_Server):
    """``qemu-system-x86_64 -machine none -S`` with so many monitors."""

    def __init__(self, monitors: int = 1) -> None:
        super().__init__()
        self._monitors = monitors

    def __enter__(self) -> RealQEMU:
        argv = [_BINARY, "-machine", "none", "-S", "-nodefaults", "-display", "none"]
        for number in range(self._monitors):
            argv += ["-qmp", f"unix:{self.address(number)},server=on,wait=off"]
        try:
            self._start(argv, self._monitors)
        except BaseException:
            self.close()
            raise
        return self

    @staticmethod
    def version() -> str:
        """What the binary says of itself, or nothing where there is none."""
        if shutil.which(_BINARY) is None:
            return ""
        told = subprocess.run([_BINARY, "--version"], capture_output=True, text=True, check=True)
        return told.stdout.splitlines()[0]


class EventStorm(_Server):
    """A process that answers the second command of each connection with a flood of events.

    Args:
        count: how many come; the last one is ``LAST_EVENT``.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __enter__(self) -> EventStorm:
        argv = [sys.executable, "-m", __name__, self.address(), str(self.count)]
        try:
            self._start(argv, 1)
        except BaseException:
            self.close()
            raise
        return self


def _serve(path: str, count: int) -> None:
    storm = EVENT * (count - 1) + _LAST
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection = listener.accept()[0]
            with connection:
                try:
                    _converse(connection, storm)
                except ConnectionError:
                    continue


def _converse(connection: socket.socket, storm: bytes) -> None:
    connection.sendall(_GREETING)
    answered = 0
    while request := connection.recv(65536):
        ident = _ident(request)
        connection.sendall(b'{"return": {}' + (b', "id": ' + ident if ident else b"") + b"}\r\n")
        answered += 1
        if answered == 2:
            connection.sendall(storm)


def _ident(request: bytes) -> bytes:
    """The id of a request, as it was written."""
    _, found, rest = request.partition(b'"id":')
    return rest.strip().strip(b"}\r\n ").split(b",")[0] if found else b""


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
