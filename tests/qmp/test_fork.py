"""A client and the processes that are forked from its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from pytest_qmp import FakeQMPServer, QMPClient, QMPError


def in_a_fork(run: Callable[[], str]) -> str:
    """What a function returns in a forked child, or its error as text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of the parent's may run on here: not its tests, nor what it does at its end.
        try:
            text = run()
        except QMPError as error:
            text = str(error)
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_is_told_to_connect_anew_and_harms_nothing() -> None:
    with FakeQMPServer() as server, QMPClient.connect(server.address) as client:

        def use() -> str:
            client.query_status()
            return "it worked"

        def close() -> str:
            client.close()
            return "closed"

        told = in_a_fork(use)
        assert f"belongs to process {os.getpid()}, of which this one is a fork" in told
        assert "Connect anew" in told
        assert in_a_fork(lambda: client.wait_for_event("STOP").name) == told
        assert in_a_fork(close) == "closed"
        assert client.query_status()["status"] == "running"
