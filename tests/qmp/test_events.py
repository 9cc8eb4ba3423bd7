"""Events: the history, waiting, matching, and what a failed wait says."""

from __future__ import annotations

import threading
import time
import tracemalloc
from typing import Any

import pytest

from pytest_qmp.errors import QMPDisconnectedError, QMPError, QMPTimeoutError
from pytest_qmp.qmp.events import EventLog, EventMatcher, QMPEvent, partial_match
from pytest_qmp.qmp.session import Session

from .conftest import Connect, InThread
from .peer import LIMIT, Peer, event, steps

SOON = 0.15


def sending(*messages: bytes) -> Any:
    """A script that sends these, and lets the client know by a reply that they are there."""

    def script(peer: Peer) -> None:
        peer.send(*messages)
        peer.answer("query-status")

    return script


# -- waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_first", [True, False])
def test_stop_then_wait_is_right_in_either_order(connect: Connect, event_first: bool) -> None:
    def script(peer: Peer) -> None:
        peer.expect("stop")
        messages: list[Any] = [event("STOP"), {"return": {}}]
        for message in messages if event_first else reversed(messages):
            peer.send(message)

    client = connect(script)
    client.stop()
    assert client.wait_for_event("STOP").name == "STOP"


def test_an_event_is_taken_once_and_the_others_stay(connect: Connect) -> None:
    client = connect(sending(*(event(name) for name in "ABACA")))
    client.query_status()
    assert client.wait_for_event("C", timeout=0).name == "C"
    for _ in range(3):
        client.wait_for_event("A", timeout=0)
    with pytest.raises(QMPTimeoutError):
        client.wait_for_event("A", timeout=0)
    client.wait_for_event("B", timeout=0)
    assert client.events.names() == list("ABACA")


def test_one_of_several_names(connect: Connect) -> None:
    client = connect(sending(event("X"), event("B"), event("A")))
    assert client.wait_for_event(["A", "B"]).name == "B"
    assert client.wait_for_event(("A", "B")).name == "A"
    assert client.wait_for_event(name for name in "ABX").name == "X"
    client.query_status()


