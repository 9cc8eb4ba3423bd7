"""Stubs: what they answer, which one answers, and what they refuse to say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest

from pytest_qmp.errors import FakeQMPServerError, QMPCommandError
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.commands import HANDLERS

from .client import LineClient

Connect = Callable[..., LineClient]
OST = {"info": {"slot": "0", "slot-type": "DIMM", "source": 1, "status": 0}}
BALLOON = {"return": {"actual": 5}}


def test_a_stub_answers_what_is_not_modelled(server: FakeQMPServer, client: LineClient) -> None:
    server.on("query-balloon").reply({"actual": 5})
    assert client.execute("query-balloon") == BALLOON
    server.check()


def test_without_a_value_it_returns_what_most_commands_do(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("device_del").reply()
    assert client.execute("device_del", id="x") == {"return": {}}


def test_an_error(server: FakeQMPServer, client: LineClient) -> None:
    server.on("balloon").reply_error("DeviceNotActive", "No balloon")
    assert client.execute("balloon", value=1) == {
        "error": {"class": "DeviceNotActive", "desc": "No balloon"}
    }


def test_the_most_specific_then_the_latest_stub_serves(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("device_del", id="a").reply_error("GenericError", "special")
    server.on("device_del").reply_error("GenericError", "old")
    server.on("device_del").reply_error("GenericError", "new")
    assert client.execute("device_del", id="a")["error"]["desc"] == "special"
    assert client.execute("device_del", id="b")["error"]["desc"] == "new"


def test_once_serves_once_in_the_order_of_writing(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("query-balloon").reply({"actual": 1}).once()
    server.on("query-balloon").reply({"actual": 2}).once()
    server.on("query-balloon").reply({"actual": 3})
    actual = [client.execute("query-balloon")["return"]["actual"] for _ in range(4)]
    assert actual == [1, 2, 3, 3]


def test_keywords_are_dashed_unless_qemus_own_name_is_not(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("blockdev-add", node_name="n").reply_error("GenericError", "dash")
    server.on("block_set_io_throttle", bps_rd=1).reply_error("GenericError", "underscore")
    server.on("device_add", driver="d", disable_s3=1).reply_error("GenericError", "property")
    reply = client.execute("blockdev-add", **{"driver": "null-co", "node-name": "n"})
    assert reply["error"]["desc"] == "dash"
    throttle = dict.fromkeys(("bps", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    reply = client.execute("block_set_io_throttle", id="x", bps_rd=1, **throttle)
    assert reply["error"]["desc"] == "underscore"
    reply = client.execute("device_add", driver="d", disable_s3=1)
    assert reply["error"]["desc"] == "property"


def test_arguments_match_in_part_at_any_depth(server: FakeQMPServer, client: LineClient) -> None:
    server.on("blockdev-add", file={"driver": "file"}).reply_error("GenericError", "matched")
    file = {"driver": "file", "filename": "x"}
    assert client.execute("blockdev-add", driver="raw", file=file)["error"]["desc"] == "matched"


def test_a_function_gets_the_arguments_and_may_refuse(
    server: FakeQMPServer, client: LineClient
) -> None:
    def balloon(arguments: dict[str, int]) -> None:
        if arguments["value"] > 10:
            raise QMPCommandError("GenericError", "too much")

    server.on("balloon").call(balloon)
    assert client.execute("balloon", value=3) == {"return": {}}
    assert client.execute("balloon", value=30)["error"]["desc"] == "too much"
    server.check()


def test_a_function_that_breaks_down_is_answered_and_raised_by_check(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("balloon").call(lambda arguments: 1 // 0)
    error = client.execute("balloon", value=3)["error"]
    assert error["class"] == "GenericError"
    assert "broke down in balloon" in error["desc"]
    with pytest.raises(FakeQMPServerError, match=r"(?s)Traceback.*ZeroDivisionError"):
        server.check()
    server.check()


def test_a_function_that_returns_what_qemu_could_not_is_raised_by_check(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("query-balloon").call(lambda arguments: {"actual": "much"})
    assert "error" in client.execute("query-balloon")
    with pytest.raises(FakeQMPServerError, match="'actual', expected: integer"):
        server.check()


def test_a_function_that_does_not_return_keeps_close_from_hanging(
    client: LineClient, server: FakeQMPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_qmp.fake.server._PATIENCE", 0.05)
    entered, release = threading.Event(), threading.Event()

    def block(arguments: dict[str, int]) -> None:
        entered.set()
        release.wait(10)

    server.on("balloon").call(block)
    client.send({"execute": "balloon", "arguments": {"value": 1}})
    assert entered.wait(10)
    with pytest.raises(FakeQMPServerError, match="has not returned"):
        server.close()
    release.set()
    assert client.read() == {"return": {}}


def test_a_delayed_answer_keeps_its_monitor_waiting_and_no_other(
    server: FakeQMPServer, connect: Connect
) -> None:
    slow, other = connect(server), connect(server)
    server.on("query-balloon").delay(0.1).reply({"actual": 5})
    start = time.monotonic()
    slow.send_raw(b'{"execute":"query-balloon"}{"execute":"query-name","id":"behind"}')
    assert other.status() == "running"
    assert time.monotonic() - start < 0.1
    assert slow.read() == BALLOON
    assert time.monotonic() - start >= 0.1
    assert slow.read()["id"] == "behind"


def test_a_delay_alone_leaves_the_answer_to_the_model(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("stop").delay(0.01)
    assert client.events_then_reply("stop") == (["STOP"], {"return": {}})


def test_a_client_may_leave_before_a_delayed_answer(
    server: FakeQMPServer, connect: Connect
) -> None:
    server.on("query-balloon").delay(0.02).reply({"actual": 5})
    gone, client = connect(server), connect(server)
    gone.send({"execute": "query-balloon"})
    gone.close()
    assert client.execute("query-balloon") == BALLOON


def test_disconnect_and_drop_reply(server: FakeQMPServer, connect: Connect) -> None:
    server.on("balloon", value=1).drop_reply().reply()
    server.on("balloon", value=2).disconnect()
    client = connect(server)
    client.send({"execute": "balloon", "arguments": {"value": 1}})
    assert client.execute("query-name") == {"return": {}}
    client.send({"execute": "balloon", "arguments": {"value": 2}})
    assert client.at_eof()
    assert server.exit_status is None


def test_a_stub_may_refuse_the_negotiation(server: FakeQMPServer, connect: Connect) -> None:
    server.on("qmp_capabilities").reply_error("GenericError", "no").once()
    client = connect(server, negotiate=False)
    client.read()
    assert "error" in client.execute("qmp_capabilities")
    assert client.execute("qmp_capabilities") == {"return": {}}
    assert client.status() == "running"


def test_a_stub_does_not_undo_the_check_of_the_arguments(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("balloon").reply()
    assert client.execute("balloon")["error"]["desc"] == "Parameter 'value' is missing"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda s: s.on("query-balon"), "did you mean 'query-balloon'"),
        (lambda s: s.on("balloon", val=1), "no argument 'val': did you mean 'value'"),
        (lambda s: s.on("query-balloon").reply({}), "member 'actual' is missing"),
        (lambda s: s.on("query-balloon").reply({"actual": 1, "x": 1}), "'x' is unexpected"),
        (lambda s: s.on("query-balloon").reply({"actual": "5"}), "expected: integer"),
        (lambda s: s.on("query-status").reply({"status": "on", "running": True}), "'on'"),
        (lambda s: s.on("query-block").reply({}), "expected: array"),
        (lambda s: s.on("stop").reply({"x": 1}), "'x' is unexpected"),
        (lambda s: s.on("stop").reply({"x": object()}), "can't be sent"),
        (lambda s: s.on("stop").reply_error("Oops", "x"), "no error class 'Oops'"),
        (lambda s: s.on("stop").delay(-1), "negative"),
        (lambda s: s.on("stop").times(0), "can't serve 0 calls"),
        (lambda s: s.on("stop").eof_mid_line(-1), "can't be cut after -1"),
        (lambda s: s.on("stop").then_emit("STOP", after=-1), "can't come before its reply"),
        (lambda s: s.on("stop").then_emit("STOP", {"x": 1}), "'x' is unexpected"),
        (lambda s: s.on("stop").emit_before("STOPP"), "did you mean 'STOP'"),
        (lambda s: s.emit("BALLOON_CHANGE", {"actual": 2**64}), "expected: integer"),
        (lambda s: s.on("query-balloon").reply({"actual": True}), "expected: integer"),
        (lambda s: s.on("query-blockstats").reply([{"stats": {}}]), "'[0].stats"),
        (lambda s: s.emit("STOPP"), "no event 'STOPP': did you mean 'STOP'"),
        (lambda s: s.emit("SHUTDOWN"), "member 'guest' is missing"),
        (lambda s: s.emit("STOP", {"x": 1}), "'x' is unexpected"),
    ],
)
def test_what_no_qemu_could_say_is_refused_where_it_is_written(
    server: FakeQMPServer, write: Callable[[FakeQMPServer], object], message: str
) -> None:
    with pytest.raises(FakeQMPServerError) as caught:
        write(server)
    assert message in str(caught.value)


def test_a_server_that_is_not_strict_says_anything(connect: Connect) -> None:
    with FakeQMPServer("7.2", strict=False) as server:
        client = connect(server)
        server.on("x-invented", foo=1).reply([1.5])
        server.on("query-status").reply("fine")
        server.emit("INVENTED", {"x": 1})
        assert client.read()["data"] == {"x": 1}
        assert client.execute("x-invented", foo=1) == {"return": [1.5]}
        assert client.execute("query-status") == {"return": "fine"}
        assert client.execute("x-other")["error"]["class"] == "CommandNotFound"


def test_events_have_the_time_and_what_was_given(server: FakeQMPServer, client: LineClient) -> None:
    before = time.time()
    server.emit("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
    line = client.read_raw()
    assert line.startswith(b'{"timestamp": {"seconds": ')
    event = json.loads(line)
    stamp = event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6
    assert before - 0.001 <= stamp <= time.time()
    assert event["data"] == {"guest": True, "reason": "guest-shutdown"}


def test_calls_are_recorded(server: FakeQMPServer, client: LineClient) -> None:
    client.send({"execute": "query-name", "id": "mine"})
    client.read()
    client.execute("set_link", name="n", up=True)
    name, link = server.calls[-2:]
    assert (name.command, name.arguments, name.id) == ("query-name", {}, "mine")
    assert (link.command, link.arguments, link.id) == ("set_link", {"name": "n", "up": True}, None)


def test_asserting_calls(server: FakeQMPServer, client: LineClient) -> None:
    server.on("set_link").reply()
    client.execute("set_link", name="n", up=True)
    server.assert_called("set_link")
    server.assert_called("set_link", up=True)
    server.assert_called_once("set_link", up=True)
    server.assert_called("set_link", times=1)
    server.assert_called("set_link", times=0, up=False)
    server.assert_not_called("set_link", up=False)
    server.assert_not_called("stop")
    assert [call.arguments["name"] for call in server.calls_of("set_link", up=True)] == ["n"]
    assert server.calls_of("set_link", up=False) == []
    with pytest.raises(AssertionError) as caught:
        server.assert_called("set_link", times=2, up=True)
    assert str(caught.value) == (
        "set_link(up=True) was sent once, not 2 times:\n  set_link(name='n', up=True)"
    )
    with pytest.raises(AssertionError) as caught:
        server.assert_not_called("set_link")
    assert str(caught.value) == "set_link() was sent once:\n  set_link(name='n', up=True)"
    with pytest.raises(AssertionError, match=r"(?s)stop\(\) was never sent; what came.*set_link"):
        server.assert_called("stop")
    with pytest.raises(FakeQMPServerError, match="takes no argument 'nam'"):
        server.assert_called("set_link", nam="n")


def test_a_call_that_was_missed_is_shown_beside_the_nearest(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("blockdev-add").reply()
    file = {"driver": "file", "filename": "a.img"}
    client.execute("blockdev-add", **{"driver": "null-co", "node-name": "far", "read-only": True})
    client.execute("blockdev-add", **{"driver": "qcow2", "node-name": "near", "file": file})
    with pytest.raises(AssertionError) as caught:
        server.assert_called(
            "blockdev-add", driver="qcow2", file={"filename": "b.img", "locking": "off"}
        )
    assert str(caught.value).splitlines()[1:] == [
        "  blockdev-add(driver='qcow2', node-name='near', "
        "file={'driver': 'file', 'filename': 'a.img'})",
        "    > file.filename: wanted 'b.img', came 'a.img'",
        "    > file.locking: wanted 'off', was not given",
        "  blockdev-add(driver='null-co', node-name='far', read-only=True)",
        "    > driver: wanted 'qcow2', came 'null-co'",
        "    > file: wanted {'filename': 'b.img', 'locking': 'off'}, was not given",
    ]


def test_a_stub_serves_so_many_times(server: FakeQMPServer, client: LineClient) -> None:
    server.on("query-balloon").reply({"actual": 1}).times(2)
    server.on("query-balloon").reply({"actual": 2})
    actual = [client.execute("query-balloon")["return"]["actual"] for _ in range(4)]
    assert actual == [1, 1, 2, 2]


def test_events_before_and_after_a_reply(make_server: Callable[..., FakeQMPServer]) -> None:
    server = make_server(virtual_time=True)
    client = LineClient(server.open_monitor())
    deleted = {"device": "net0", "path": "/machine/peripheral/net0"}
    stub = server.on("device_del").reply().emit_before("ACPI_DEVICE_OST", OST)
    stub.then_emit("DEVICE_DELETED", deleted).then_emit("RESUME", after=5)
    assert client.events_then_reply("device_del", id="net0") == (
        ["ACPI_DEVICE_OST"],
        {"return": {}},
    )
    event = client.read()
    assert (event["event"], event["data"]) == ("DEVICE_DELETED", deleted)
    assert client.status() == "running"
    server.advance(5)
    assert client.read()["event"] == "RESUME"
    client.close()


def test_an_event_inside_the_handshake(server: FakeQMPServer, connect: Connect) -> None:
    server.on("qmp_capabilities").emit_before("RESUME").then_emit("STOP")
    client = connect(server, negotiate=False)
    assert "QMP" in client.read()
    client.send({"execute": "qmp_capabilities"})
    assert [client.read() for _ in range(3)][1] == {"return": {}}


def test_a_reply_that_comes_twice_with_a_wrong_id_or_in_part(
    server: FakeQMPServer, connect: Connect
) -> None:
    server.on("query-name").duplicate_reply()
    server.on("query-uuid").wrong_id(77)
    server.on("query-status").eof_mid_line(12)
    client = connect(server)
    assert client.execute("query-name") == client.read() == {"return": {}}
    client.send({"execute": "query-uuid", "id": 1})
    assert client.read()["id"] == 77
    client.send({"execute": "query-status"})
    assert client.read_raw() == b'{"return": {'
    assert client.at_eof()
    assert connect(server).execute("query-version")["return"]


def test_what_the_model_says_is_checked_as_well(
    server: FakeQMPServer, client: LineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HANDLERS, "query-name", lambda context, arguments: {"nam": "x"})
    assert "broke down in query-name" in client.execute("query-name")["error"]["desc"]
    with pytest.raises(FakeQMPServerError, match="member 'nam' is unexpected"):
        server.check()


def test_a_slip_in_the_test_is_told_at_once(server: FakeQMPServer) -> None:
    with pytest.raises(FakeQMPServerError, match="did you mean 'device_del'"):
        server.assert_not_called("device_dell")
    with pytest.raises(FakeQMPServerError, match=r"reply\(\) answers with a value"):
        server.on("query-name").call({"name": "x"})  # type: ignore[arg-type]
    with pytest.raises(FakeQMPServerError, match="list of arguments, not one text: '-S'"):
        FakeQMPServer(args="-S")
    with pytest.raises(FakeQMPServerError, match="not to 'erase'"):
        server.guest.io_error("disk0", operation="erase")
    FakeQMPServer(strict=False).assert_not_called("device_dell")


def test_a_verdict_of_a_function_reaches_the_test(
    server: FakeQMPServer, client: LineClient
) -> None:
    server.on("cont").call(lambda arguments: pytest.fail("it must not go on"))
    assert "broke down in cont" in client.execute("cont")["error"]["desc"]
    with pytest.raises(FakeQMPServerError, match="it must not go on"):
        server.check()
    # The server goes on.
    assert client.execute("query-name") == {"return": {}}


def test_a_verdict_of_a_scripted_console_reaches_the_test(server: FakeQMPServer) -> None:
    server.guest.on_console("x", lambda match: pytest.fail("nobody was to type"))
    console = server.open_console()
    console.settimeout(10)
    console.sendall(b"x")
    assert console.recv(1) == b""
    console.close()
    with pytest.raises(FakeQMPServerError, match="nobody was to type"):
        server.check()
