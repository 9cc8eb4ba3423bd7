"""Servers and clients that are closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.core import Core

from .client import LineClient


@pytest.fixture(autouse=True, scope="session")
def _check_the_model() -> Iterator[None]:
    """A reply or an event that no QEMU could have sent is a fault of the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Core, "checks_model", True)
        yield


@pytest.fixture
def make_server() -> Iterator[Callable[..., FakeQMPServer]]:
    servers: list[FakeQMPServer] = []

    def make(*args: Any, **kwargs: Any) -> FakeQMPServer:
        servers.append(FakeQMPServer(*args, **kwargs))
        return servers[-1].start()

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., FakeQMPServer]) -> FakeQMPServer:
    return make_server()


@pytest.fixture
def connect() -> Iterator[Callable[..., LineClient]]:
    clients: list[LineClient] = []

    def connect(server: FakeQMPServer, **kwargs: Any) -> LineClient:
        clients.append(LineClient(server.open_monitor(), **kwargs))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(server: FakeQMPServer, connect: Callable[..., LineClient]) -> LineClient:
    return connect(server)
