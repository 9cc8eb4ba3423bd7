"""Any bytes, in any pieces: the same answers, and always an answer to what comes after."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qmp.fake.core import Core
from pytest_qmp.fake.emitter import emit
from pytest_qmp.fake.monitor import MonitorSession

VERSIONS = ("7.2", "10.0", "11.1")
#: 0xFF resets the lexer wherever it is; the line ends what might be a string.
RESET = b"\n\xff\n"


def negotiated(version: str, *, oob: bool = False) -> MonitorSession:
    session = Core(version, ["-S"], True, lambda seconds, function: None).open_session()
    enable = b',"arguments":{"enable":["oob"]}' if oob else b""
    session.receive(b'{"execute":"qmp_capabilities"' + enable + b"}")
    session.outgoing.clear()
    return session


def answers(version: str, pieces: Sequence[bytes]) -> bytes:
    session = negotiated(version)
    for piece in pieces:
        session.receive(piece)
    return bytes(session.outgoing)


fragments = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b'{"execute":"query-name"',
                b'{"execute":"query-status","id":',
                b'"arguments":',
                *(bytes([code]) for code in b"{}[]:,\"'\\%-.e 0179\n\t\r"),
                b"true",
                b"nul",
                b"1.5",
                b"-0",
                b'"\\ud83d\\ude00"',
                b'"\\ud800"',
                b'"\xc3\xa9"',
                b"\xe2\x82",
                b"\xff",
                b"\xfe",
                b"\x00",
                b"[" * 1030,
                b"]" * 1030,
            ]
        ),
        st.binary(max_size=6),
    ),
    max_size=15,
)


@pytest.mark.parametrize("version", VERSIONS)
@settings(deadline=None)
@given(fragments=fragments, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_how_a_stream_is_cut_changes_nothing(
    version: str, fragments: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(fragments) + RESET
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert answers(version, pieces) == answers(version, [stream])


@pytest.mark.parametrize("version", VERSIONS)
@settings(deadline=None)
@given(fragments=fragments)
def test_a_byte_at_a_time_is_the_same_too(version: str, fragments: list[bytes]) -> None:
    stream = b"".join(fragments) + RESET
    pieces = [stream[index : index + 1] for index in range(len(stream))]
    assert answers(version, pieces) == answers(version, [stream])


@pytest.mark.parametrize("version", VERSIONS)
@settings(deadline=None)
@given(garbage=st.one_of(st.binary(max_size=300), fragments.map(b"".join)))
def test_no_garbage_keeps_the_next_command_from_its_answer(version: str, garbage: bytes) -> None:
    session = negotiated(version)
    session.receive(garbage + RESET + b'{"execute":"query-name","id":"after"}')
    last = bytes(session.outgoing).rstrip(b"\r\n").rsplit(b"\r\n", 1)[-1]
    assert last == b'{"return": {}, "id": "after"}'
    assert session.outgoing.isascii()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab-é\n"), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(value=values)
def test_what_is_emitted_is_the_same_value_for_a_json_parser(value: object) -> None:
    assert json.loads(emit(value)) == value
    assert json.loads(emit(value, pretty=True)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.10000000000000001"),
        (2.0, "2"),
        (float("inf"), "inf"),
        ('é\x7f😀/"\\\n\x01', '"\\u00E9\\u007F\\uD83D\\uDE00/\\"\\\\\\n\\u0001"'),
        ({"id": 1, "return": {}}, '{"return": {}, "id": 1}'),
        ({"id": 1, "error": None}, '{"id": 1, "error": null}'),
        ([], "[]"),
    ],
)
def test_numbers_escapes_and_the_order_of_keys_are_qemus(value: object, text: str) -> None:
    assert emit(value) == text


def test_pretty_puts_an_empty_container_on_two_lines() -> None:
    assert emit({"return": {}}, pretty=True) == '{\n    "return": {\n    }\n}'


@pytest.mark.parametrize("version", VERSIONS)
def test_out_of_band_overtakes_what_waits_in_the_queue(version: str) -> None:
    session = negotiated(version, oob=True)
    in_band = b"".join(b'{"execute":"query-name","id":%d}' % n for n in range(7))
    session.receive(in_band + b'{"exec-oob":"migrate-pause","id":"oob"}')
    ids = [json.loads(line)["id"] for line in bytes(session.outgoing).splitlines()]
    assert ids == ["oob", *range(7)]


def test_out_of_band_waits_behind_a_full_queue() -> None:
    session = negotiated("11.1", oob=True)
    in_band = b"".join(b'{"execute":"query-name","id":%d}' % n for n in range(10))
    session.receive(in_band + b'{"exec-oob":"migrate-pause","id":"oob"}')
    ids = [json.loads(line)["id"] for line in bytes(session.outgoing).splitlines()]
    assert ids.index("oob") > 0
    assert [i for i in ids if i != "oob"] == list(range(10))
