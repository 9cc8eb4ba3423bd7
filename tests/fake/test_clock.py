"""The machine's time: real, virtual, moved on."""

from __future__ import annotations

import time

import pytest

from pytest_qmp import FakeQMPServer, QMPClient, QMPTimeoutError


def test_advancing_brings_a_delayed_reply_at_once() -> None:
    with FakeQMPServer("11.1") as server, QMPClient.connect(server.address) as client:
        server.on("query-status").delay(3600)
        with pytest.raises(QMPTimeoutError):
            client.execute("query-status", timeout=0.05)
        began = time.monotonic()
        server.advance(3600)
        assert client.execute("query-name") == {}
        assert time.monotonic() - began < 5


def test_virtual_time_stands_still_until_it_is_moved() -> None:
    with (
        FakeQMPServer("11.1", virtual_time=True) as server,
        QMPClient.connect(server.address) as client,
    ):
        server.on("query-status").delay(0.01)
        with pytest.raises(QMPTimeoutError):
            client.execute("query-status", timeout=0.1)
        server.advance(0.01)
        assert client.execute("query-name") == {}


def test_time_does_not_go_back() -> None:
    with FakeQMPServer("11.1") as server, pytest.raises(ValueError, match="can't go back"):
        server.advance(-1)
