"""What people read: the error tree, harmless text, transcripts, durations, and assertions."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import pytest

import pytest_qmp
from pytest_qmp.errors import QMPCommandError, QMPError
from pytest_qmp.qmp.deadline import Deadline, seconds
from pytest_qmp.qmp.messages import Greeting, argument_name, command_name, encode_command
from pytest_qmp.qmp.transcript import format_transcript
from pytest_qmp.text import last_lines, nearest, printable

from .conftest import Connect
from .peer import event, steps

# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parents"),
    [
        ("QMPConnectError", (QMPError, ConnectionError, OSError)),
        ("QMPDisconnectedError", (QMPError, pytest_qmp.QMPConnectError, ConnectionError)),
        ("QMPCapabilitiesError", (QMPError,)),
        ("QMPTimeoutError", (QMPError, TimeoutError)),
        ("QMPCommandError", (QMPError,)),
        ("QMPProtocolError", (QMPError,)),
        ("VMError", (QMPError,)),
        ("VMConfigError", (pytest_qmp.VMError, ValueError)),
        ("VMLaunchError", (pytest_qmp.VMError,)),
    ],
)
def test_the_tree_of_errors(name: str, parents: tuple[type, ...]) -> None:
    error = getattr(pytest_qmp, name)
    for parent in parents:
        assert issubclass(error, parent)


def test_every_error_is_a_qmp_error() -> None:
    errors = [
        found
        for found in (getattr(pytest_qmp, name) for name in pytest_qmp.__all__)
        if isinstance(found, type) and issubclass(found, BaseException)
    ]
    assert len(errors) > 8
    assert all(issubclass(error, QMPError) for error in errors)


def test_a_command_error_survives_pickling() -> None:
    error = QMPCommandError(
        "GenericError",
        "no",
        command="stop",
        arguments={"a": 1},
        reply={"error": {}},
        hint="did you mean 'cont'?",
    )
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.command, copy.arguments, copy.reply) == ("stop", {"a": 1}, {"error": {}})


def test_a_command_error_is_short_whatever_was_asked() -> None:
    error = QMPCommandError("GenericError", "no", command="x", arguments={"a": "y" * 10_000})
    assert len(str(error)) < 500
    assert str(error).endswith("…: GenericError: no")


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2J\x1b[1;31mpanic\x1b[0m\r\n", "panic\n"),
        ("a\rb", "a\nb"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;without an end\npanic", "\\x1b]0;without an end\npanic"),
        ("\x1bPdevice control\x1b\\x", "x"),
        ("\x1bPwithout an end\npanic", "\\x1bPwithout an end\npanic"),
        ("\x1b(B\x1b7x\x1b8\x1bc", "x"),
        ("\x1b[5n\x1b[c", ""),
        ("\x9b31mx", "\\x9b31mx"),
        ("bell\x07 nul\x00 del\x7f", "bell\\x07 nul\\x00 del\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("\x1b", "\\x1b"),
        ("\x1b[31", "\\x1b[31"),
        ("größer 漢字 🚀", "größer 漢字 🚀"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


def test_printable_takes_linear_time() -> None:
    for piece in ("\x1b]", "\x1b[", "\x1bP", "\x1b", "\x1b]0;x"):
        began = time.thread_time()
        printable(piece * 100_000)
        assert time.thread_time() - began < 2


def test_last_lines() -> None:
    text = "".join(f"line {n}\n" for n in range(100)) + "x" * 600 + "\n\n\n"
    lines = last_lines(text, count=3, width=20).split("\n")
    assert lines[-1] == "x" * 20 + "…"
    assert len(lines) <= 3
    assert last_lines("a\nb\n\n", 1) == "b"
    assert last_lines("") == ""


def test_nearest() -> None:
    assert nearest("staus", ["running", "status"]) == "; did you mean 'status'?"
    assert nearest("zzz", ["running", "status"]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (0.25, "0.25 s"), (30, "30 s"), (3600, "3600 s"), (None, "no limit")],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text
    assert seconds(math.inf) == "no limit"


def test_deadlines() -> None:
    endless, over, later = Deadline(None), Deadline(0), Deadline(1e6)
    assert (endless.remaining(), endless.expired, endless.poll_milliseconds()) == (
        None,
        False,
        None,
    )
    assert (over.remaining(), over.expired, over.poll_milliseconds()) == (0, True, 0)
    assert not later.expired
    assert 0 < (later.poll_milliseconds() or 0) <= 1e9
    assert endless.poll_milliseconds(0.5) == later.poll_milliseconds(0.5) == 500
    assert Deadline(math.inf).remaining() is None


# -- names and encoding ----------------------------------------------------------------------------


def test_names() -> None:
    assert command_name("query_block_jobs") == "query-block-jobs"
    assert command_name("block_resize") == "block_resize"
    assert command_name("migrate_set_parameters") == "migrate-set-parameters"
    assert argument_name("device_add", "disable_legacy") == "disable-legacy"
    assert argument_name("device_add", "host_mtu") == "host_mtu"
    assert argument_name("x", "from_") == "from"


def test_a_command_is_as_few_bytes_as_can_be() -> None:
    assert encode_command("stop") == b'{"execute":"stop"}'
    assert encode_command("stop", {}) == b'{"execute":"stop"}'
    assert encode_command("x", {"a": [1, None]}, id=2, oob=True) == (
        b'{"exec-oob":"x","arguments":{"a":[1,null]},"id":2}'
    )


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"QMP": None},
        {"QMP": []},
        {"QMP": {"version": {}}},
        {"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}}},
        {"QMP": {"version": {"qemu": {"major": "x", "minor": 2, "micro": 0}}}},
        {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": 5}},
    ],
)
def test_what_is_no_greeting(message: Any) -> None:
    assert Greeting.parse(message) is None


# -- transcripts -----------------------------------------------------------------------------------


def test_a_transcript(connect: Connect) -> None:
    client = connect(steps(lambda peer: peer.answer("stop"), lambda peer: peer.send(event("STOP"))))
    client.stop()
    client.wait_for_event("STOP")
    lines = format_transcript(client.transcript).split("\n")
    assert [line.split(" s ")[1][0] for line in lines] == list("<><><<")
    assert all(line.split()[0].startswith(("-", "+")) for line in lines)
    assert lines[-3].endswith('> {"execute":"stop"}')
    assert lines[-1].endswith('"event": "STOP"}')
    assert len(format_transcript(client.transcript, limit=2).split("\n")) == 2


def test_a_transcript_is_harmless_and_narrow() -> None:
    entries = [
        (0.0, ">", b'{"execute":"x"}'),
        (0.0, "<", b'{"return": "\x1b[2J\xff"}\r\n{"return": "' + b"y" * 500),
        (0.0, "<", b"y" * 500 + b'"}\r\n{"half'),
    ]
    lines = format_transcript(entries, width=100).split("\n")
    assert len(lines) == 4
    assert lines[1].endswith('{"return": "�"}')
    assert "… (1014 characters)" in lines[2]
    assert lines[3].endswith('< {"half')


def test_a_large_reply_does_not_push_the_command_out() -> None:
    entries = [(0.0, ">", b'{"execute":"large"}')]
    entries += [(0.0, "<", b"x" * 1000)] * 90 + [(0.0, "<", b'"}\r\n')]
    lines = format_transcript(entries, limit=2).split("\n")
    assert lines[0].endswith('{"execute":"large"}')
    assert len(lines) == 2
