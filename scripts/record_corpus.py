#!/usr/bin/env python3
"""Records what a QEMU answers to a file of scenarios, as a corpus for the conformance check.

    scripts/record_corpus.py SCENARIOS QEMU OUTPUT.jsonl[.xz] [--only PATTERN]

A scenario begins with ``= category/name [greeting|oob|unconnected] [| QEMU's arguments]``, where
``~`` stands for the arguments that nearly all have, ``~pc`` for these and a PC, and ``<TMP>`` for a
temporary directory. Each further line is a step:

    command {"argument": 1} #"id"       a command; what stands after # is its id
    > text                              sent as it is; r> "text" is a Python literal, str or bytes
    fd command …                        with a file descriptor; split N text: N bytes at a time
    wait SECONDS | connect | close | shutdown | signal SIGTERM | exit
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import lzma
import re
import select
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pytest_qmp.fake import conformance
from pytest_qmp.fake.conformance import Case, make_files
from pytest_qmp.fake.conformance_volatile import without_times, without_volatile
from pytest_qmp.fake.program_peer import ProgramPeer

COMMON = ["-accel", "tcg", "-nodefaults", "-display", "none", "-S"]
SHORT = {"~": COMMON, "~pc": [*COMMON, "-M", "pc", "-m", "16"]}
#: How long, in seconds, nothing more must come after a reply; and where none is certain.
QUIET_AFTER_REPLY = 0.15
QUIET = 0.4
REPLY_LIMIT = 20.0
_REPLY = re.compile(r'^(\{"return"|\{"error"|\{"id": .*"error"|    "(return|error)")')


def read_scenarios(text: str) -> Iterator[Case]:
    """The scenarios of a file, as cases whose steps only send."""
    head: str | None = None
    steps: list[dict[str, Any]] = []
    for line in [*text.splitlines(), "= /end"]:
        if line.startswith("= "):
            if head is not None:
                yield _case(head, steps)
            head, steps = line[2:], []
        elif line and not line.startswith("#"):
            steps.append(_step(line))


def _case(head: str, steps: list[dict[str, Any]]) -> Case:
    words, _, arguments = head.partition("|")
    name, *rest = words.split()
    args: list[str] = []
    for word in shlex.split(arguments) or ["~", "-M", "none"]:
        args += SHORT.get(word, [word])
    return Case(
        name, name.partition("/")[0], tuple(args), rest[0] if rest else "plain", tuple(steps), True
    )


def _step(line: str) -> dict[str, Any]:
    word, _, rest = line.partition(" ")
    if word == ">":
        return {"send": rest}
    if word == "r>":
        value = eval(rest, {"__builtins__": {"range": range}})
        return {"send": {"hex": value.hex()} if isinstance(value, bytes) else value}
    if word == "split":
        chunk, _, sent = rest.partition(" ")
        return {"send_split": sent, "chunk": int(chunk)}
    if word == "fd":
        return {**_step(rest), "scm_rights": 1}
    if word == "wait":
        return {"recv": [], "waited": float(rest)}
    if word in ("connect", "close"):
        return {word: 0}
    if word == "shutdown":
        return {word: "SHUT_WR"}
    if word == "signal":
        return {word: rest}
    if word == "exit":
        return {word: 0}
    message: dict[str, Any] = {"execute": word}
    arguments, _, number = rest.partition(" #") if not rest.startswith("#") else ("", "", rest[1:])
    if arguments.strip():
        message["arguments"] = json.loads(arguments)
    if number:
        message["id"] = json.loads(number)
    return {"send": json.dumps(message)}


class _Recorder(conformance._Player):
    """Does the steps of a scenario and notes what comes."""

    def record(self, case: Case) -> list[dict[str, Any]]:
        self.took: list[dict[str, Any]] = []
        if self._listener is None:
            self._connect()
        negotiation = conformance._NEGOTIATIONS.get(case.handshake)
        if negotiation:
            self._skip_message()
            self._send(negotiation)
            self._skip_message()
        else:
            self._note(self._listener is None)
        for step in case.steps:
            self._do(dict(step))
        return self.took

    def _do(self, step: dict[str, Any]) -> None:
        if "recv" in step:
            time.sleep(step["waited"])
            self._note(False, waited=step["waited"])
        elif "exit" in step:
            step["exit"] = self._peer.wait_exit(REPLY_LIMIT)
            step["socket_file_left"] = self._peer.has_socket_file()
            self.took.append(step)
        else:
            self.took.append(step)
            try:
                self._step(step)
            except (BrokenPipeError, ConnectionResetError):
                self._eof = True
            if "send" in step or "send_split" in step:
                text = str(step.get("send", step.get("send_split")))
                self._note(text.startswith(('{"execute"', '{"exec-oob"')))
            elif "close" not in step or self._listener is not None:
                self._note("connect" in step)

    def _note(self, certain: bool, waited: float | None = None) -> None:
        """Takes what comes until nothing more does."""
        lines: list[Any] = []
        replied = False
        limit = time.monotonic() + REPLY_LIMIT
        client = self._open_client()
        while not self._eof:
            while b"\r\n" in self._received:
                line = self._take_line()
                replied = replied or bool(_REPLY.match(line) or line.startswith('{"QMP"'))
                lines.append(line)
            pause = QUIET_AFTER_REPLY if replied else QUIET
            if certain and not replied:
                pause = limit - time.monotonic()
            if not select.select([client], [], [], max(0.0, pause))[0]:
                break
            self._fill(limit)
        while b"\r\n" in self._received:
            lines.append(self._take_line())
        if self._received and self._eof:
            lines.append({"unterminated": self._received.decode("ascii", "replace")})
            self._received = b""
        step: dict[str, Any] = {"recv": lines}
        if waited is not None:
            step["waited"] = waited
        if self._eof:
            step["eof"] = True
        self.took.append(step)


def record(case: Case, qemu: str) -> dict[str, Any]:
    """One recording of a scenario."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        args = tuple(arg.replace("<TMP>", folder) for arg in case.qemu_args)
        make_files(case, folder)

        def start(case: Case) -> ProgramPeer:
            return ProgramPeer(case, [qemu])

        conformance._migrate_to_files(case, start, folder)
        listener: socket.socket | None = None
        if case.handshake == "unconnected":
            listener = conformance._listener(args)
        peer = start(replace(case, qemu_args=args))
        recorder = _Recorder(peer, folder, listener)
        try:
            steps = recorder.record(case)
        except (conformance.Difference, OSError) as broken:
            steps = [*getattr(recorder, "took", []), {"broken": str(broken)}]
        finally:
            recorder.close()
            stderr = peer.stderr().replace(folder, "<TMP>")
            peer.close()
            if listener is not None:
                listener.close()
    line: dict[str, Any] = {
        "name": case.name,
        "category": case.category,
        "qemu_args": list(case.qemu_args),
        "handshake": case.handshake,
        "steps": steps,
    }
    if any("exit" in step for step in steps) and stderr:
        line["stderr"] = conformance._SIGNAL_SENDER.sub("from pid <PID> (<NAME>)", stderr)
    return line


