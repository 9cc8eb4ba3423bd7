"""The sans-I/O core: the same messages at any split of the stream."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qmp.errors import QMPProtocolError
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.session import Session
from pytest_qmp.qmp.wire import MessageReader, show_bytes

from .peer import GREETING_LINE, event, line

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
EVENTS = st.builds(
    event,
    st.sampled_from(["STOP", "RESUME", "SHUTDOWN", "}{"]),
    st.none() | st.dictionaries(st.text(max_size=4), JSON, max_size=2),
)
RETURNS = st.builds(lambda value: {"return": value}, JSON)
REFUSALS = st.builds(lambda desc: {"error": {"class": "GenericError", "desc": desc}}, st.text())
NOTHING = st.just(b"")


def spelt(message: dict[str, Any], indent: int | None, ascii_only: bool, end: bytes) -> bytes:
    return json.dumps(message, indent=indent, ensure_ascii=ascii_only).encode() + end


MESSAGES = EVENTS | st.builds(
    spelt,
    RETURNS | REFUSALS,
    st.sampled_from([None, 4]),
    st.booleans(),
    st.sampled_from([b"\r\n", b"\n", b"", b" ", b" \n\n"]),
)


def cut(stream: bytes, places: Iterable[float]) -> list[bytes]:
    """A stream in pieces, cut at these fractions of its length."""
    ends = [0, *sorted({int(place * len(stream)) for place in places}), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(ends)]


def understood(pieces: Iterable[bytes], calls: int = 0) -> tuple[list[Any], list[Any], str | None]:
    """What a session makes of a stream: its replies, its events, and why it gave up."""
    session = Session(EventLog(), max_message_size=1 << 20)
    owed = [session.call("query-status") for _ in range(calls)]
    for call in owed:
        session.expect(call)
    for piece in pieces:
        session.receive(piece)
    failure = None if session.failure is None else type(session.failure).__name__
    return [call.reply for call in owed], list(session.events), failure


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGES, max_size=8), st.lists(st.floats(0, 1), max_size=12))
def test_any_split_gives_the_same_messages(messages: list[bytes], places: list[float]) -> None:
    stream = b"".join(messages)
    replies, events, failure = understood(cut(stream, places), calls=len(messages))
    sent = [json.loads(message) for message in messages]
    assert failure is None
    assert [one for one in replies if one is not None] == [m for m in sent if "event" not in m]
    assert events == [m for m in sent if "event" in m]


@settings(max_examples=50, deadline=None)
@given(st.lists(MESSAGES, max_size=4))
def test_a_byte_at_a_time_is_a_split_as_any(messages: list[bytes]) -> None:
    stream = b"".join(messages)
    bytewise = [stream[place : place + 1] for place in range(len(stream))]
    assert understood(bytewise, len(messages)) == understood([stream], len(messages))


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_brackets_and_quotes_in_texts(step: int, indent: int | None, end: bytes) -> None:
    values: list[Any] = ['"', '\\"', "\\", '{"', "}]", {'\\"{': ["[", '"}']}]
    stream = b"".join(spelt({"return": value}, indent, True, end) for value in values)
    pieces = [stream[place : place + step] for place in range(0, len(stream), step)]
    replies, _, failure = understood(pieces, calls=len(values))
    assert failure is None
    assert replies == [{"return": value} for value in values]


def test_what_is_whole_before_garbage_on_one_line_counts() -> None:
    replies, events, failure = understood([b'{"return": 1} oops}\r\n'], calls=1)
    assert (replies, events, failure) == ([{"return": 1}], [], "QMPProtocolError")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(MESSAGES, max_size=3),
    st.binary(min_size=1, max_size=40),
    st.lists(st.floats(0, 1), max_size=8),
)
def test_garbage_takes_nothing_that_came_before_it(
    messages: list[bytes], garbage: bytes, places: list[float]
) -> None:
    # A newline, so that it is not taken for half a line whose end is still to come.
    stream = b"".join(messages) + b"\n" + garbage + b"\n"
    replies, events, _ = understood(cut(stream, places), len(messages))
    whole_replies, whole_events, _ = understood([b"".join(messages)], len(messages))
    assert replies[: len(whole_replies)] == whole_replies
    assert events[: len(whole_events)] == whole_events


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.lists(st.floats(0, 1), max_size=6))
def test_no_bytes_at_all_break_the_session_itself(data: bytes, places: list[float]) -> None:
    _, _, failure = understood(cut(data, places), calls=1)
    assert failure in (None, "QMPProtocolError")


@given(st.text(min_size=1, max_size=20), st.integers(1, 40))
def test_characters_split_across_reads(text: str, place: int) -> None:
    stream = json.dumps({"return": text}, ensure_ascii=False).encode() + b"\r\n"
    replies, _, _ = understood([stream[:place], stream[place:]], calls=1)
    assert replies == [{"return": text}]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["reply", "refusal", "event"]), max_size=40),
    st.lists(st.floats(0, 1), max_size=10),
)
def test_any_interleaving_of_events_replies_and_errors(
    kinds: list[str], places: list[float]
) -> None:
    stream = b""
    for number, kind in enumerate(kinds):
        if kind == "event":
            stream += event("STOP", {"number": number})
        elif kind == "reply":
            stream += line({"return": number})
        else:
            stream += line({"error": {"class": "GenericError", "desc": str(number)}})
    answered = [number for number, kind in enumerate(kinds) if kind != "event"]
    replies, events, failure = understood(cut(stream, places), calls=len(answered))
    assert failure is None
    found = [one["return"] if "return" in one else int(one["error"]["desc"]) for one in replies]
    assert found == answered
    assert [one.data["number"] for one in events] == [
        number for number, kind in enumerate(kinds) if kind == "event"
    ]


@pytest.mark.parametrize(
    ("garbage", "told"),
    [
        (b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", "human monitor"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "Another service"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n", "Another service"),
        (b"\x00\x01\x02\xff", "mode=control"),
        (b"{hello}\r\n", "{hello}"),
        (b'{"unfinished": }\r\n', "unfinished"),
        (b'{"just": "json"}\r\n', "no greeting, reply, error or event"),
        (b'{"return": "\xff\xfe"}\r\n', "not JSON"),
        (b'{"QMP": {"version": "none"}}\r\n', "no greeting"),
        (b"[1, 2]\r\n", "begins with '{'"),
        (b'{"return": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\r\n", "not JSON"),
    ],
)
def test_what_is_no_qmp_is_refused_and_shown(garbage: bytes, told: str) -> None:
    session = Session(EventLog())
    session.receive(garbage)
    assert isinstance(session.failure, QMPProtocolError)
    text = str(session.failure)
    assert told in text
    assert repr(garbage[:7])[2:-1] in text
    assert len(text) < 1000


def test_random_bytes_are_refused_with_bounded_text() -> None:
    session = Session(EventLog())
    session.receive(b"\x80" + random.Random(1).randbytes(100_000))
    assert isinstance(session.failure, QMPProtocolError)
    assert "bytes more" in str(session.failure)
    assert len(str(session.failure)) < 1000


def framed(stream: bytes, size: int, step: int) -> list[bytes]:
    """The messages of a stream that comes some bytes at a time, to a reader with that limit."""
    reader = MessageReader(max_message_size=size)
    taken = []
    for place in range(0, len(stream), step):
        reader.feed(stream[place : place + step])
        taken += reader.take()
    return taken


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_limit_is_the_same_at_any_split(end: bytes, step: int) -> None:
    message = json.dumps({"return": "x" * 50}).encode()
    for size in range(len(message), len(message) + 3):
        assert [one.strip() for one in framed(message + end, size, step)] == [message]
    for size in range(len(message) - 5, len(message)):
        told = f"limit of {size} bytes.*max_message_size"
        with pytest.raises(QMPProtocolError, match=told):
            framed(message + end, size, step)


def test_a_message_without_end_is_refused_at_the_limit() -> None:
    stream = b'{"return": "' + b"x" * 11_000
    with pytest.raises(QMPProtocolError, match="longer than the limit of 10000 bytes"):
        framed(stream, 10_000, 1000)


@pytest.mark.parametrize("piece", [b'{"a": "}', b"{}", b'"', b" ", b"[", b"\\"])
def test_no_stream_takes_more_than_linear_time(piece: bytes) -> None:
    def seconds(size: int) -> float:
        reader = MessageReader()
        began = time.thread_time()
        reader.feed(b'{"return": [{"x": "}')
        for _ in range(size // len(piece) // 64):
            reader.feed(piece * 64)
        return time.thread_time() - began

    seconds(1 << 14)
    small = min(seconds(1 << 17) for _ in range(3))
    large = min(seconds(1 << 20) for _ in range(2))
    # Eight times as much: linear is 8, quadratic 64.
    assert large < 30 * small + 0.05


def test_a_storm_of_events_stays_quick_at_any_split() -> None:
    storm = event("BLOCK_JOB_READY", {"device": "drive0", "len": 1000}) * 4000

    def seconds(step: int) -> float:
        session = Session(EventLog())
        began = time.thread_time()
        for place in range(0, len(storm), step):
            session.receive(storm[place : place + step])
        assert len(session.events) == 4000
        return time.thread_time() - began

    seconds(65536)
    quick = min(seconds(65536) for _ in range(5))
    # Some of these splits leave a piece that ends in a bracket, and looks whole for a moment.
    for step in (65536 - 64, 65536 - 65, 65536 - 66, 60001, 1 << 17):
        assert min(seconds(step) for _ in range(3)) < 8 * quick + 0.005, step


def test_a_transcript_of_a_greeting_is_understood() -> None:
    session = Session(EventLog())
    session.receive(event("RESUME") + GREETING_LINE[:20])
    assert session.greeting is None
    assert session.partial == GREETING_LINE[:20]
    session.receive(GREETING_LINE[20:] + event("STOP"))
    assert session.greeting is not None
    assert str(session.greeting.version) == "7.2.22"
    assert session.greeting.version >= (7, 2)
    assert session.greeting.version.package == "Debian"
    assert session.events.names() == ["RESUME", "STOP"]


def test_an_event_that_is_no_json_is_told_when_it_is_looked_at() -> None:
    session = Session(EventLog())
    session.receive(b'{"timestamp": {"seconds": 1}, "event": "STOP", oops}\r\n')
    with pytest.raises(QMPProtocolError, match="oops"):
        list(session.events)


def test_show_bytes_is_short_and_harmless() -> None:
    assert show_bytes(b"\x1b[2J") == r"b'\x1b[2J'"
    assert show_bytes(b"a" * 500).endswith("and 380 bytes more")
