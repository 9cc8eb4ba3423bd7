"""What the schema tells: what this QEMU supports, and what a refused argument may have meant."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_qmp import FakeQMPServer, QMPClient, QMPCommandError, VirtualMachine


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("query-status", "", True),
        ("STOP", "", True),
        ("query-staus", "", False),
        ("blockdev-add", "file.filename", True),
        ("blockdev-add", "driver.qcow2", True),
        ("blockdev-add", "driver.no-such", False),
        ("blockdev-add", "file.no-such", False),
        ("SHUTDOWN", "reason", True),
    ],
)
def test_supports(name: str, path: str, expected: bool) -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        assert client.supports(name, path) is expected


def test_the_schema_is_asked_for_once_a_version() -> None:
    with FakeQMPServer("7.2") as server:
        for _ in range(2):
            with QMPClient.connect(server.address) as client:
                assert client.supports("stop")
                assert client.schema.has_event("STOP")
        asked = [call.command for call in server.calls]
    assert asked.count("query-qmp-schema") <= 1
    with FakeQMPServer("10.0") as server, QMPClient.connect(server.address) as client:
        assert not client.schema.has_command("x-exit-preconfig-no-such")
        assert client.schema.has_command("query-stats")


def test_a_command_that_succeeds_costs_no_question() -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        client.query_status()
        assert [call.command for call in server.calls] == ["qmp_capabilities", "query-status"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("query-status", {"verbose": True}, "'query-status' takes no arguments"),
    ("block_resize", {"device": "a", "size": 1, "nodename": "x"}, "did you mean 'node-name'?"),
    ("block_resize", {"device": "a", "siz": 1}, "did you mean 'size' by 'siz'?"),
    ("block_resize", {"device": "a"}, "'block_resize' needs size"),
    ("netdev_add", {"type": "usr", "id": "x"}, "did you mean 'user'? 'type' takes none, nic, "),
    (
        "blockdev-add",
        {"driver": "raw", "file": {"driver": "file", "filenam": "x"}},
        "did you mean 'filename' by 'filenam'?",
    ),
]


@pytest.mark.parametrize(("command", "arguments", "words"), REFUSED)
def test_a_refused_argument_has_a_hint(command: str, arguments: dict[str, Any], words: str) -> None:
    with (
        FakeQMPServer() as server,
        QMPClient.connect(server.address) as client,
        pytest.raises(QMPCommandError) as caught,
    ):
        client.execute(command, arguments)
    assert words in str(caught.value)


@pytest.mark.needs_qemu
@pytest.mark.parametrize(("command", "arguments", "words"), REFUSED)
def test_a_real_qemu_refuses_in_the_same_words(
    command: str, arguments: dict[str, Any], words: str
) -> None:
    with (
        VirtualMachine(machine="none", accel="tcg", consoles=()) as vm,
        pytest.raises(QMPCommandError) as caught,
    ):
        vm.execute(command, arguments)
    assert words in str(caught.value)


def test_a_server_that_knows_no_schema_gives_no_hint() -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        server.on("query-target").reply_error("GenericError", "no")
        with pytest.raises(QMPCommandError) as caught:
            client.execute("query-status", verbose=True)
    assert caught.value.hint == ""


def test_arguments_that_are_no_dict_are_refused_before_they_are_sent() -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        with pytest.raises(TypeError, match="the arguments of 'stop' are a dict, or keywords"):
            client.execute("stop", "now")  # type: ignore[arg-type]
        server.assert_not_called("stop")


def test_pipeline() -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:
        status, name, version = client.pipeline(
            ["query-status", ("query-name", {}), {"execute": "query-version"}]
        )
        assert status["status"] == "running"
        assert name == {}
        assert version["qemu"]["major"] == 11
        assert len(client.pipeline(["query-status"] * 500)) == 500
        with pytest.raises(QMPCommandError, match="query-nothing"):
            client.pipeline(["query-nothing", "stop"])
        server.assert_called("stop")
        errors = client.pipeline(["query-nothing", "cont"], return_exceptions=True)
        assert isinstance(errors[0], QMPCommandError)
        assert errors[1] == {}
        with pytest.raises(TypeError, match="takes a list of commands"):
            client.pipeline("stop")
