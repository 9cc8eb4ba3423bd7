"""Whatever comes is answered as QEMU answers it, or ends in an error that the test is shown."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.commands import HANDLERS
from pytest_qmp.fake.core import Core
from pytest_qmp.fake.emitter import emit
from pytest_qmp.fake.integers import integer_fault

from .client import LineClient
from .test_same_behaviour import VERSIONS, binary_of
from .test_wire import RESET, answers, negotiated

ROOT = Path(__file__).resolve().parents[2]
FUZZER = ROOT / "scripts" / "fuzz_fake.py"
LIMIT = 30.0
MILLION = 1 << 20


@pytest.mark.needs_qemu
@pytest.mark.parametrize("version", VERSIONS)
def test_random_things_get_the_same_answers(version: str) -> None:
    binary = binary_of(version)
    if binary is None:
        pytest.skip(f"there is no QEMU {version} here; scripts/unpack-qemu gets one")
    done = subprocess.run(
        [sys.executable, FUZZER, "--emulate", version, "--against", binary, "--seconds", "5"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_an_id_of_any_depth_comes_back(version: str) -> None:
    deep = b"[" * 1023 + b"]" * 1023
    sent = b'{"execute":"query-name","id":' + deep + b"}"
    assert answers(version, [sent]) == b'{"return": {}, "id": ' + deep + b"}\r\n"
    # The limit is of brackets of both kinds together.
    too_deep = b'{"execute":"query-name","id":[' + deep + b"]}"
    assert b"JSON nesting depth limit exceeded" in answers(version, [too_deep])


def test_what_is_deep_is_written_on_lines_too() -> None:
    value: object = 1
    for _ in range(5000):
        value = [value]
    lines = emit(value, pretty=True).splitlines()
    assert len(lines) == 10001
    assert lines[5000] == " " * 4 * 5000 + "1"


def test_a_long_string_in_many_pieces_takes_its_share_of_time() -> None:
    def seconds(size: int) -> float:
        session = negotiated("11.1")
        start = time.process_time()
        session.receive(b'{"execute":"')
        for _ in range(size // 4096):
            session.receive(b"x" * 4096)
        session.receive(b'"}' + RESET)
        return time.process_time() - start

    short, long = seconds(MILLION), seconds(16 * MILLION)
    assert long < 16 * max(short, 0.02) * 4


@pytest.mark.parametrize("version", VERSIONS)
def test_too_large_a_token_is_refused(version: str) -> None:
    session = negotiated(version)
    session.receive(b'["')
    for _ in range(65):
        session.receive(b"x" * MILLION)
    session.receive(b'"]')
    assert b"JSON token size limit exceeded" in session.outgoing


@pytest.mark.parametrize(
    ("version", "shown"), [("7.2", 1101), ("10.0", 1101), ("11.1", 1023 - len("stray '"))]
)
def test_how_much_of_a_stray_token_is_shown(version: str, shown: int) -> None:
    said = answers(version, [b'"' + b"a" * 1100 + RESET])
    assert said.count(b"a") == shown - 1 + said.count(b"pa") + said.count(b"ra") + said.count(b"la")


def test_nothing_more_is_said_of_what_was_refused() -> None:
    assert answers("11.1", [b"{x" + RESET]).count(b"error") == 2
    assert answers("7.2", [b"{x" + RESET]).count(b"desc") == 1


def test_a_name_with_a_nul_is_hashed_as_qemu_keeps_it() -> None:
    sent = b'{"execute":"query-name","arguments":{"\\u0000":1,"zq":1,"\xc3\xa9":1,"":1}}'
    assert b"Parameter '\\u00E9' is unexpected" in answers("7.2", [sent])


@pytest.mark.parametrize(
    ("command", "siblings", "path", "value", "fault"),
    [
        ("pmemsave", ["val", "size", "filename"], "val", -2, ""),
        ("pmemsave", ["val", "size", "filename"], "val", 1.5, "Parameter 'val' expects uint64"),
        ("set-numa-node", ["node-id", "core-id"], "node-id", -1, ""),
        (
            "set-numa-node",
            ["node-id", "line"],
            "node-id",
            -1,
            "Parameter 'node-id' expects uint32_t",
        ),
        ("netdev_add", ["chardev", "vhostforce", "queues"], "queues", 2**40, ""),
        (
            "netdev_add",
            ["ifname", "queues"],
            "queues",
            2**40,
            "Parameter 'queues' expects uint32_t",
        ),
        ("x", ["host-nodes"], "host-nodes[0]", 2**16, "Parameter 'null' expects uint16_t"),
        (
            "x",
            ["temperature"],
            "temperature",
            -(2**15) - 1,
            "Parameter 'temperature' expects int16_t",
        ),
    ],
)
def test_widths_of_integers(
    command: str, siblings: list[str], path: str, value: object, fault: str
) -> None:
    leaf = None if path.endswith("]") else path
    said = integer_fault(command, siblings, path, leaf, value, is_later=True)
    assert said == fault


def test_it_was_signed_before() -> None:
    fault = integer_fault("pmemsave", ["val"], "val", "val", 2**63, is_later=False)
    assert fault == "Invalid parameter type for 'val', expected: integer"


@pytest.fixture
def quiet_server(make_server: Callable[..., FakeQMPServer]) -> FakeQMPServer:
    return make_server("11.1", args=["-S"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=200), max_size=6))
def test_any_bytes_on_a_socket(quiet_server: FakeQMPServer, pieces: list[bytes]) -> None:
    sock = quiet_server.open_monitor()
    sock.settimeout(LIMIT)
    for piece in pieces:
        sock.sendall(piece)
    sock.sendall(RESET + b'{"execute":"qmp_capabilities","id":"last"}')
    seen = b""
    while b'"id": "last"' not in seen:
        data = sock.recv(65536)
        assert data, seen
        seen += data
    sock.close()
    quiet_server.check()


def test_a_client_that_floods_and_never_reads(server: FakeQMPServer) -> None:
    sock = server.open_monitor()
    sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        sock.sendall(b'{"execute":"query-qmp-schema"}' * 1_000_000)
    other = LineClient(server.open_monitor())
    assert other.execute("query-name") == {"return": {}}
    other.close()
    sock.close()


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_half_a_message_then_the_end(server: FakeQMPServer, how: int) -> None:
    sock = server.open_monitor()
    sock.sendall(b'{"execute":"qmp_capabil')
    sock.shutdown(how)
    other = LineClient(server.open_monitor())
    assert other.execute("query-name") == {"return": {}}
    other.close()
    sock.close()
    server.check()


def test_a_fault_of_the_fake_is_answered_and_raised_with_its_traceback(
    server: FakeQMPServer, client: LineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: object, arguments: object) -> object:
        raise ZeroDivisionError("of the model")

    monkeypatch.setitem(HANDLERS, "query-name", broken)
    assert "broke down in query-name" in client.execute("query-name")["error"]["desc"]
    with pytest.raises(FakeQMPServerError, match=r"(?s)Traceback.*ZeroDivisionError: of the model"):
        server.check()


def test_a_fault_outside_of_any_command_ends_the_server(
    server: FakeQMPServer, client: LineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(core: Core) -> None:
        raise ZeroDivisionError("of the thread")

    monkeypatch.setattr(Core, "settle", broken)
    client.send_raw(b" ")
    assert client.at_eof()
    assert server.wait_exit(LIMIT) == -6
    with pytest.raises(FakeQMPServerError, match="of the thread"):
        server.check()
    assert threading.active_count() < 20