def test_an_event_that_comes_later(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.wait(go_on)
        peer.send(event("LATE", {"n": 1}))

    go_on = threading.Event()
    client = connect(script)
    with pytest.raises(QMPTimeoutError):
        client.wait_for_event("LATE", timeout=0)
    go_on.set()
    found = client.wait_for_event("LATE")
    assert (found.name, found.data, found.timestamp) == ("LATE", {"n": 1}, 1700000000.25)
    assert found["data"]["n"] == 1
    assert str(found) == 'LATE {"n": 1}'


def test_all_that_has_arrived_is_looked_at_without_waiting(connect: Connect) -> None:
    # More than one read of the client takes.
    many = [event("FILLER", {"text": "x" * 200})] * 500
    there = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(*many, event("LAST"))
        there.set()

    client = connect(script)
    assert there.wait(LIMIT)
    assert client.wait_for_event("LAST", timeout=0).name == "LAST"
    assert len(client.events) == 501


def test_the_history_holds_all_that_has_arrived(connect: Connect) -> None:
    there = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(event("FILLER", {"text": "x" * 200}) * 500)
        there.set()

    client = connect(script)
    assert there.wait(LIMIT)
    assert len(client.events) == 500


def test_a_wait_ends_at_once_when_the_peer_leaves(connect: Connect) -> None:
    client = connect(steps(lambda peer: peer.send(event("SHUTDOWN")), Peer.close))
    began = time.monotonic()
    with pytest.raises(QMPDisconnectedError) as caught:
        client.wait_for_event("RESUME")
    assert time.monotonic() - began < LIMIT / 2
    assert "while the event RESUME was awaited" in str(caught.value)
    assert "SHUTDOWN" in str(caught.value)
    assert client.wait_for_event("SHUTDOWN").name == "SHUTDOWN"


def test_waiting_for_any_news(connect: Connect) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(event("A"))
        peer.answer("query-status")
        peer.wait(go_on)
        peer.send(event("B"))

    client = connect(script)
    client.query_status()
    assert client.wait_for_news(0, client._deadline(0))
    assert not client.wait_for_news(1, client._deadline(0))
    go_on.set()
    assert client.wait_for_news(1, client._deadline(LIMIT))


# -- what a failed wait says -----------------------------------------------------------------------


def test_a_failed_wait_lists_the_events_nearest_first(connect: Connect) -> None:
    client = connect(
        sending(
            event("RTC_CHANGE"),
            event("BLOCK_JOB_READY", {"device": "d0"}),
            event("NIC_RX_FILTER_CHANGED"),
        )
    )
    client.query_status()
    with pytest.raises(QMPTimeoutError) as caught:
        client.wait_for_event("BLOCK_JOB_COMPLETED", {"data": {"device": "d0"}}, timeout=SOON)
    text = str(caught.value)
    for told in (
        "waited 0.15 s for the event BLOCK_JOB_COMPLETED matching {'data': {'device': 'd0'}}",
        'nearest first): BLOCK_JOB_READY {"device": "d0"}',
        "NIC_RX_FILTER_CHANGED",
        "RTC_CHANGE",
    ):
        assert told in text
    assert "more" not in text


def test_a_failed_wait_among_many_events_is_short(connect: Connect) -> None:
    client = connect(sending(event("NOISE") * 5000, event("STOPPED")))
    client.query_status()
    with pytest.raises(QMPTimeoutError, match=r"first\): STOPPED, NOISE.*and 4991 more") as caught:
        client.wait_for_event(["STOP", "QUIT"], timeout=0)
    assert len(str(caught.value)) < 1000
    assert "STOP or QUIT" in str(caught.value)


def test_a_failed_wait_without_any_event(connect: Connect) -> None:
    client = connect()
    with pytest.raises(QMPTimeoutError, match="no event came on this connection"):
        client.wait_for_event("STOP", timeout=0)


def test_a_failed_wait_names_the_callable(connect: Connect) -> None:
    def by_the_guest(event: QMPEvent) -> bool:
        return bool(event.data["guest"])

    client = connect()
    with pytest.raises(QMPTimeoutError, match="SHUTDOWN matching by_the_guest"):
        client.wait_for_event("SHUTDOWN", by_the_guest, timeout=0)


# -- matching --------------------------------------------------------------------------------------


def test_a_partial_dict_and_a_callable(connect: Connect) -> None:
    def job(name: str, status: str) -> bytes:
        return event("JOB_STATUS_CHANGE", {"status": status, "id": name, "deep": {"a": [1, 2]}})

    client = connect(sending(job("x", "created"), job("y", "created"), job("x", "ready")))
    found = client.wait_for_event(
        "JOB_STATUS_CHANGE", {"data": {"status": "ready", "deep": {"a": [1, 2]}}}
    )
    assert found.data["id"] == "x"
    found = client.wait_for_event("JOB_STATUS_CHANGE", lambda event: event.data["id"] == "y")
    assert found.data["status"] == "created"
    client.query_status()


@pytest.mark.parametrize(
    ("expected", "found", "fits"),
    [
        ({}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1, "d": 2}}}, True),
        ({"a": {"b": 1}}, {"a": 1}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": False}, {"a": 0}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": "x"}, {"a": ["x"]}, False),
    ],
)
def test_partial_match(expected: object, found: object, fits: bool) -> None:
    assert partial_match(expected, found) is fits


@pytest.mark.parametrize("match", [{"guest": True}, {"data": {}, "guest": True}])
def test_a_match_that_forgets_data_is_refused_at_once(connect: Connect, match: Any) -> None:
    client = connect()
    with pytest.raises(ValueError, match=r"did you mean match=\{'data': \{'guest': True\}\}"):
        client.wait_for_event("SHUTDOWN", match)
    with pytest.raises(ValueError, match="did you mean"):
        client.expect_event("SHUTDOWN", match)
    with pytest.raises(ValueError, match="did you mean"):
        client.assert_no_event("SHUTDOWN", match=match)


