"""Plays a recorded conversation with a QEMU again, and says what comes out differently."""

from __future__ import annotations

import array
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .command_line import read_arguments
from .conformance_volatile import without_times, without_volatile
from .links import open_link
from .monitors import read_wiring
from .recorded_guests import script_guest
from .server import FakeQMPServer
from .versions import find_dialect

__all__ = ["Case", "Difference", "FakePeer", "Peer", "play", "read_cases"]

#: How long an answer may take, in seconds, before it counts as missing.
ANSWER_LIMIT = 5.0

_NEGOTIATIONS = {
    "plain": b'{"execute":"qmp_capabilities"}',
    "oob": b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
}
_SIGNAL_SENDER = re.compile(r"from pid \d+ \(.*\)")
#: Files that recordings begin with.
_DISK_FILE = re.compile(r"<TMP>/((?:boot|a)\.(?:img|raw)|d\.qcow2)")
_DISK_SIZE = 1 << 20
#: A file with a migration to the machine of the case.
_MIGRATION_FILE = re.compile(r"(?:exec:cat |file:)(<TMP>/[\w.]+)")
#: What stands in a recording for the directory of its files, and for QEMU's own socket there.
_FOLDER = "<TMP>"
_SOCKET = f"{_FOLDER}/q.sock"


@dataclass(frozen=True)
class Case:
    """One recorded conversation.

    Attributes:
        name: ``category/what``.
        category: the part of QMP that it is about.
        qemu_args: what QEMU was started with; ``<TMP>`` stands for a temporary directory.
        handshake: what came before the first step: ``greeting``, ``plain``, ``oob`` or
            ``unconnected``.
        steps: what was sent and what came.
        stable: two recordings of it were the same.
        stderr: what QEMU wrote to its standard error, without its name; "" for nothing.
    """

    name: str
    category: str
    qemu_args: tuple[str, ...]
    handshake: str
    steps: tuple[Mapping[str, Any], ...]
    stable: bool
    stderr: str = ""

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any]) -> Case:
        """A case out of one line of a recording."""
        return cls(
            recorded["name"],
            recorded["category"],
            tuple(recorded["qemu_args"]),
            recorded["handshake"],
            tuple(recorded["steps"]),
            recorded.get("stable", True),
            recorded.get("stderr", ""),
        )


def read_cases(lines: Iterable[str | bytes]) -> Iterator[Case]:
    """The cases of a recording, a JSON object a line."""
    for line in lines:
        if line.strip():
            yield Case.from_json(json.loads(line))


class Peer(Protocol):
    """A program under test, started with the arguments of a case.

    Attributes:
        address: the path of its QMP socket.
        takes_time: what it does on its own takes as long as it took in the recording.
    """

    address: str
    takes_time: bool

    def connect(self) -> socket.socket:
        """Connects to its QMP socket."""

    def signal(self, name: str) -> None:
        """Sends it a signal."""

    def wait_exit(self, timeout: float) -> int | None:
        """Its exit status, None if it has none in time."""

    def has_socket_file(self) -> bool:
        """Whether the socket is still in the file system."""

    def stderr(self) -> str | None:
        """What it wrote to its standard error, None where that can't be known."""

    def close(self) -> None:
        """Ends it."""


