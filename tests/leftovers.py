"""Runs a program and counts what is left of it: processes, files, sockets."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["STUBBORN_QEMU", "Left", "Run", "running", "wait_until"]

_MARK = "PYTEST_QMP_TEST_OF_LEFTOVERS"
_SECONDS = 30.0

#: A binary that speaks QMP and ends for nothing but SIGKILL. It tells what it was asked.
STUBBORN_QEMU = f"""#!{sys.executable} -S
import json, os, signal, socket, sys

def tell(word):
    with open(os.environ["TOLD"], "w") as file:
        file.write(f"{{word}} {{os.getpid()}}\\n")

if "--version" in sys.argv:
    sys.exit(print("QEMU emulator version 7.2.22"))
signal.signal(signal.SIGTERM, lambda *_: tell("SIGTERM"))
for argument in sys.argv:
    if argument.startswith("socket,id=") and ",fd=" in argument and "serial" not in argument:
        if os.fork():
            continue
        # A monitor each.
        sock = socket.socket(fileno=int(argument.split(",fd=")[1]))
        sock.send(b'{{"QMP": {{"version": {{"qemu": {{"micro": 22, "minor": 2, "major": 7}}, '
                  b'"package": ""}}, "capabilities": []}}}}\\n')
        decoder, text = json.JSONDecoder(), ""
        while data := sock.recv(65536):
            text += data.decode()
            while text := text.lstrip():
                asked, end = decoder.raw_decode(text)
                text = text[end:]
                if asked["execute"] == "quit":
                    tell("quit")
                    continue
                reply = {{"return": {{}}, **{{key: asked[key] for key in asked if key == "id"}}}}
                sock.send(json.dumps(reply).encode() + b"\\n")
        os._exit(0)
while True:
    signal.pause()
"""


def running(value: str) -> list[int]:
    """The processes that have inherited a run's mark, without those that have ended."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environ = Path("/proc", name, "environ").read_bytes()
            except OSError:
                continue
            if f"{_MARK}={value}".encode() in environ.split(b"\0"):
                found.append(int(name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = _SECONDS) -> None:
    """Looks until a condition holds. Raises TimeoutError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        select.select([], [], [], 0.005)


class Left:
    """What is left of a run, as counts. All zero is what we want."""

    def __init__(self, processes: int, files: int, sockets: int) -> None:
        self.counts = {"processes": processes, "files": files, "sockets": sockets}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Left) and self.counts == other.counts

    def __repr__(self) -> str:
        return str(self.counts)

    __hash__ = None  # type: ignore[assignment]


NOTHING = Left(0, 0, 0)


class Run:
    """A program in a process of its own, with its own mark and its own folder for temporary files.

    Whatever it leaves is killed at the end of the block.

    Args:
        folder: an empty one.
        argv: the program.
        env: more of its environment.
    """

    def __init__(self, folder: Path, argv: Sequence[str | Path], **env: str) -> None:
        self.value = os.urandom(8).hex()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        told = folder / "told"
        os.mkfifo(told)
        self._told = os.open(told, os.O_RDWR | os.O_CLOEXEC)
        self._unread = ""
        # What a shell or nohup has started may have inherited some as ignored.
        defaults = ["env", "--default-signal"]
        self.process = subprocess.Popen(
            [*defaults, *argv],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PYTEST_ADDOPTS": "",
                "TMPDIR": str(self.temporary),
                "TOLD": str(told),
                _MARK: self.value,
                **env,
            },
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pid in running(self.value):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._told)

    def told(self, seconds: float = _SECONDS) -> list[str]:
        """The words of the next line that the program wrote to the pipe named by ``TOLD``."""
        deadline = time.monotonic() + seconds
        while "\n" not in self._unread:
            ended = self.process.poll() is not None
            if select.select([self._told], [], [], 0 if ended else 0.05)[0]:
                self._unread += os.read(self._told, 4096).decode()
            elif ended or time.monotonic() > deadline:
                self.process.kill()
                raise TimeoutError(f"told nothing. It wrote:\n{self.process.communicate()[0]}")
        line, _, self._unread = self._unread.partition("\n")
        return line.split()

    def end(self) -> str:
        """Waits for the end of the program and of all who could write to its output."""
        return self.process.communicate(timeout=_SECONDS)[0]

    def left(self) -> Left:
        """What is left right now."""
        # Unlike rglob(), this does not mind what vanishes meanwhile.
        files = sum(len(folders) + len(names) for _, folders, names in os.walk(self.temporary))
        sockets = Path("/proc/net/unix").read_text().count(f" {self.temporary}/")
        return Left(len(running(self.value)), files, sockets)

    def left_in_the_end(self, seconds: float = _SECONDS) -> Left:
        """What is left once a keeper has had its time."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self.left() == NOTHING, seconds)
        return self.left()