@pytest.mark.parametrize("name", ["", [], ["STOP", ""], [1]])
def test_a_name_that_is_none(connect: Connect, name: Any) -> None:
    with pytest.raises(ValueError, match="event's name"):
        connect().wait_for_event(name)


def test_a_match_that_raises_says_so(connect: Connect) -> None:
    client = connect(sending(event("STOP")))
    with pytest.raises(KeyError, match="guest"):
        client.wait_for_event("STOP", lambda event: event.data["guest"])
    # The event is still there.
    client.wait_for_event("STOP", timeout=LIMIT)
    client.query_status()


def test_a_match_may_ask_the_client(connect: Connect) -> None:
    client = connect(sending(event("STOP")))
    found = client.wait_for_event("STOP", lambda _: client.query_status() == {})
    assert found.name == "STOP"


# -- expect_event and assert_no_event --------------------------------------------------------------


def test_expect_event_counts_only_events_from_inside(connect: Connect) -> None:
    there = threading.Event()

    def script(peer: Peer) -> None:
        # More than one read, and unread when the block begins.
        peer.send(event("FILLER", {"text": "x" * 200}) * 500, event("STOP", {"n": 1}))
        there.set()
        peer.expect("stop")
        peer.send(event("STOP", {"n": 2}), {"return": {}})

    client = connect(script)
    assert there.wait(LIMIT)
    with client.expect_event("STOP") as stopped:
        client.stop()
    assert stopped.value.data == {"n": 2}
    assert stopped.event is stopped.value
    assert client.wait_for_event("STOP", timeout=0).data == {"n": 1}


def test_expect_event_that_does_not_come(connect: Connect) -> None:
    client = connect(sending(event("STOP")))
    client.query_status()
    with (
        pytest.raises(QMPTimeoutError, match=r"waited 0\.15 s for the event STOP"),
        client.expect_event("STOP", timeout=SOON),
    ):
        pass


def test_expect_event_lets_the_blocks_own_error_through(connect: Connect) -> None:
    with pytest.raises(ZeroDivisionError), connect().expect_event("STOP") as expected:
        _ = 1 / 0
    with pytest.raises(QMPError, match="once the with block has ended"):
        _ = expected.value


def test_assert_no_event(connect: Connect) -> None:
    client = connect(sending(event("STOP"), event("RESUME", {"x": 1})))
    client.query_status()
    client.assert_no_event("SHUTDOWN")
    client.assert_no_event("SHUTDOWN", within=0.05)
    client.assert_no_event("RESUME", match={"data": {"x": 2}})
    with pytest.raises(AssertionError, match="no event RESUME was to come"):
        client.assert_no_event(["RESUME"])


def test_assert_no_event_sees_one_that_comes_meanwhile(connect: Connect) -> None:
    client = connect(lambda peer: peer.send(event("SHUTDOWN", {"guest": True})))
    with pytest.raises(AssertionError, match=r'within 20 s, .* came SHUTDOWN \{"guest": true\}'):
        client.assert_no_event("SHUTDOWN", within=LIMIT)


def test_assert_no_event_of_a_peer_that_has_left(connect: Connect) -> None:
    client = connect(steps(lambda peer: peer.send(event("SHUTDOWN")), Peer.close))
    with pytest.raises(QMPDisconnectedError):
        client.wait_for_event("STOP")
    client.assert_no_event("GUEST_PANICKED")
    with pytest.raises(AssertionError):
        client.assert_no_event("SHUTDOWN")
    with pytest.raises(QMPDisconnectedError):
        client.assert_no_event("GUEST_PANICKED", within=1)


# -- the history -----------------------------------------------------------------------------------


