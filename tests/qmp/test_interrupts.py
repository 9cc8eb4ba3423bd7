"""Ctrl-C, alarms and other handlers that raise: the client stays usable, and loses nothing."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from pytest_qmp.errors import QMPDisconnectedError, QMPError, QMPTimeoutError
from pytest_qmp.qmp.client import QMPClient

from .conftest import Connect, InThread
from .interrupts import called_at, interrupted_at, points_of
from .peer import LIMIT, Peer, event


class AlarmError(Exception):
    """Raised by the tests' signal handler."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], object]]:
    """A timer whose handler raises; ``alarm(0)`` stops it."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, handler)
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)  # pytest-timeout's
    # What is raised in a callback of the collector goes nowhere, and hypothesis has one.
    gc.disable()
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.enable()
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, left)


def strike(number: signal.Signals) -> None:
    """Sends the main thread a signal, from another."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, number)


class Answering:
    """A script that answers each command with its arguments, after an event with a number."""

    def __init__(self, events: int = 1) -> None:
        self.sent = 0
        self._events = events

    def __call__(self, peer: Peer) -> None:
        while True:
            try:
                request = peer.request().message
            except AssertionError:  # the client has left
                peer.close()
                return
            numbers = range(self.sent, self.sent + self._events)
            self.sent += self._events
            with contextlib.suppress(BrokenPipeError):
                peer.send(*(event("E", {"n": n}) for n in numbers))
                peer.reply(request, request.get("arguments"))


def assert_sound(client: QMPClient, peer: Answering, place: str) -> None:
    """The next call gets its own reply, and each event is there once."""
    try:
        for call in ("one", "two"):
            assert client.execute("query-check", call=call) == {"call": call}
        numbers = [one.data["n"] for one in client.events]
        assert numbers == list(range(client.events.total))
        assert client.events.total == peer.sent
        assert not client._connection._bells  # type: ignore[union-attr]
    except (AssertionError, QMPError) as error:
        raise AssertionError(f"after an interrupt at {place}: {error}") from error


