"""Commands and their replies, and every way in which a reply can fail to come."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp.errors import (
    QMPCommandError,
    QMPDisconnectedError,
    QMPError,
    QMPProtocolError,
    QMPTimeoutError,
)
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.qmp.client import QMPClient

from .conftest import Connect, Play, Serve
from .peer import LIMIT, Peer, event, line, reply, steps

SOON = 0.15


# -- how a command is written ----------------------------------------------------------------------


def sent_by(connect: Connect, use: Any) -> dict[str, Any]:
    """The message that a use of the client puts on the wire."""
    sent: list[dict[str, Any]] = []

    def script(peer: Peer) -> None:
        request = peer.request().message
        sent.append(request)
        peer.reply(request)

    use(connect(script))
    return sent[0]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda c: c.execute("query-status"), {"execute": "query-status"}),
        (lambda c: c.query_status(), {"execute": "query-status"}),
        (lambda c: c.execute("stop", {}), {"execute": "stop"}),
        (
            lambda c: c.execute("blockdev-add", {"driver": "null-co"}, node_name="n"),
            {"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "n"}},
        ),
        (
            lambda c: c.device_add(driver="virtio-net-pci", id="x", rx_queue_size=512),
            {
                "execute": "device_add",
                "arguments": {"driver": "virtio-net-pci", "id": "x", "rx_queue_size": 512},
            },
        ),
        (
            lambda c: c.block_set_io_throttle(bps=1, bps_max=2, iops_rd_max_length=3),
            {
                "execute": "block_set_io_throttle",
                "arguments": {"bps": 1, "bps_max": 2, "iops_rd_max_length": 3},
            },
        ),
        (lambda c: c.system_powerdown(), {"execute": "system_powerdown"}),
        (
            lambda c: c.human_monitor_command(command_line="info status"),
            {
                "execute": "human-monitor-command",
                "arguments": {"command-line": "info status"},
            },
        ),
        (
            lambda c: c.execute("guest-ping", {"node_name": 1}),
            {"execute": "guest-ping", "arguments": {"node_name": 1}},
        ),
        (
            lambda c: c.trace_event_set_state(from_=1, timeout_=2),
            {"execute": "trace-event-set-state", "arguments": {"from": 1, "timeout": 2}},
        ),
        (
            lambda c: c.execute("screendump", filename=Path("/tmp/x.png")),
            {"execute": "screendump", "arguments": {"filename": "/tmp/x.png"}},
        ),
        (
            lambda c: c.execute("x-unicode", text="ä\ud800\n"),
            {"execute": "x-unicode", "arguments": {"text": "ä\ud800\n"}},
        ),
        (
            lambda c: c.execute("migrate-pause", oob=True),
            {"exec-oob": "migrate-pause", "id": 1},
        ),
    ],
)
def test_what_goes_over_the_wire(connect: Connect, use: Any, message: dict[str, Any]) -> None:
    assert sent_by(connect, use) == message


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), float("nan"), float("inf")])
def test_what_is_no_json_is_refused_and_sends_nothing(connect: Connect, value: object) -> None:
    client = connect(lambda peer: peer.answer("stop", "after"))
    with pytest.raises((TypeError, ValueError)):
        client.execute("object-add", value=value)
    assert client.stop() == "after"


def test_names_of_python_are_no_commands(connect: Connect) -> None:
    client = connect()
    with pytest.raises(AttributeError):
        _ = client._no_such_thing
    with pytest.raises(AttributeError):
        _ = client.__wrapped__


# -- replies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{}, [], 0, "", None, {"a": [1, 2.5, "ü", None, True]}])
def test_any_value_is_returned(connect: Connect, value: object) -> None:
    def script(peer: Peer) -> None:
        peer.expect("query-x")
        peer.send({"return": value})

    assert connect(script).query_x() == value


def test_a_refusal(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("device_del")
        peer.send({"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}})

    with pytest.raises(QMPCommandError) as caught:
        connect(script).device_del(id="x")
    error = caught.value
    assert (error.error_class, error.desc) == ("DeviceNotFound", "Device 'x' not found")
    assert (error.command, error.arguments) == ("device_del", {"id": "x"})
    assert error.reply["error"]["class"] == "DeviceNotFound"
    assert str(error) == (
        "QEMU refused 'device_del' with {'id': 'x'}: DeviceNotFound: Device 'x' not found"
    )


@pytest.mark.parametrize("error", [None, "text", {}, {"class": 5}])
def test_a_refusal_of_an_odd_shape(connect: Connect, error: object) -> None:
    def script(peer: Peer) -> None:
        peer.expect("stop")
        peer.send({"error": error})

    with pytest.raises(QMPCommandError):
        connect(script).stop()


def not_found(peer: Peer, command: str) -> None:
    peer.expect(command)
    desc = f"The command {command} has not been found"
    peer.send({"error": {"class": "CommandNotFound", "desc": desc}})


def test_a_command_that_is_nearly_right() -> None:
    with FakeQMPServer(emulate="7.2") as server, QMPClient.connect(server.address) as client:
        with pytest.raises(QMPCommandError, match=r"7\.2.* did you mean 'query-status'"):
            client.query_staus()
        with pytest.raises(QMPCommandError, match="no such command among its"):
            client.zzz()
        assert client.query_status()["status"] == "running"


def test_asking_for_the_nearest_command_takes_no_longer_than_the_call_may(
    connect: Connect,
) -> None:
    over = threading.Event()

    def script(peer: Peer) -> None:
        not_found(peer, "query-staus")
        peer.request()  # whatever it asks to know better: no answer
        peer.wait(over)

    client = connect(script)
    began = time.monotonic()
    with pytest.raises(QMPCommandError, match="has not been found"):
        client.execute("query-staus", timeout=SOON)
    assert time.monotonic() - began < 1.5
    client.close()
    over.set()


def test_execute_raw(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            request = peer.request().message
            peer.send({"error": {"class": "GenericError", "desc": "no"}, "id": request["id"]})

    client = connect(script)
    raw: Any
    for raw in ("mine", {"deep": [1]}):
        assert client.execute_raw({"execute": "stop", "id": raw}) == {
            "error": {"class": "GenericError", "desc": "no"},
            "id": raw,
        }


def test_a_24_mb_reply_in_linear_time(connect: Connect) -> None:
    def seconds(megabytes: int) -> float:
        data = "x" * 1_000_000

        def script(peer: Peer) -> None:
            peer.answer("query-large", [data] * megabytes)

        client = connect(script)
        began = time.thread_time()
        assert client.query_large() == [data] * megabytes
        return time.thread_time() - began

    small = min(seconds(3) for _ in range(3))
    # Eight times as much: linear is 8, quadratic 64.
    assert seconds(24) < 30 * small + 0.1


def test_a_reply_above_the_limit(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.answer("query-small", "x" * 900)
        peer.answer("query-large", "x" * 1100)

    client = connect(script, max_message_size=1000)
    assert client.query_small() == "x" * 900
    for _ in range(2):
        with pytest.raises(QMPProtocolError, match=r"limit of 1000 bytes.*max_message_size"):
            client.query_large()


def test_pretty_replies(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("query-status")
        for message in ({"event": "STOP", "data": {"a": "}"}}, {"return": {"status": "paused"}}):
            peer.send(json.dumps(message, indent=4).encode() + b"\r\n")
        peer.answer("stop")

    client = connect(script)
    assert client.query_status() == {"status": "paused"}
    assert client.wait_for_event("STOP").data == {"a": "}"}
    client.stop()


def test_a_peer_that_ends_no_line(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        for value in ("{", "}", {"{[": "]"}):
            peer.expect("query-status")
            peer.send(json.dumps({"return": value}).encode())

    client = connect(script)
    assert [client.query_status(timeout=LIMIT) for _ in range(3)] == ["{", "}", {"{[": "]"}]


def test_events_replies_and_errors_in_one_write(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("stop")
        peer.send(event("STOP"), {"return": {}}, event("RESUME"))
        peer.expect("cont")
        peer.send(event("A"), {"error": {"class": "GenericError", "desc": "no"}}, event("B"))

    client = connect(script)
    client.stop()
    with pytest.raises(QMPCommandError):
        client.cont()
    client.wait_for_event("B")
    assert client.events.names() == ["STOP", "RESUME", "A", "B"]


# -- a reply that does not come --------------------------------------------------------------------


def test_the_peer_dies_in_the_middle_of_a_command(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("system_reset")
        peer.close()

    client = connect(script)
    began = time.monotonic()
    with pytest.raises(QMPDisconnectedError) as caught:
        client.system_reset()
    assert time.monotonic() - began < LIMIT / 2
    assert "closed the connection while the reply to 'system_reset' was awaited" in str(
        caught.value
    )
    assert not client.connected
    with pytest.raises(ConnectionError, match="closed the connection"):
        client.system_reset()


def test_the_peer_dies_with_the_command_unread(connect: Connect) -> None:
    arrived = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait(arrived)
        peer.close()

    client = connect(script)
    with pytest.raises(QMPTimeoutError):
        client.execute("stop", timeout=0)
    arrived.set()
    # The kernel tells this by "connection reset" instead of an end.
    began = time.monotonic()
    with pytest.raises(QMPDisconnectedError, match="closed the connection"):
        client.wait_for_event("STOP")
    assert time.monotonic() - began < LIMIT / 2


def test_the_peer_dies_in_the_middle_of_a_reply(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("stop")
        peer.send(event("STOP") + b'{"retu')
        peer.close()

    client = connect(script)
    with pytest.raises(QMPDisconnectedError):
        client.stop()
    assert client.wait_for_event("STOP").name == "STOP"


def test_what_the_peer_said_before_it_died_is_heard(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("quit")
        peer.send({"return": {}}, event("SHUTDOWN", {"guest": False}))
        peer.close()

    client = connect(script)
    assert client.quit() == {}
    assert client.wait_for_event("SHUTDOWN").data == {"guest": False}
    with pytest.raises(QMPDisconnectedError, match=r"STOP.*\n.*SHUTDOWN"):
        client.wait_for_event("STOP")


def test_half_a_line_then_silence(connect: Connect) -> None:
    client = connect(
        steps(lambda peer: peer.expect("stop"), lambda peer: peer.send(b'{"return": {"half": "'))
    )
    with pytest.raises(QMPTimeoutError) as caught:
        client.execute("stop", timeout=SOON)
    assert "waited 0.15 s for the reply to 'stop'" in str(caught.value)
    assert '{"return": {"half": "' in str(caught.value)


@pytest.mark.parametrize("what", ["reply", "event"])
def test_a_storm_of_events_does_not_move_the_deadline(connect: Connect, what: str) -> None:
    over = threading.Event()

    def script(peer: Peer) -> None:
        if what == "reply":
            peer.expect("STOP")
        with contextlib.suppress(ConnectionError):
            while not over.is_set():
                peer.send(event("RTC_CHANGE") * 20)
        peer.close()

    client = connect(script)
    began = time.monotonic()
    wait = client.execute if what == "reply" else client.wait_for_event
    with pytest.raises(QMPTimeoutError):
        wait("STOP", timeout=0.3)
    took = time.monotonic() - began
    assert "RTC_CHANGE" in client.events.names()
    over.set()
    client.close()
    assert 0.3 <= took < 5


def test_timeout_0_looks_and_does_not_wait(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        request = peer.expect("stop")
        peer.wait(looked)
        peer.reply(request)
        peer.answer("cont")

    looked = threading.Event()
    client = connect(script)
    with pytest.raises(QMPTimeoutError, match="waited 0 s"):
        client.execute("stop", timeout=0)
    looked.set()
    client.cont()


def test_timeout_none_waits_on(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        request = peer.expect("stop")
        time.sleep(0.2)  # longer than the client's own timeout
        peer.reply(request)

    client = connect(script, timeout=0.05)
    client.execute("stop", timeout=None)
    assert client.timeout == 0.05


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_an_endless_timeout(connect: Connect, timeout: float) -> None:
    client = connect(lambda peer: peer.answer("stop", 1), timeout=timeout)
    assert client.stop() == 1


def test_the_default_timeout_is_the_clients(connect: Connect) -> None:
    client = connect(lambda peer: peer.expect("stop"), timeout=SOON)
    with pytest.raises(TimeoutError, match=r"waited 0\.15 s"):
        client.stop()


@pytest.mark.parametrize("echo", [True, False], ids=["ids", "no ids"])
@pytest.mark.parametrize("late", [1, 3])
def test_a_late_reply_is_dropped(connect: Connect, echo: bool, late: int) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        requests = [peer.expect("query-late") for _ in range(late)]
        peer.wait(go_on)
        requests.append(peer.expect("query-status"))
        for number, request in enumerate(requests):
            peer.reply(request, number, echo=echo)
        peer.answer("query-name", "right", echo=echo)
        peer.answer("query-name", "again", echo=echo)

    client = connect(script)
    for _ in range(late):
        with pytest.raises(QMPTimeoutError):
            client.execute("query-late", timeout=0.02)
    go_on.set()
    assert client.query_status() == late
    assert client.query_name() == "right"
    assert client.query_name() == "again"


@pytest.mark.parametrize("echo", [True, False], ids=["ids", "no ids"])
def test_a_late_reply_that_comes_between_two_calls(connect: Connect, echo: bool) -> None:
    def script(peer: Peer) -> None:
        request = peer.expect("query-late")
        peer.wait(go_on)
        peer.reply(request, "late", echo=echo)
        peer.send(event("STOP"))
        assert "id" not in peer.answer("query-status", "right", echo=echo)

    go_on = threading.Event()
    client = connect(script)
    with pytest.raises(QMPTimeoutError):
        client.execute("query-late", timeout=0.02)
    go_on.set()
    client.wait_for_event("STOP")
    # The debt is settled, so that ids are not paid for any more.
    assert client.query_status() == "right"


def test_a_reply_that_was_lost_for_good(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("query-lost")
        peer.answer("query-status", "right")
        assert "id" not in peer.answer("query-name", "right")

    client = connect(script)
    with pytest.raises(QMPTimeoutError):
        client.execute("query-lost", timeout=0.02)
    assert client.query_status() == "right"
    assert client.query_name() == "right"


@pytest.mark.parametrize("ident", ["1", 1.0, True, None, [1], {"id": 1}])
def test_an_id_of_another_type_is_nobodys(connect: Connect, ident: object) -> None:
    def script(peer: Peer) -> None:
        assert peer.expect("stop")["id"] == 1
        peer.send({"return": "wrong", "id": ident})

    client = connect(script)
    with pytest.raises(QMPTimeoutError, match="a reply to nothing that was asked came"):
        client.execute("stop", oob=True, timeout=SOON)


@pytest.mark.parametrize("desc", ["JSON parse error, expecting value", "anything"])
def test_two_errors_for_one_command(connect: Connect, desc: str) -> None:
    error = {"error": {"class": "GenericError", "desc": desc}}

    def script(peer: Peer) -> None:
        peer.expect("stop")
        peer.send(error, error)
        late = peer.expect("cont")
        peer.send(error)
        peer.reply(late, "right")
        peer.answer("query-name", "right too")

    client = connect(script)
    with pytest.raises(QMPCommandError):
        client.stop()
    assert client.cont() == "right"
    assert client.query_name() == "right too"


def test_an_id_of_the_users_own_and_a_server_without_ids(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.answer("query-a", "a", echo=False)
        first, second = peer.expect("query-late"), peer.expect("query-b")
        peer.send(reply(first, "late", echo=False), reply(second, "b", echo=False))

    client = connect(script)
    assert client.execute_raw({"execute": "query-a", "id": "mine"}) == {"return": "a"}
    with pytest.raises(QMPTimeoutError):
        client.execute_raw({"execute": "query-late", "id": "mine"}, timeout=0.02)
    assert client.query_b() == "b"


def test_out_of_band_overtakes(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        slow = peer.expect("query-slow")
        fast = peer.expect("migrate-pause")
        peer.send(reply(fast, "fast"))
        peer.wait(go_on)
        peer.send(reply(slow, "slow"))
        peer.answer("query-name", "right")

    go_on = threading.Event()
    client = connect(script)
    with pytest.raises(QMPTimeoutError):
        client.execute("query-slow", timeout=0.02)
    assert client.execute("migrate-pause", oob=True) == "fast"
    go_on.set()
    assert client.query_name() == "right"


def test_a_reply_without_id_is_not_that_of_one_out_of_band(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("migrate-pause")
        peer.answer("query-status", "right", echo=False)

    client = connect(script)
    with pytest.raises(QMPTimeoutError):
        client.execute("migrate-pause", oob=True, timeout=0.02)
    assert client.query_status() == "right"


def test_garbage_in_the_middle(connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.expect("stop")
        peer.send(event("STOP"), b"Segmentation fault\r\n")

    client = connect(script)
    for _ in range(2):
        with pytest.raises(QMPProtocolError, match="Segmentation fault"):
            client.stop()
    assert not client.connected
    assert client.wait_for_event("STOP").name == "STOP"


# -- a peer that does not read ---------------------------------------------------------------------


def test_a_request_that_was_never_sent_is_withdrawn(connect: Connect) -> None:
    go_on = threading.Event()
    large = "x" * 4_000_000

    def script(peer: Peer) -> None:
        peer.wait(go_on)
        assert peer.expect("object-add")["arguments"] == {"data": large}
        peer.send({"return": "large"})
        peer.answer("query-status", "right")

    client = connect(script)
    with pytest.raises(QMPTimeoutError) as begun:
        client.execute("object-add", data=large, timeout=SOON)
    with pytest.raises(QMPTimeoutError, match="not sent and is withdrawn"):
        client.execute("system_reset", timeout=SOON)
    assert "withdrawn" not in str(begun.value)
    go_on.set()
    assert client.query_status() == "right"


def test_a_large_request_is_sent_in_pieces(connect: Connect) -> None:
    large = "x" * 8_000_000
    received: list[int] = []

    def script(peer: Peer) -> None:
        request = peer.request_in_pieces()
        received.append(len(request["arguments"]["data"]))
        peer.reply(request)
        peer.answer("stop")

    client = connect(script)
    client.execute("object-add", data=large)
    client.stop()
    assert received == [len(large)]


# -- descriptors -----------------------------------------------------------------------------------


def test_descriptors_are_passed(connect: Connect, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert request.command == "getfd"
        for number, fd in enumerate(request.fds):
            os.write(fd, b"%d" % number)
            os.close(fd)
        peer.reply(request.message)
        assert peer.request_without_fds("stop")

    client = connect(script)
    files = [tmp_path / name for name in "abc"]
    fds = [os.open(file, os.O_CREAT | os.O_RDWR) for file in files]
    client.execute("getfd", fdname="x", fds=fds)
    client.stop()
    for fd in fds:
        os.close(fd)
    assert [file.read_text() for file in files] == ["0", "1", "2"]


def test_descriptors_that_can_not_be_passed(connect: Connect) -> None:
    client = connect(lambda peer: peer.answer("stop", "after"))
    gone = os.open(os.devnull, os.O_RDONLY)
    os.close(gone)
    with pytest.raises(OSError, match="Bad file descriptor"):
        client.getfd(fdname="x", fds=[gone])
    with pytest.raises(QMPError, match="300 descriptors are more than"):
        client.getfd(fdname="x", fds=[0] * 300)
    assert client.stop() == "after"


def test_no_descriptors_over_tcp(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer("stop")
        peer.wait_for_end()

    with QMPClient.connect(serve(script, tcp=True)) as client:
        with pytest.raises(QMPError, match="not over TCP"):
            client.getfd(fdname="x", fds=[0])
        client.stop()


def test_a_shut_down_peer_is_gone(play: Play) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.sock.shutdown(socket.SHUT_RDWR)
        peer.sock.recv(1)

    client = QMPClient.connect(play(script))
    with pytest.raises(QMPDisconnectedError):
        client.execute("stop", timeout=LIMIT)
    client.close()


# -- the transcript is in its own file; here only that it is kept ----------------------------------


def test_the_last_messages_are_kept(connect: Connect) -> None:
    client = connect(lambda peer: peer.answer("stop"))
    client.stop()
    assert [(direction, data) for _, direction, data in client.transcript][-2:] == [
        (">", b'{"execute":"stop"}'),
        ("<", line({"return": {}})),
    ]