def record_twice(case: Case, qemu: str) -> dict[str, Any]:
    """A recording of a scenario, ``stable`` where a second one was the same."""
    first, second = record(case, qemu), record(case, qemu)
    broken = any("broken" in step for step in first["steps"])
    return {**first, "stable": not broken and _comparable(first) == _comparable(second)}


def _comparable(recorded: dict[str, Any]) -> str:
    """What was recorded; how lines were spread over time does not matter."""
    parts: list[Any] = []
    for step in recorded["steps"]:
        if "recv" in step:
            parts += [
                without_volatile(line, line)[0] if isinstance(line, str) else line
                for line in step["recv"]
            ]
        else:
            parts.append(step)
    return without_times(json.dumps([parts, recorded.get("stderr")]))


def main() -> int:
    """Records; says on standard error what was not the same twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios")
    parser.add_argument("qemu")
    parser.add_argument("output")
    parser.add_argument("--only", default="*", help="names to record, as a shell's pattern")
    parser.add_argument("--jobs", type=int, default=4)
    options = parser.parse_args()
    with open(options.scenarios, encoding="utf-8") as file:
        cases = [c for c in read_scenarios(file.read()) if fnmatch.fnmatch(c.name, options.only)]
    opener = lzma.open if options.output.endswith(".xz") else open
    with ThreadPoolExecutor(options.jobs) as pool, opener(options.output, "wt") as output:
        for line in pool.map(lambda case: record_twice(case, options.qemu), cases):
            if not line["stable"]:
                print(
                    f"not stable: {line['name']} {line['steps'][-1].get('broken', '')}",
                    file=sys.stderr,
                )
            output.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