@pytest.mark.parametrize(("events", "pretty"), [(1, False), (4, False), (1, True)])
def test_a_command_may_be_interrupted_anywhere(
    connect: Connect, events: int, pretty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pretty:
        monkeypatch.setattr("tests.qmp.peer.line", pretty_line)
    peer = Answering(events)
    client = connect(peer)

    def action() -> None:
        assert client.execute("query-it", x=1) == {"x": 1}

    points = points_of(action)
    assert points > 50
    struck = 0
    step = 1 if (events, pretty) == (1, False) else 3
    for point in range(0, points + 20, step):
        place = interrupted_at(point, action)
        struck += bool(place)
        assert_sound(client, peer, place)
    assert struck > points / step / 2


def pretty_line(message: object) -> bytes:
    import json

    return json.dumps(message, indent=4).encode() + b"\r\n"


def test_a_wait_for_an_event_may_be_interrupted_anywhere(connect: Connect) -> None:
    peer = Answering()
    # Few, so that looking through them has as many points each time.
    client = connect(peer, max_events=4)
    taken: list[int] = []

    def action() -> None:
        event = client.wait_for_event("E", lambda event: event.data["n"] >= 0)
        taken.append(event["data"]["n"])

    for _ in range(4):
        client.execute("query-more")
        points = points_of(action)
    struck = lost = 0
    for point in range(points + 30):
        client.execute("query-more")
        place = interrupted_at(point, action)
        struck += bool(place)
        assert client.execute("query-check", x=1) == {"x": 1}, place
        # What the interrupted wait did not return is there for the next. One that was on its way
        # to the caller is lost to it, as what any function returns.
        returned = place.endswith((" in wait_for_event", " in action"))
        while len(taken) < peer.sent - lost:
            try:
                taken.append(client.wait_for_event("E", timeout=0).data["n"])
            except QMPTimeoutError:
                assert returned, place
                lost += 1
    assert len(set(taken)) == len(taken) == peer.sent - lost
    assert lost <= 4
    assert points / 2 < struck < points + 30


def test_a_look_at_the_events_may_be_interrupted_anywhere(connect: Connect) -> None:
    peer = Answering()
    client = connect(peer, max_events=100_000)
    points = points_of(lambda: client.events)
    for point in range(points + 5):
        assert_sound(client, peer, interrupted_at(point, lambda: client.events))


def test_a_large_command_may_be_interrupted_anywhere(connect: Connect) -> None:
    peer = Answering()
    client = connect(peer)
    data = "x" * 300_000

    def action() -> None:
        assert client.execute("object-add", data=data) == {"data": data}

    points = points_of(action)
    for point in range(0, points, max(1, points // 60)):
        assert_sound(client, peer, interrupted_at(point, action))


def test_an_interrupted_reader_hands_over(connect: Connect, in_thread: InThread) -> None:
    peer = Answering()
    client = connect(peer)

    def action() -> None:
        client.execute("query-it", x=1)

    points = points_of(action)
    done = threading.Event()

    def collect() -> int:
        count = 0
        while not done.is_set():
            client.wait_for_event("E", timeout=LIMIT)
            count += 1
        return count

    collecting = in_thread(collect)
    for point in range(0, points + 50, 2):
        place = interrupted_at(point, action)
        began = time.monotonic()
        assert client.execute("query-check", n=point) == {"n": point}, place
        assert time.monotonic() - began < LIMIT / 2, place
    done.set()
    client.execute("query-last")  # its event ends the wait of the other
    count = collecting.result()
    with contextlib.suppress(QMPTimeoutError):
        while client.wait_for_event("E", timeout=0):
            count += 1
    assert count == peer.sent


def test_real_signals_at_random_moments(connect: Connect, alarm: Callable[[float], object]) -> None:
    peer = Answering(3)
    client = connect(peer)
    moments = random.Random(7)
    struck = 0

    def work(number: int) -> None:
        began = time.monotonic()
        alarm(moments.uniform(1e-5, 4e-4))
        while time.monotonic() - began < LIMIT:
            client.execute("query-it", x=number)
            client.wait_for_event("E")

    for number in range(600):
        # The loop isn't in the try: CPython 3.13 leaves its jump back out of what it covers.
        try:
            work(number)
        except AlarmError:
            struck += 1
        if number % 10 == 0:
            assert_sound(client, peer, f"alarm {number}")
    assert struck == 600
    assert_sound(client, peer, "the last alarm")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which a program started in the background lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("what", ["reply", "event"])
def test_ctrl_c_in_the_middle_of_a_wait(connect: Connect, what: str) -> None:
    asked = threading.Event()

    def script(peer: Peer) -> None:
        for number in range(10):
            request = peer.expect("query-slow") if what == "reply" else None
            asked.set()
            peer.wait(interrupted)
            interrupted.clear()
            if request is not None:
                peer.reply(request, "late")
            peer.answer("query-status", number)

    interrupted = threading.Event()
    client = connect(script)

    def press() -> None:
        assert asked.wait(LIMIT)
        asked.clear()
        strike(signal.SIGINT)

    for number in range(10):
        pressing = threading.Thread(target=press)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            pressing.start()
            if what == "reply":
                client.execute("query-slow", timeout=LIMIT)
            client.wait_for_event("NEVER", timeout=LIMIT)
        pressing.join()
        interrupted.set()
        assert client.query_status() == number


def test_a_signal_that_another_thread_got_is_not_left_for_the_end_of_the_wait(
    connect: Connect, in_thread: InThread
) -> None:
    # Such as one that comes just before the main thread goes to sleep: nothing wakes that.
    def script(peer: Peer) -> None:
        peer.expect("query-slow")
        asked.set()

    asked = threading.Event()
    client = connect(script)

    def handler(number: int, frame: FrameType | None) -> None:
        raise AlarmError

    def press() -> None:
        assert asked.wait(LIMIT)
        while not client._connection._transport._polling:  # type: ignore[union-attr]
            time.sleep(0.001)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        pressing = in_thread(press)
        began = time.monotonic()
        with pytest.raises(AlarmError):
            client.query_slow()
        assert time.monotonic() - began < LIMIT / 2
        pressing.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_alarm_ends_the_wait_for_a_server(
    alarm: Callable[[float], object], tmp_path: object
) -> None:
    alarm(0.1)
    began = time.monotonic()
    with pytest.raises(AlarmError):
        QMPClient.connect(f"{tmp_path}/never", timeout=LIMIT)
    assert time.monotonic() - began < LIMIT / 2


def test_a_handler_may_use_the_client_while_it_waits(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        slow = peer.expect("query-slow")
        asked.set()
        fast = peer.expect("query-fast")
        peer.reply(slow, "slow")
        peer.reply(fast, "fast")

    asked = threading.Event()
    client = connect(script)
    seen: list[object] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(client.query_fast())

    def press() -> None:
        assert asked.wait(LIMIT)
        # Between a command and its bookkeeping it would be refused, see the next test.
        while not client._connection._transport._polling:  # type: ignore[union-attr]
            time.sleep(0.001)
        strike(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Thread(target=press).start()
        began = time.monotonic()
        assert client.query_slow() == "slow"
        assert time.monotonic() - began < LIMIT / 2
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["fast"]


def test_a_handler_may_use_the_client_anywhere_or_is_told(connect: Connect) -> None:
    peer = Answering()
    client = connect(peer)
    nested: list[object] = []

    def use() -> None:
        try:
            nested.append(client.execute("query-nested", x=2))
        except QMPError as error:
            nested.append(str(error))

    def action() -> None:
        assert client.execute("query-it", x=1) == {"x": 1}

    points = points_of(action)
    for point in range(0, points + 5, 2):
        place = called_at(point, action, use)
        assert_sound(client, peer, place)
    told = [one for one in nested if one != {"x": 2}]
    assert len(nested) - len(told) > points / 8
    assert told
    assert all("raise out of the handler" in str(one) for one in told)


def test_a_handler_may_close_the_client_while_it_waits(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("query-slow")
        asked.set()

    asked = threading.Event()
    client = connect(script)

    def press() -> None:
        assert asked.wait(LIMIT)
        strike(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: client.close())
    try:
        threading.Thread(target=press).start()
        began = time.monotonic()
        with pytest.raises(QMPDisconnectedError, match="closed here"):
            client.query_slow()
        assert time.monotonic() - began < LIMIT / 2
    finally:
        signal.signal(signal.SIGUSR1, before)
