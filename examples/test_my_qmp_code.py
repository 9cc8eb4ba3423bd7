"""Test your own code that speaks QMP, with no QEMU at all: it talks to a fake one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_qmp import FakeQMPServer, QMPClient, QMPCommandError


def while_paused(address: str, work: Callable[[], None]) -> None:
    """Pause the machine, do something that it must not disturb, let it run again.

    This stands for your own code. It need not use pytest-qmp's client, nor be in Python.
    """
    with QMPClient.connect(address) as qmp:
        qmp.execute("stop")
        try:
            work()
        finally:
            qmp.execute("cont")


def test_works_while_paused(qmp_fake_server: FakeQMPServer) -> None:
    def work() -> None:
        qmp_fake_server.assert_called("stop")
        qmp_fake_server.assert_not_called("cont")

    while_paused(qmp_fake_server.address, work)
    qmp_fake_server.assert_called("cont")


def test_goes_on_after_a_failure(qmp_fake_server: FakeQMPServer) -> None:
    def work() -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        while_paused(qmp_fake_server.address, work)
    qmp_fake_server.assert_called("cont")


def test_does_nothing_when_it_can_not_pause(qmp_fake_server: FakeQMPServer) -> None:
    # What is rare with a real QEMU is one line here.
    qmp_fake_server.on("stop").reply_error("GenericError", "the disk is on fire")
    done: list[str] = []

    with pytest.raises(QMPCommandError, match="on fire"):
        while_paused(qmp_fake_server.address, lambda: done.append("work"))
    assert not done
