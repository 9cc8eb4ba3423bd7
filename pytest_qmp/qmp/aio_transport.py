"""Sockets under asyncio: to a server, and from one that connects to us."""

from __future__ import annotations

import asyncio
import os
import socket

from pytest_qmp.errors import QMPConnectError, QMPTimeoutError
from pytest_qmp.qmp.address import Address
from pytest_qmp.qmp.aio_connection import pause, release
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.transport import Listener, nobody_there, refuse_hopeless

__all__ = ["AsyncListener", "connect_socket"]

_FIRST_RETRY = 0.001
_LONGEST_RETRY = 0.05


class AsyncListener:
    """Waits for a server that connects to us (QEMU with ``server=off``).

    Args:
        address: where to listen.

    Raises:
        QMPConnectError: if the address can't be listened at.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._listener = Listener(address)
        self._waiting: set[asyncio.Future[None]] = set()

    async def accept(self, deadline: Deadline) -> socket.socket:
        """The next connection.

        Raises:
            QMPTimeoutError: if nobody connects before the deadline.
            QMPDisconnectedError: if it is closed, or gets closed meanwhile.
        """
        while True:
            last = deadline.expired
            try:
                return self._listener.accept(deadline if last else Deadline(0))
            except QMPTimeoutError:
                if last:
                    raise
            await self._await_somebody(deadline)

    async def _await_somebody(self, deadline: Deadline) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.add_reader(self._listener, self._wake)
        self._waiting.add(future)
        try:
            await pause(future, deadline)
        finally:
            self._waiting.remove(future)
            if not self._waiting and self._listener.fileno() >= 0:
                loop.remove_reader(self._listener)

    def _wake(self) -> None:
        for future in self._waiting:
            release(future)

    def close(self) -> None:
        """Stops listening, ends waits and removes the unix socket's file. Idempotent."""
        if self._listener.fileno() >= 0:
            for future in self._waiting:
                future.get_loop().remove_reader(self._listener)
        self._wake()
        self._listener.close()


async def connect_socket(address: Address, deadline: Deadline) -> socket.socket:
    """Connects, trying again while the server is not there yet.

    Args:
        address: where.
        deadline: of all tries together.

    Raises:
        QMPConnectError: at once when no retry can help, else at the deadline.
    """
    family, sockaddr = await _resolve(address, deadline)
    retry = _FIRST_RETRY
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await _connect(sock, sockaddr, deadline)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            refuse_hopeless(address, error)
            left = deadline.remaining()
            if left is not None and left <= 0:
                raise nobody_there(address, error, deadline) from error
            # There is no descriptor to wait on for a socket that does not exist yet.
            await asyncio.sleep(retry if left is None else min(retry, left))
            retry = min(retry * 2, _LONGEST_RETRY)
        except BaseException:
            sock.close()
            raise


async def _connect(
    sock: socket.socket, sockaddr: str | tuple[str, int], deadline: Deadline
) -> None:
    # Not loop.sock_connect: it takes a unix socket whose queue is full for connected.
    try:
        sock.connect(sockaddr)
    except BlockingIOError:
        if sock.family == socket.AF_UNIX:
            raise
    else:
        return
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_writer(sock, release, future)
    try:
        await pause(future, deadline)
    finally:
        loop.remove_writer(sock)
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    try:
        sock.getpeername()
    except OSError:
        raise TimeoutError("timed out") from None


async def _resolve(
    address: Address, deadline: Deadline
) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.path is not None or _is_numeric(address.host):
        return address.sockaddr()
    # Asking a name server blocks, which would stop every task of the loop.
    asked = asyncio.get_running_loop().run_in_executor(None, address.sockaddr)
    try:
        await asyncio.wait([asked], timeout=deadline.remaining())
    finally:
        if not asked.done():
            asked.cancel()
    if asked.cancelled():
        raise QMPConnectError(
            f"can't connect to {address}: its host name was not resolved within "
            f"{deadline.words}. Give the host's address as a number"
        )
    return asked.result()


def _is_numeric(host: str | None) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True
