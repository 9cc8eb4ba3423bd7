"""human-monitor-command by itself; what it shares with a QEMU is in test_misc_agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_qmp.errors import UnmodelledCommandError
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.human_line import LineFault, read_arguments, read_integer

from .client import LineClient


def human(client: LineClient, line: str) -> str:
    return str(client.execute("human-monitor-command", **{"command-line": line})["return"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0x1F", 31), ("010", 8), ("1+2*3", 7), ("(1+2)*3", 9), ("-1", -1), ("~0", -1),
     ("6/4", 1), ("7%4", 3), ("1|6&3", 3), ("0xffffffffffffffff", -1)],
)  # fmt: skip
def test_expressions(text: str, value: int) -> None:
    assert read_integer(text)[0] == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "unexpected end of expression"), ("x", "invalid char 'x' in expression"),
     ("1/0", "division by zero"), ("(1", "')' expected")],
)  # fmt: skip
def test_what_is_no_expression(text: str, fault: str) -> None:
    with pytest.raises(LineFault) as caught:
        read_integer(text)
    assert str(caught.value) == fault


def test_arguments_of_every_kind() -> None:
    shape = "-f name:s file:F? up:b? size:M?"
    given = read_arguments("c", shape, ' -f "a \\"b\\"" /x off 2')
    assert given == {"-f": True, "name": 'a "b"', "file": "/x", "up": False, "size": 2 << 20}
    assert read_arguments("c", shape, "a") == {"-f": False, "name": "a"}


def test_a_picture_by_the_human_monitor(client: LineClient, tmp_path: Path) -> None:
    assert human(client, f"screendump {tmp_path / 'a'} -f png") == ""
    assert (tmp_path / "a").read_bytes().startswith(b"\x89PNG")


def test_a_line_that_is_not_modelled_is_told(
    make_server: Callable[..., FakeQMPServer], connect: Callable[..., LineClient]
) -> None:
    server = make_server("11.1")
    client = connect(server)
    reply = client.execute("human-monitor-command", **{"command-line": "info mtree"})
    assert "does not model the human monitor's info mtree" in reply["error"]["desc"]
    with pytest.raises(UnmodelledCommandError, match="human-monitor-command"):
        server.check()


def test_a_cpu_has_to_be_there(client: LineClient) -> None:
    arguments = {"command-line": "info status", "cpu-index": 1}
    reply = client.execute("human-monitor-command", **arguments)
    assert reply["error"]["desc"] == "Parameter 'cpu-index' expects a CPU number"
