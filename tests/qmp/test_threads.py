"""One client in several threads."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from pytest_qmp.errors import QMPDisconnectedError, QMPTimeoutError

from .conftest import Connect, InThread
from .peer import LIMIT, Peer, event

THREADS = 6
CALLS = 60


def test_many_threads_each_get_their_own(connect: Connect, in_thread: InThread) -> None:
    def script(peer: Peer) -> None:
        for number in range(THREADS * CALLS):
            if number % 7 == 0:
                peer.send(event("NOISE", {"n": number}))
            request = peer.request().message
            peer.reply(request, request["arguments"])

    client = connect(script)

    def work(me: int) -> None:
        for call in range(CALLS):
            assert client.execute("query-me", me=me, call=call) == {"me": me, "call": call}

    for running in [in_thread(partial(work, me)) for me in range(THREADS)]:
        running.result()
    assert client.events.names() == ["NOISE"] * len(range(0, THREADS * CALLS, 7))


def test_some_wait_for_events_while_others_execute(connect: Connect, in_thread: InThread) -> None:
    def script(peer: Peer) -> None:
        for number in range(CALLS):
            peer.answer("query-status", number)
            peer.send(event(f"E{number % 3}", {"n": number}))

    client = connect(script)

    def collect(name: str) -> list[int]:
        return [client.wait_for_event(name).data["n"] for _ in range(CALLS // 3)]

    waiting = [in_thread(partial(collect, name)) for name in ("E0", "E1", "E2")]
    assert [client.query_status() for _ in range(CALLS)] == list(range(CALLS))
    for rest, running in enumerate(waiting):
        assert running.result() == list(range(rest, CALLS, 3))


def test_an_event_goes_to_one_of_those_that_wait(connect: Connect, in_thread: InThread) -> None:
    def script(peer: Peer) -> None:
        for number in range(40):
            peer.send(event("E", {"n": number}))

    client = connect(script)
    waiting = [
        in_thread(lambda: [client.wait_for_event("E").data["n"] for _ in range(10)])
        for _ in range(4)
    ]
    taken = [number for running in waiting for number in running.result()]
    assert sorted(taken) == list(range(40))


def test_close_ends_the_waits_of_others_at_once(connect: Connect, in_thread: InThread) -> None:
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.expect("query-slow")
        asked.set()

    client = connect(script)
    waiting = [
        in_thread(lambda: client.execute("query-slow", timeout=None)),
        in_thread(lambda: client.wait_for_event("NEVER", timeout=None)),
        in_thread(lambda: client.wait_for_event("NEVER", timeout=LIMIT)),
        in_thread(lambda: client.assert_no_event("NEVER", within=LIMIT)),
    ]
    assert asked.wait(LIMIT)
    began = time.monotonic()
    client.close()
    for running in waiting:
        with pytest.raises(QMPDisconnectedError, match="closed here"):
            running.result()
    assert time.monotonic() - began < LIMIT / 2


def test_the_peers_end_ends_all_waits_at_once(connect: Connect, in_thread: InThread) -> None:
    def script(peer: Peer) -> None:
        peer.expect("query-slow")
        peer.close()

    client = connect(script)
    waiting = [
        in_thread(lambda: client.wait_for_event("NEVER", timeout=None)),
        in_thread(lambda: client.wait_for_event("NEVER", timeout=LIMIT)),
        in_thread(lambda: client.execute("query-slow", timeout=None)),
    ]
    began = time.monotonic()
    for running in waiting:
        with pytest.raises(QMPDisconnectedError, match="closed the connection"):
            running.result()
    assert time.monotonic() - began < LIMIT / 2


def test_a_wait_that_ends_hands_the_reading_over(connect: Connect, in_thread: InThread) -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait(gone)
        peer.send(event("FOUND"))

    client = connect(script)
    short = in_thread(lambda: client.wait_for_event("NEVER", timeout=0.1))
    long = in_thread(lambda: client.wait_for_event("FOUND", timeout=LIMIT))
    with pytest.raises(QMPTimeoutError):
        short.result()
    gone.set()
    began = time.monotonic()
    assert long.result().name == "FOUND"
    assert time.monotonic() - began < LIMIT / 2


@pytest.fixture
def asleep_until_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads wake for a reason only."""
    monkeypatch.setattr("pytest_qmp.qmp.connection._LONGEST_SLEEP", LIMIT)


@pytest.mark.usefixtures("asleep_until_woken")
def test_a_large_request_is_sent_while_another_thread_reads(
    connect: Connect, in_thread: InThread
) -> None:
    large = "x" * 4_000_000
    began_to_read = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait(began_to_read)
        request = peer.request_in_pieces()
        peer.reply(request, len(request["arguments"]["data"]))
        peer.send(event("DONE"))

    client = connect(script)
    waiting = in_thread(lambda: client.wait_for_event("DONE", timeout=LIMIT))
    while client._connection._reader is None:  # type: ignore[union-attr]
        time.sleep(0.001)
    sending = in_thread(lambda: client.execute("object-add", data=large))
    began = time.monotonic()
    began_to_read.set()
    assert sending.result() == len(large)
    assert waiting.result().name == "DONE"
    assert time.monotonic() - began < LIMIT / 2


def test_a_wait_after_a_large_request_does_not_spin(connect: Connect, in_thread: InThread) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request_in_pieces()
        peer.reply(request)
        peer.wait(go_on)
        peer.send(event("DONE"))

    client = connect(script)

    def wait() -> float:
        began = time.thread_time()
        client.wait_for_event("DONE", timeout=LIMIT)
        return time.thread_time() - began

    waiting = in_thread(wait)
    client.execute("object-add", data="x" * 4_000_000)
    threading.Timer(0.5, go_on.set).start()
    assert waiting.result() < 0.25


def test_the_history_can_be_read_while_others_wait(connect: Connect, in_thread: InThread) -> None:
    def script(peer: Peer) -> None:
        peer.send(*(event("E", {"n": n}) for n in range(300)), event("LAST"))

    client = connect(script, max_events=20)
    waiting = in_thread(lambda: client.wait_for_event("LAST", timeout=LIMIT))
    while "LAST" not in (names := client.events.names()):
        assert len(names) <= 20
        for found in client.events[-3:]:
            assert found.name in ("E", "LAST")
    assert waiting.result().name == "LAST"
    assert [one.data.get("n") for one in client.events] == [*range(281, 300), None]