class FakePeer:
    """The fake in this process, for :func:`play`."""

    takes_time = False

    def __init__(self, case: Case, emulate: str) -> None:
        self.server = FakeQMPServer(emulate, args=case.qemu_args).start()
        self.address = self.server.address
        if case.category == "guest":
            script_guest(self.server.guest, case.name)
        if case.handshake == "unconnected":
            self._connect_out(case, find_dialect(emulate).version)

    def _connect_out(self, case: Case, version: tuple[int, ...]) -> None:
        """Gives the server the monitors of its command line, which it has no sockets for."""
        wiring = read_wiring(read_arguments(case.qemu_args), version)
        for chardev in wiring.chardevs:
            for monitor in wiring.monitors:
                if monitor.chardev == chardev.id:
                    link = open_link(chardev, lambda text: None)
                    self.server.attach_monitor(link, pretty=monitor.pretty)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.address)
        return client

    def signal(self, name: str) -> None:
        if name == "SIGKILL":
            self.server.kill()
        else:
            self.server.terminate()

    def wait_exit(self, timeout: float) -> int | None:
        return self.server.wait_exit(timeout)

    def has_socket_file(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return self.server.ended_abruptly or probe.connect_ex(self.address) == 0

    def stderr(self) -> str | None:
        return None

    def close(self) -> None:
        self.server.close()


class Difference(Exception):  # noqa: N818 - a finding, and the way out of the play at once
    """What came is not what was recorded; the text shows both."""


def play(case: Case, start: Callable[[Case], Peer]) -> str:
    """Plays a case against a program.

    Args:
        case: what to play.
        start: starts the program for it.

    Returns:
        what differs from the recording; "" for nothing.
    """
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        args = tuple(arg.replace(_FOLDER, folder) for arg in case.qemu_args)
        make_files(case, folder)
        with ExitStack() as open_things:
            listener = _listener(args) if case.handshake == "unconnected" else None
            if listener is not None:
                open_things.enter_context(listener)
            try:
                _migrate_to_files(case, start, folder)
                peer = start(replace(case, qemu_args=args))
                open_things.callback(peer.close)
                player = _Player(peer, folder, listener)
                open_things.callback(player.close)
                player.play(case)
            except (Difference, OSError) as difference:
                return f"{type(difference).__name__}: {difference}"
    return ""


def make_files(case: Case, folder: str) -> None:
    """Makes the files that a case uses and that were there when it was recorded: empty disks."""
    text = json.dumps([case.qemu_args, case.steps])
    for name in sorted(set(_DISK_FILE.findall(text))):
        path = os.path.join(folder, name)
        if name.endswith(".qcow2"):
            with suppress(OSError):
                subprocess.run(
                    ["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=False, timeout=60
                )
        else:
            with open(path, "wb") as file:
                file.truncate(_DISK_SIZE)


def _migrate_to_files(case: Case, start: Callable[[Case], Peer], folder: str) -> None:
    """Makes the migrations that a case takes in, as its recording began with them."""
    if "-incoming" not in case.qemu_args:
        return
    at = case.qemu_args.index("-incoming")
    source = (*case.qemu_args[:at], *case.qemu_args[at + 2 :])
    text = json.dumps([case.qemu_args[at + 1], *(step.get("send") for step in case.steps)])
    for path in sorted(set(_MIGRATION_FILE.findall(text))):
        # The file has its name once it is whole.
        uri = f"exec:cat>{path}.part && mv {path}.part {path}"
        migrate = json.dumps({"execute": "migrate", "arguments": {"uri": uri}})
        with ExitStack() as open_things:
            args = tuple(arg.replace(_FOLDER, folder) for arg in source)
            peer = start(replace(case, qemu_args=args))
            open_things.callback(peer.close)
            player = _Player(peer, folder, None)
            open_things.callback(player.close)
            steps = ({"send": migrate}, {"recv": ['{"return": {}}']})
            # Events that follow are no concern of the case.
            player.play(replace(case, handshake="plain", steps=steps), to_the_end=False)
            deadline = time.monotonic() + ANSWER_LIMIT
            while not os.path.exists(path.replace(_FOLDER, folder)):
                if time.monotonic() > deadline:
                    raise Difference(f"no migration to {path} came about")
                time.sleep(0.01)


def _listener(args: Sequence[str]) -> socket.socket:
    """Where the client of a case waits for QEMU to come."""
    found = re.search(r"path=([^,]+)", " ".join(args))
    if not found:
        raise Difference("the case has QEMU connect to a client, but not to a path")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(found[1])
    listener.listen()
    listener.settimeout(ANSWER_LIMIT)
    return listener


class _Player:
    def __init__(self, peer: Peer, folder: str, listener: socket.socket | None) -> None:
        self._peer = peer
        self._folder = folder
        self._listener = listener
        self._client: socket.socket | None = None
        self._received = b""
        self._eof = False

    def play(self, case: Case, *, to_the_end: bool = True) -> None:
        if self._listener is None:
            self._connect()
        negotiation = _NEGOTIATIONS.get(case.handshake)
        if negotiation:
            self._skip_message()
            self._send(negotiation)
            self._skip_message()
        for number, step in enumerate(case.steps):
            try:
                self._step(step)
            except Difference as difference:
                raise Difference(f"step {number}: {difference}") from None
        if to_the_end:
            self._expect_silence()
        if any("exit" in step for step in case.steps):
            said = self._peer.stderr()
            if said is not None:
                said = _SIGNAL_SENDER.sub("from pid <PID> (<NAME>)", said)
                _compare("standard error", case.stderr, said.replace(self._folder, _FOLDER))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _step(self, step: Mapping[str, Any]) -> None:
        if "scm_rights" in step:
            self._send_descriptors(self._sent(step["send"]), step["scm_rights"])
        elif "send" in step:
            self._send(self._sent(step["send"]))
        elif "send_split" in step:
            data, chunk = self._sent(step["send_split"]), step["chunk"]
            for start in range(0, len(data), chunk):
                self._send(data[start : start + chunk])
        elif "recv" in step:
            if not step["recv"] and self._peer.takes_time:
                time.sleep(step.get("waited", 0))
            self._expect(step["recv"], bool(step.get("eof")))
        elif "connect" in step:
            self._connect()
        elif "close" in step:
            self.close()
        elif "shutdown" in step:
            self._open_client().shutdown(socket.SHUT_WR)
        elif "signal" in step:
            self._peer.signal(step["signal"])
        elif "exit" in step:
            status = self._peer.wait_exit(ANSWER_LIMIT)
            _compare("exit status", step["exit"], status)
            _compare("socket file left", step["socket_file_left"], self._peer.has_socket_file())
        else:
            raise Difference(f"the step {dict(step)} is of no known kind")

    def _open_client(self) -> socket.socket:
        if self._client is None and self._listener is not None:
            self._client = self._listener.accept()[0]
            self._received, self._eof = b"", False
        if self._client is None:
            raise Difference("nothing is connected")
        return self._client

    def _connect(self) -> None:
        self.close()
        self._client = self._peer.connect()
        self._received, self._eof = b"", False

    def _send(self, data: bytes) -> None:
        client = self._open_client()
        client.settimeout(ANSWER_LIMIT)
        client.sendall(data)

    def _send_descriptors(self, data: bytes, count: int) -> None:
        client = self._open_client()
        client.settimeout(ANSWER_LIMIT)
        descriptor = os.open(os.devnull, os.O_RDWR)
        try:
            rights = array.array("i", [descriptor] * count)
            client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            os.close(descriptor)

    def _sent(self, item: Any) -> bytes:
        if isinstance(item, Mapping):
            return bytes.fromhex(item["hex"])
        return str(item).replace(_FOLDER, self._folder).encode()

    def _expect(self, lines: list[Any], eof: bool) -> None:
        for expected in lines:
            if isinstance(expected, Mapping):
                self._expect_tail(str(expected["unterminated"]))
                continue
            line = self._take_line()
            _compare("line", *without_volatile(expected, line))
        if eof:
            rest = self._take_line(at_eof="")
            if rest:
                raise Difference(f"expected the end, got {_shown(rest)}")

    def _expect_tail(self, tail: str) -> None:
        while len(self._received) < len(tail) and self._fill(time.monotonic() + ANSWER_LIMIT):
            pass
        got = self._received[: len(tail)].decode("ascii", "replace")
        self._received = self._received[len(tail) :]
        _compare("tail", tail, got)

    def _expect_silence(self) -> None:
        """Whatever is still to come is more than was recorded."""
        if self._client is None or self._client.fileno() < 0:
            return
        # Where the other end has gone already, what it sent can still be read.
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
        rest = self._take_line(at_eof="")
        if rest:
            raise Difference(f"more than was recorded: {_shown(rest)}")

    def _skip_message(self) -> None:
        """A message is a line; with ``pretty=on`` it goes on to the end of its outermost object."""
        if self._take_line() == "{":
            while self._take_line() != "}":
                pass

    def _take_line(self, at_eof: str | None = None) -> str:
        deadline = time.monotonic() + ANSWER_LIMIT
        while b"\r\n" not in self._received:
            if not self._fill(deadline):
                if at_eof is not None and not self._received:
                    return at_eof
                raise Difference(f"the connection ended after {self._received!r}")
        line, _, self._received = self._received.partition(b"\r\n")
        text = line.decode("ascii", "backslashreplace")
        text = text.replace(self._peer.address, _SOCKET).replace(self._folder, _FOLDER)
        return without_times(text)

    def _fill(self, deadline: float) -> bool:
        """Waits for more bytes; False at the end of the connection."""
        client = self._open_client()
        client.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = b"" if self._eof else client.recv(1 << 20)
        except TimeoutError:
            raise Difference(f"nothing came for {ANSWER_LIMIT:g} s") from None
        except ConnectionResetError:
            data = b""
        self._received += data
        self._eof = not data
        return bool(data)


def _compare(what: str, expected: Any, got: Any) -> None:
    if expected != got:
        raise Difference(f"{what}: expected {_shown(expected)}, got {_shown(got)}")


def _shown(value: Any, limit: int = 300) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
