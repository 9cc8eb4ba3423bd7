"""Programs that take QEMU's arguments, the fake and the real one, and how to talk to them."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

LIMIT = 20.0
FAKE = [sys.executable, "-m", "pytest_qmp", "fake", "--emulate", "7.2"]
BASE = ["-accel", "tcg", "-nodefaults", "-display", "none", "-M", "none", "-S"]


class Program:
    """A started program, ended at the end of the test."""

    def __init__(self, command: Sequence[str], **kwargs: Any) -> None:
        self._clients: list[Client] = []
        self.process = subprocess.Popen(
            command,
            stdin=kwargs.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **kwargs,
        )

    def connect(self, path: Path) -> Client:
        """Connects, as soon as somebody listens, while the program runs."""
        deadline = time.monotonic() + LIMIT
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(os.fspath(path))
            except OSError:
                sock.close()
                assert self.process.poll() is None, self.outcome()
                assert time.monotonic() < deadline, f"nobody listens at {path}"
            else:
                self._clients.append(Client(sock))
                return self._clients[-1]

    def read_stderr_line(self) -> str:
        stream = self.process.stderr
        assert stream is not None
        assert select.select([stream], [], [], LIMIT)[0], "nothing on standard error"
        line: bytes = stream.readline()
        return line.decode()

    def outcome(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out.decode(), err.decode()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        for client in self._clients:
            client.close()


class Client:
    """The client's end of a monitor."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(LIMIT)
        self._lines = sock.makefile("rb")

    def read(self) -> Any:
        line = self._lines.readline()
        return json.loads(line) if line else None

    def execute(self, command: str, **arguments: Any) -> Any:
        """The reply; what comes before it is dropped."""
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (message := self.read()):
            pass
        return message

    def negotiate(self) -> Client:
        assert "QMP" in self.read()
        assert self.execute("qmp_capabilities") == {"return": {}}
        return self

    def at_eof(self) -> bool:
        return self._lines.readline() == b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.sock.close()


Start = Callable[..., Program]


@pytest.fixture
def run() -> Iterator[Start]:
    """Starts any program."""
    started: list[Program] = []

    def start(*command: str, **kwargs: Any) -> Program:
        started.append(Program(command, **kwargs))
        return started[-1]

    yield start
    for program in started:
        program.end()


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.needs_qemu)])
def qemu(request: pytest.FixtureRequest) -> list[str]:
    """The command of a QEMU: the fake, and the real one."""
    if request.param == "fake":
        return FAKE
    found = shutil.which("qemu-system-x86_64")
    assert found
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if "version 7.2" not in version.stdout:
        pytest.skip("the QEMU on the PATH is not the one that the fake is here")
    return [found]


@pytest.fixture
def start(qemu: list[str], run: Start) -> Start:
    """Starts a QEMU, without a guest, with more arguments."""

    def start(*args: str, **kwargs: Any) -> Program:
        return run(*qemu, *BASE, *args, **kwargs)

    return start


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as path:
        yield Path(path)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A program called as QEMU is, that is a link to the command."""
    command = tmp_path / "pytest-qmp"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pytest_qmp.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    path = tmp_path / "qemu-system-x86_64"
    path.symlink_to(command)
    return path
