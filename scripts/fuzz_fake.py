"""Sends a real QEMU and the fake of its version the same random things; shows what differs.

Two kinds of rounds take turns:

- ``wire``: bytes, nearly JSON, envelopes and ids, with and without negotiation, out-of-band
  execution and pretty printing; the answers must be the same byte for byte;
- ``arguments``: commands of the schema with arguments that are right but for a few mutations;
  where either side refuses them in the check of the arguments, both must, in the same words.

Usage: ``python scripts/fuzz_fake.py --emulate 7.2 [--against qemu-system-x86_64] [--seconds 60]``.
Exits with 1 if anything differed, after printing it in its shortest form. QEMU runs in a
temporary folder, in a network namespace of its own where that is allowed (else the rounds with
arguments are left out: they might open ports).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz_inputs import Inputs

from pytest_qmp.fake.arguments import check_arguments
from pytest_qmp.fake.core import Core
from pytest_qmp.fake.json_parser import JSONReader
from pytest_qmp.fake.replies import CommandFailed
from pytest_qmp.fake.versions import load_schema

_LIMIT = 5.0
_PER_CONNECTION = 40
_SHOWN = 40
#: 0xFF resets QEMU's lexer wherever it is; the newlines end what might be a string.
_RESET = b"\n\xff\n"
_STAMP = re.compile(rb'"(seconds|microseconds)": \d+')
#: What the check of the arguments says, and hardly anybody else.
_REFUSED = re.compile(
    r"Invalid parameter type for '.*', expected: |"
    r"Parameter '.*' (is missing|is unexpected|does not accept value '.*'|"
    r"expects (u?int(64|32_t|16_t|8_t)|size|uint64))$",
    re.DOTALL,
)
#: What only looks like it.
_SAID_BY_COMMANDS = frozenset({f"Parameter '{name}' is missing" for name in ("begin", "length")})
#: They end QEMU or take long when their arguments are right.
_SLOW = frozenset(
    {"announce-self", "memsave", "pmemsave", "rtc-reset-reinjection", "xen-load-devices-state"}
)


class Died(Exception):  # noqa: N818 - what a real QEMU did, no error of this script
    """QEMU ended, or said nothing for too long."""


class RealQEMU:
    """A real QEMU with a plain and a pretty monitor.

    Args:
        binary: the QEMU.
        folder: where it runs, and may write.
        isolated: in a network namespace of its own.
    """

    def __init__(self, binary: str, folder: Path, isolated: bool) -> None:
        folder.mkdir(exist_ok=True)
        self._paths = {False: folder / "plain.sock", True: folder / "pretty.sock"}
        for path in self._paths.values():
            path.unlink(missing_ok=True)
        command = ["unshare", "-n", "--"] if isolated else []
        command += [binary, "-S", "-M", "none", "-accel", "tcg", "-nodefaults"]
        command += ["-display", "none"]
        for pretty, path in self._paths.items():
            name = f"m{int(pretty)}"
            command += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
            mode = f"chardev={name},mode=control,pretty={'on' if pretty else 'off'}"
            command += ["-mon", mode]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def connect(self, pretty: bool) -> socket.socket:
        """A connection to one of its monitors."""
        deadline = time.monotonic() + _LIMIT
        while time.monotonic() < deadline and self.process.poll() is None:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self._paths[pretty]))
            except OSError:
                sock.close()
                time.sleep(0.01)
            else:
                sock.settimeout(_LIMIT)
                return sock
        raise Died

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class RealTalk:
    """A connection to a real QEMU; ``ask`` gives all that came in answer."""

    def __init__(self, qemu: RealQEMU, pretty: bool) -> None:
        self._sock = qemu.connect(pretty)
        self._held = b""
        self._pretty = pretty

    def until(self, mark: bytes) -> bytes:
        """All up to the end of the message that has the mark."""
        return self._until(mark) + self._until(b"\r\n}\r\n" if self._pretty else b"\r\n")

    def _until(self, end: bytes) -> bytes:
        searched = 0
        while (at := self._held.find(end, searched)) < 0:
            searched = max(0, len(self._held) - len(end))
            try:
                data = self._sock.recv(1 << 16)
            except OSError as error:
                raise Died(str(error)) from error
            if not data:
                raise Died
            self._held += data
        out, self._held = self._held[: at + len(end)], self._held[at + len(end) :]
        return out

    def send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Died(str(error)) from error

    def close(self) -> None:
        self._sock.close()


class FakeTalk:
    """The same to the fake, with no socket between."""

    def __init__(self, core: Core, pretty: bool) -> None:
        self._core = core
        self._session = core.open_session(pretty=pretty)

    def until(self, mark: bytes) -> bytes:
        out = bytes(self._session.outgoing)
        self._session.outgoing.clear()
        return out

    def send(self, data: bytes) -> None:
        self._session.receive(data)

    def close(self) -> None:
        self._core.close_session(self._session)


Talk = RealTalk | FakeTalk


def greeted(talk: Talk, handshake: str) -> bytes:
    """The beginning of a conversation."""
    out = talk.until(b'"oob"')
    enable = ',"arguments":{"enable":["oob"]}' if handshake == "oob" else ""
    if handshake != "none":
        out += ask(talk, f'{{"execute":"qmp_capabilities"{enable}}}'.encode(), 0)
    return out


def ask(talk: Talk, data: bytes, number: int) -> bytes:
    """All that is answered to bytes, up to the answer to a marker behind them."""
    marker = f"marker-{number}-"
    talk.send(data + _RESET + json.dumps({"execute": "query-name", "id": marker}).encode())
    return _STAMP.sub(rb'"\1": 0', talk.until(f'"id": "{marker}"'.encode()))


def _same(real: bytes, fake: bytes, handshake: str) -> bool:
    """Whether both answered the same; what is out of band comes when it pleases QEMU."""
    if handshake == "oob":
        return sorted(real.splitlines()) == sorted(fake.splitlines())
    return real == fake


class Fuzzer:
    """Compares a QEMU with the fake, and remembers what differed."""

    def __init__(self, options: argparse.Namespace, folder: Path, isolated: bool) -> None:
        self._random = random.Random(options.seed)
        self._schema = load_schema(options.emulate)
        self._inputs = Inputs(self._random, self._schema)
        self._start = lambda kind: RealQEMU(options.against, folder / kind, isolated)
        self._emulate = options.emulate
        #: One for each kind of round: commands with arguments leave their marks.
        self._qemus: dict[str, RealQEMU] = {}
        self._last = "wire"
        self.counts: collections.Counter[str] = collections.Counter()
        self.different: dict[str, str] = {}

    def close(self) -> None:
        for qemu in self._qemus.values():
            qemu.close()

    def round(self, kind: str) -> None:
        """A connection's worth of cases."""
        if kind not in self._qemus:
            self._qemus[kind] = self._start(kind)
        self._last = kind
        try:
            if kind == "wire":
                self._wire()
            else:
                self._arguments()
        except Died:
            # Some commands end QEMU, by design or not: what it said before was compared.
            self.counts[f"QEMU ended in {self._last}"] += 1
            self._qemus.pop(kind).close()

    @contextmanager
    def _talks(self, pretty: bool) -> Iterator[tuple[RealTalk, FakeTalk]]:
        real = RealTalk(self._qemus["wire"], pretty)
        core = Core(self._emulate, ["-S", "-M", "none"], True, lambda seconds, function: None)
        fake = FakeTalk(core, pretty)
        try:
            yield real, fake
        finally:
            real.close()
            fake.close()
        core.check()

    def _wire(self) -> None:
        pretty = self._random.random() < 0.2
        handshake = self._random.choice(("none", "plain", "plain", "oob"))
        cases = [self._inputs.stream() for _ in range(_PER_CONNECTION)]
        first = self._first_difference(cases, pretty, handshake)
        self.counts["wire"] += len(cases) if first is None else first + 1
        if first is None:
            return
        self.counts["wire, different"] += 1
        shortest = self._shortest(cases[: first + 1], pretty, handshake)
        real, fake = self._both(shortest, pretty, handshake)
        where = f"{handshake}{', pretty' if pretty else ''}"
        text = f"{where}: {shortest!r}\n  QEMU: {real!r}\n  fake: {fake!r}"
        self.different.setdefault(f"wire {real!r}"[:60], text)

    def _first_difference(self, cases: list[bytes], pretty: bool, handshake: str) -> int | None:
        with self._talks(pretty) as (real, fake):
            if greeted(real, handshake) != greeted(fake, handshake):
                return 0
            for index, case in enumerate(cases):
                if not _same(ask(real, case, index), ask(fake, case, index), handshake):
                    return index
        return None

    def _both(self, case: bytes, pretty: bool, handshake: str) -> tuple[bytes, bytes]:
        with self._talks(pretty) as (real, fake):
            greeted(real, handshake), greeted(fake, handshake)
            return ask(real, case, 1), ask(fake, case, 1)

    def _shortest(self, cases: list[bytes], pretty: bool, handshake: str) -> bytes:
        """The least part of the cases that still shows a difference."""

        def differs(data: bytes) -> bool:
            return not _same(*self._both(data, pretty, handshake), handshake)

        data = cases[-1]
        if not differs(data):
            data = _RESET.join(cases)
        size = max(1, len(data) // 2)
        while size:
            at = 0
            while at < len(data):
                shorter = data[:at] + data[at + size :]
                if differs(shorter):
                    data = shorter
                else:
                    at += size
            size //= 2
        return data

    def _arguments(self) -> None:
        real = RealTalk(self._qemus["arguments"], False)
        try:
            greeted(real, "plain")
            for _ in range(_PER_CONNECTION):
                self._one_command(real)
        finally:
            real.close()

    def _one_command(self, real: RealTalk) -> None:
        name, arguments = self._inputs.command()
        self._last = name
        self.counts["arguments"] += 1
        got = self._fake_desc(name, arguments)
        if not got and name in _SLOW:
            return
        said = self._real_desc(real, name, arguments)
        wanted = said if _REFUSED.match(said) and said not in _SAID_BY_COMMANDS else ""
        self.counts["arguments refused by the check"] += bool(wanted)
        # A command may refuse an argument itself in words like the check's: not its business.
        if got == wanted or (got and got == said):
            return
        self.counts["arguments, different"] += 1
        key = f"{name}: {re.sub(chr(39) + '.*?' + chr(39), '', wanted)}"
        text = f"{name} {json.dumps(arguments)}\n  QEMU: {said!r}\n  fake: {got!r}"
        if len(text) < len(self.different.get(key, text + " ")):
            self.different[key] = text

    def _fake_desc(self, name: str, arguments: dict[str, Any]) -> str:
        # Not Python's reader: numbers of more than 64 bits are something else to QEMU's.
        (read,) = JSONReader(False).feed(json.dumps(arguments).encode())
        try:
            check_arguments(self._schema, name, read)
        except CommandFailed as failed:
            return failed.desc
        return ""

    @staticmethod
    def _real_desc(real: RealTalk, name: str, arguments: dict[str, Any]) -> str:
        message = {"execute": name, "arguments": arguments, "id": "mine"}
        real.send(json.dumps(message).encode())
        line = real.until(b'"id": "mine"').splitlines()[-1]
        return str(json.loads(line).get("error", {}).get("desc", ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", default="qemu-system-x86_64", help="the real QEMU")
    parser.add_argument("--emulate", required=True, help="the version that the fake plays")
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--seed", type=int, default=None, help="what makes it repeatable")
    parser.add_argument("--kind", choices=("wire", "arguments"), help="only these rounds")
    options = parser.parse_args()
    binary = shutil.which(options.against)
    if binary is None:
        parser.error(f"there is no {options.against}: name a QEMU with --against")
    # So that QEMU is ended as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.against = os.path.abspath(binary)
    isolated = _may_isolate()
    kinds = [options.kind] if options.kind else ["wire", "arguments"]
    if not isolated and "arguments" in kinds:
        print("no right to make a network namespace: the rounds with arguments are left out")
        kinds.remove("arguments")
    with tempfile.TemporaryDirectory(prefix="fuzz-fake-") as folder:
        fuzzer = Fuzzer(options, Path(folder), isolated)
        try:
            end = time.monotonic() + options.seconds
            while kinds and time.monotonic() < end:
                for kind in kinds:
                    fuzzer.round(kind)
        finally:
            fuzzer.close()
    for text in list(fuzzer.different.values())[:_SHOWN]:
        print(text)
    if len(fuzzer.different) > _SHOWN:
        print(f"... and {len(fuzzer.different) - _SHOWN} more")
    print(", ".join(f"{key}: {value}" for key, value in sorted(fuzzer.counts.items())))
    return 1 if fuzzer.different else 0


def _may_isolate() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    return subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
