"""Assertions on the order of events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qmp import AsyncQMPClient, FakeQMPServer, QMPClient, VirtualMachine, VMVerdictError
from pytest_qmp.asserts import assert_events, assert_status, expect_events

EVENTS: list[dict[str, Any]] = [
    {"event": "STOP"},
    {"event": "JOB_STATUS_CHANGE", "data": {"id": "a", "status": "running"}},
    {"event": "RESUME"},
    {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}},
]


RTC = {"qom-path": "/machine/unattached/device[1]"}


@pytest.fixture
def server() -> Iterator[FakeQMPServer]:
    with FakeQMPServer() as server:
        yield server


@pytest.fixture
def client(server: FakeQMPServer) -> Iterator[QMPClient]:
    with QMPClient.connect(server.address, timeout=20) as client:
        yield client


def told(expected: Any, events: Any = EVENTS, **how: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_events(events, expected, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    "expected",
    [
        ["STOP", "RESUME", "SHUTDOWN"],
        ["STOP", {"RESET", "RESUME"}],
        [("SHUTDOWN", {"guest": True})],
        [("SHUTDOWN", {"data": {"guest": True}})],
        [("SHUTDOWN", lambda event: event.data["reason"].startswith("guest"))],
        [{"event": "SHUTDOWN", "data": {"guest": True}}],
        [("STOP", None), ["RESUME", {}]],
    ],
)
def test_in_order_with_others_between(expected: Any) -> None:
    found = assert_events(EVENTS, expected)
    assert len(found) == len(expected)


def test_exactly() -> None:
    names = [one["event"] for one in EVENTS]
    assert_events(EVENTS, names, exact=True)
    assert_events([], [], exact=True)
    text = told(["STOP", "RESUME"], exact=True)
    assert text.startswith("RESUME was to come next, but JOB_STATUS_CHANGE {")
    assert '  RESUME  JOB_STATUS_CHANGE {"id": "a", "status": "running"}  <- this instead' in text
    assert told(names[:3], exact=True).startswith("SHUTDOWN {")
    assert "where no more events were to come (3 of 3 came in order)" in told(names[:3], exact=True)


def test_the_wanted_stand_beside_what_came() -> None:
    assert told(["STOP", "RESET", "RESUME"], EVENTS).splitlines() == [
        "RESET did not come after STOP (1 of 3 came in order)",
        "  wanted  came",
        "  STOP    STOP",
        '          JOB_STATUS_CHANGE {"id": "a", "status": "running"}',
        "          RESUME",
        '          SHUTDOWN {"guest": true, "reason": "guest-shutdown"}',
        "  RESET   (missing)",
        "  RESUME  (not looked for)",
        "did you mean 'RESUME', which came?",
    ]


def test_the_nearest_is_named() -> None:
    text = told([("SHUTDOWN", {"guest": False})])
    assert "(data/guest: expected False, found True)" in text
    assert "nearest: STOP, which came before RESUME" in told(["RESUME", "STOP"])
    assert "did you mean 'SHUTDOWN', which came?" in told(["SHUTDWN"])


def test_a_storm_of_others_is_cut() -> None:
    text = told(["STOP"], [{"event": "RTC_CHANGE"}] * 1000)
    assert "… 997 others …" in text
    assert len(text.splitlines()) < 12
    assert len(told(["A"] * 100, EVENTS).splitlines()) < 50


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("STOP", "the events are a list"),
        ({"event": "STOP"}, "the events are a list"),
        ([], "no event is expected"),
        ([3], "not 3"),
        ([("STOP", 3)], "an event is expected as"),
        ([{"data": {}}], "an event is expected as"),
        ([{"event": "STOP", "guest": True}], "did you mean match="),
    ],
)
def test_what_can_t_be_is_refused_at_once(expected: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        assert_events(EVENTS, expected)


def test_since() -> None:
    assert_events(EVENTS, ["RESUME"], since=1)
    assert "SHUTDOWN" in told(["STOP"], since=1)
    with pytest.raises(ValueError, match="no event that came"):
        assert_events(EVENTS, ["STOP"], since={"event": "X"})  # type: ignore[arg-type]


@given(st.lists(st.sampled_from("ABC"), max_size=12), st.lists(st.sampled_from("ABC"), min_size=1))
def test_as_a_subsequence(came: list[str], wanted: list[str]) -> None:
    rest = iter(came)
    there = all(name in rest for name in wanted)
    events = [{"event": name} for name in came]
    if there:
        assert [one.name for one in assert_events(events, wanted)] == wanted
    else:
        assert "(missing)" in told(wanted, events)
    if came == wanted:
        assert_events(events, wanted, exact=True)
    else:
        told(wanted, events, exact=True)


# -- on a connection -------------------------------------------------------------------------------


def test_it_waits_and_leaves_them_to_be_waited_for(
    server: FakeQMPServer, client: QMPClient
) -> None:
    client.execute("stop")
    timer = threading.Timer(0.1, lambda: server.emit("RTC_CHANGE", {"offset": 1, **RTC}))
    timer.start()
    found = assert_events(client, ["STOP", ("RTC_CHANGE", {"offset": 1})])
    timer.join()
    assert client.wait_for_event("STOP", timeout=0) == found[0]
    assert_events(client, ["STOP"], timeout=0)
    assert_events(client, ["RTC_CHANGE"], since=found[0])
    with pytest.raises(AssertionError, match="STOP did not come in 0 s"):
        assert_events(client, ["STOP"], since=client.events.total, timeout=0)


def test_it_does_not_wait_for_what_can_t_come(client: QMPClient, server: FakeQMPServer) -> None:
    client.execute("stop")
    started = time.monotonic()
    with pytest.raises(AssertionError, match="RESUME was to come next, but STOP did"):
        assert_events(client, ["RESUME"], exact=True)
    server.close()
    with pytest.raises(AssertionError, match="RESUME did not come after STOP, and will not: "):
        assert_events(client, ["STOP", "RESUME"])
    assert time.monotonic() - started < 10


def test_from_inside_a_block(client: QMPClient) -> None:
    client.execute("stop")
    client.execute("cont")
    with expect_events(client, ["STOP", "RESUME"], exact=True) as events:
        with pytest.raises(ValueError, match="once the with block has ended"):
            _ = events.value
        client.execute("stop")
        client.execute("cont")
    assert [one.name for one in events.value] == ["STOP", "RESUME"]
    with (
        pytest.raises(AssertionError, match="STOP did not come in"),
        expect_events(client, ["STOP"], timeout=0.05),
    ):
        pass
    with pytest.raises(KeyError), expect_events(client, ["STOP"]):
        raise KeyError
    with pytest.raises(ValueError, match="the events are a list"):
        expect_events(client, "STOP")


def test_a_long_history_that_drops(server: FakeQMPServer) -> None:
    with QMPClient.connect(server.address, timeout=20, max_events=10) as client:
        for number in range(30):
            server.emit("RTC_CHANGE", {"offset": number, **RTC})
        assert_events(client, [("RTC_CHANGE", {"offset": 29})])
        assert_events(client, [("RTC_CHANGE", {"offset": 25}), ("RTC_CHANGE", {"offset": 27})])
        told_since = client.events[3]
        assert_events(client, [("RTC_CHANGE", {"offset": 24})], since=told_since)
        with pytest.raises(AssertionError, match="did not come"):
            assert_events(client, [("RTC_CHANGE", {"offset": 23})], since=told_since, timeout=0)


# -- on a machine ----------------------------------------------------------------------------------


def test_a_machine_s_events_are_wanted_by_it() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        vm.fake.guest.reset()
        vm.fake.guest.poweroff()
        vm.assert_events([("RESET", {"guest": True}), ("SHUTDOWN", {"guest": True})])
        assert vm.wait() == 0


def test_functions_take_a_machine_too() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        with expect_events(vm, ["STOP"]):
            vm.stop()
        assert_events(vm, ["STOP"])
        assert_status(vm, "paused")
    with pytest.raises(ValueError, match="of an AsyncQMPClient, give its events"):
        assert_events(AsyncQMPClient(), ["STOP"])


def test_another_verdict_ends_it() -> None:
    with VirtualMachine(backend="fake", timeout=20, devices=["pvpanic"]) as vm:
        vm.fake.guest.panic()
        started = time.monotonic()
        with pytest.raises(VMVerdictError, match="panicked"):
            vm.assert_events(["RESUME"])
        assert time.monotonic() - started < 10


def test_a_machine_has_them_all() -> None:
    with VirtualMachine(backend="fake", timeout=20) as vm:
        with vm.expect_events(["STOP", "RESUME"]) as events:
            vm.stop()
            vm.cont()
        assert len(events.value) == 2
        with vm.assert_error("DeviceNotFound", match="'x' not found") as refused:
            vm.execute("device_del", id="x")
        assert refused.value.arguments == {"id": "x"}
        vm.assert_qmp("query-status", match={"running": True})
        vm.assert_qmp("query-status", "status")
        vm.assert_qmp_absent("query-status", "reason")
        vm.assert_qmp("qom-get", "", str, path="/machine", property="type")