def test_the_history_is_bounded_and_counts_what_it_dropped(connect: Connect) -> None:
    client = connect(sending(*(event("E", {"n": n}) for n in range(25))), max_events=10)
    client.query_status()
    log = client.events
    assert (len(log), log.bound, log.dropped, log.total) == (10, 10, 15, 25)
    assert [one.data["n"] for one in log] == list(range(15, 25))
    assert (log[0].data["n"], log[-1].data["n"], log[3:5][1].data["n"]) == (15, 24, 19)
    with pytest.raises(IndexError, match="event 10 of 10"):
        _ = log[10]
    with pytest.raises(IndexError):
        _ = log[-11]
    assert "15 dropped" in repr(log)
    for expected in range(15, 25):
        assert client.wait_for_event("E", timeout=0).data["n"] == expected
    with pytest.raises(QMPTimeoutError):
        client.wait_for_event("E", timeout=0)
    with pytest.raises(ValueError, match="at least one"):
        EventLog(0)


def test_taking_is_right_while_the_history_drops() -> None:
    log = EventLog(4)
    matcher = EventMatcher("E")
    seen = []
    for number in range(1000):
        log.append(event("E", {"n": number}))
        if number % 3:
            found = log.find(matcher)
            assert found is not None
            log.take(found[0])
            seen.append(found[1].data["n"])
    assert seen == sorted(set(seen))
    assert len(log._taken) <= 9


def test_an_event_costs_little_memory() -> None:
    raw = event("BLOCK_JOB_READY", {"device": "drive0", "len": 1000, "type": "mirror"}).strip()
    log = EventLog(100_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            log.append(raw + b" " * (number % 2))
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (after - before) / 20_000 < len(raw) + 100


def test_looking_back_over_a_long_history_is_quick_when_events_trickle(
    connect: Connect, in_thread: InThread
) -> None:
    def seconds(kept: int) -> float:
        log = EventLog(200_000)
        for _ in range(kept):
            log.append(b'{"timestamp": {"seconds": 1}, "event": "NOISE"}')
        matcher = EventMatcher("STOP")
        began = time.thread_time()
        for _ in range(300):
            since = log.total
            log.append(b'{"timestamp": {"seconds": 1}, "event": "NOISE"}')
            assert log.find(matcher, since) is None
        return time.thread_time() - began

    assert seconds(100_000) < 20 * seconds(1_000) + 0.02


# -- a flood ---------------------------------------------------------------------------------------


def test_a_flood_is_kept_whole_and_in_order_at_any_split() -> None:
    line = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "%s", "data": {"n": %d}}\r\n'
    stream = b"".join(line % (b"STOP" if n % 7 else b"RESUME", n) for n in range(500))
    for size in (1, 100, 4096, len(stream)):
        log = EventLog()
        session = Session(log)
        for start in range(0, len(stream), size):
            session.receive(stream[start : start + size])
        assert [event.data["n"] for event in log] == list(range(500))
        found = log.find(EventMatcher("RESUME"), since=1)
        assert found is not None
        assert found[0] == 7
        assert log.find(EventMatcher("SHUTDOWN")) is None


@pytest.mark.parametrize("glue", [b"", b" ", b"\t "])
def test_a_reply_glued_to_an_event_of_a_flood_is_not_lost(glue: bytes) -> None:
    event = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}'
    session = Session(EventLog())
    call = session.call("query-status")
    session.expect(call)
    session.receive((event + b"\r\n") * 3 + event + glue + b'{"return": {}}\r\n' + event + b"\r\n")
    assert call.reply == {"return": {}}
    assert session.events.names() == ["STOP"] * 5


def test_the_transcript_of_a_flood_is_bounded() -> None:
    session = Session(EventLog())
    event = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n'
    for _ in range(100):
        session.receive(event * 1000)
    held = sum(len(data) for _, _, data in session.transcript)
    assert len(event) * 1000 <= held <= 1024 * 1024
