"""Fuzzes the sans-I/O core of the client with atheris: any bytes, split anywhere.

Four properties are checked of each input:

- ``MessageReader`` raises nothing but ``QMPProtocolError``, and ``Session.receive`` nothing;
- as long as the input is JSON objects, what the session makes of it does not depend on how it
  was split;
- ``restore`` undoes a ``receive``;
- the time is linear in the size: an input repeated more often takes its share of more.

Usage: ``python scripts/fuzz_wire.py [--seconds 60]``. Needs ``pip install pytest-qmp[fuzz]``. It
ends by itself; what it finds is printed and written to a file beside where it runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_qmp.errors import QMPProtocolError
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.session import Call, Session
from pytest_qmp.qmp.wire import MessageReader

_LIMIT = 2000
_REPEATED = 200_000
_LONGER = 16
_TIMED = 254

_object = re.compile(r"[ \t\r\n]*\{")
_scan_json = json.JSONDecoder().raw_decode

#: Pieces of which QMP is made, so that the fuzzer need not find them letter by letter.
_WORDS = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, '
    b'"capabilities": ["oob"]}}\r\n',
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n',
    b'{"timestamp": {"seconds": ',
    b'{"return": {}}\r\n',
    b'{"return": {"a": "}{\\"["}, "id": 1}\r\n',
    b'{"error": {"class": "GenericError", "desc": "JSON parse error, x"}}\r\n',
    b'{\n    "return": {\n    }\n}\n',
    b"}{",
    b"\r\n",
    b"\n",
    b'"',
    b"\\",
    b"[" * 50,
    b"\xc3\xa9",
    b"\xff",
)


def check(data: bytes) -> None:
    """Checks all properties of one input, whose first two bytes say how it is made and split."""
    if len(data) < 3:
        return
    step, stream = data[0] + 1, _stream(data[1], data[2:])
    pieces = _split(stream, step)
    _read([stream])
    _read(pieces)
    _check_restore(pieces)
    valid = _objects(stream)
    assert _seen([valid]) == _seen(_split(valid, step)), "what was seen depends on the split"
    if data[1] == _TIMED:
        _check_time(stream)


def _stream(shape: int, data: bytes) -> bytes:
    """The bytes as they are, or as a row of words of QMP."""
    if shape % 2:
        return data
    words = [_WORDS[byte] if byte < len(_WORDS) else bytes([byte]) for byte in data]
    return b"".join(words)


def _split(stream: bytes, step: int) -> list[bytes]:
    return [stream[start : start + step] for start in range(0, len(stream), step)]


def _objects(stream: bytes) -> bytes:
    """As much of the beginning as is JSON objects and blanks."""
    try:
        text = stream.decode()
    except UnicodeDecodeError as error:
        text = stream[: error.start].decode()
    end = 0
    while begin := _object.match(text, end):
        try:
            _, end = _scan_json(text, begin.end() - 1)
        except (ValueError, RecursionError):
            break
    return text[:end].encode() + b"\n"


def _read(pieces: list[bytes]) -> None:
    reader = MessageReader(_LIMIT)
    try:
        for piece in pieces:
            reader.feed(piece)
            while reader.take():
                pass
    except QMPProtocolError:
        return


def _session() -> tuple[Session, list[Call]]:
    session = Session(EventLog(), _LIMIT)
    calls = [session.call("query-status"), session.call("stop", oob=True), session.call("cont")]
    for call in calls:
        session.expect(call)
    return session, calls


def _seen(pieces: list[bytes]) -> tuple[Any, ...]:
    """All that a user could see of what a session took in."""
    session, calls = _session()
    for piece in pieces:
        session.receive(piece)
    return (list(session.events), *_state(session, calls)[1:])


def _state(session: Session, calls: list[Call]) -> tuple[Any, ...]:
    return (
        session.events.total,
        [repr(call.reply) for call in calls],
        repr(session.greeting),
        session.failure is not None,
    )


def _check_restore(pieces: list[bytes]) -> None:
    session, calls = _session()
    for piece in pieces[:-1]:
        session.receive(piece)
    before, partial, checkpoint = _state(session, calls), session.partial, session.checkpoint()
    if session.failure is None:
        session.receive(pieces[-1])
        session.restore(checkpoint)
        assert _state(session, calls) == before, "restore() did not undo a receive()"
        assert session.partial == partial, "restore() lost what had come of a message"


def _check_time(stream: bytes) -> None:
    for size in (_REPEATED, 1000):
        little = _cpu_seconds(stream * (_REPEATED // _LONGER // len(stream)), size)
        much = _cpu_seconds(stream * (_REPEATED // len(stream)), size)
        # Quadratic would be _LONGER times as much as linear.
        assert much < 0.5 + little * _LONGER * 3, f"{much:.1f} s, but {little:.1f} s for a part"


def _cpu_seconds(stream: bytes, size: int) -> float:
    """What a session takes for a stream in pieces of a size."""
    session = Session(EventLog())
    started = time.process_time()
    for piece in _split(stream, size):
        session.receive(piece)
    return time.process_time() - started


def _seeds() -> Iterator[bytes]:
    for step in (0, 1, 6, 255):
        yield bytes([step, 2, 0, 1, 3, 4, 5, 6])
        yield bytes([step, 0, *range(len(_WORDS))])
        yield bytes([step, 1]) + b"".join(_WORDS)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description="Fuzzes the client's sans-I/O core.")
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument("inputs", nargs="*", help="files to check once, instead of fuzzing")
    options = parser.parse_args()
    for name in options.inputs:
        check(Path(name).read_bytes())
    if options.inputs:
        print(f"{len(options.inputs)} checked, nothing found")
        return
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        raise SystemExit("atheris is not installed: pip install 'pytest-qmp[fuzz]'") from None
    for seed in _seeds():
        check(seed)
    for name in ("wire", "session", "events"):
        module = sys.modules[f"pytest_qmp.qmp.{name}"]
        _instrument(atheris, module)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(_seeds()):
            Path(corpus, f"seed{number}").write_bytes(seed)
        limits = [f"-max_total_time={options.seconds}", "-max_len=120", "-len_control=0"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", corpus], check)
        atheris.Fuzz()


def _instrument(atheris: Any, module: Any) -> None:
    """Lets the fuzzer see which code an input reaches."""
    for found in list(vars(module).values()):
        if getattr(found, "__module__", None) != module.__name__:
            continue
        for owner, name, function in _functions(module, found):
            setattr(owner, name, atheris.instrument_func(function))


def _functions(module: Any, found: Any) -> Iterator[tuple[Any, str, Any]]:
    if isinstance(found, type):
        for name, member in list(vars(found).items()):
            if callable(member) and hasattr(member, "__code__"):
                yield found, name, member
    elif hasattr(found, "__code__"):
        yield module, found.__name__, found


if __name__ == "__main__":
    main()
