"""The asynchronous client on a real QEMU."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pytest_qmp import AsyncQMPClient, QMPCommandError, QMPDisconnectedError

from .aio_peer import in_loop

pytestmark = pytest.mark.needs_qemu


def _start(*arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    argv = ["qemu-system-x86_64", "-machine", "none", "-S", "-nodefaults", "-display", "none"]
    return subprocess.Popen([*argv, *arguments], pass_fds=pass_fds)


@asynccontextmanager
async def qemu() -> AsyncIterator[tuple[AsyncQMPClient, subprocess.Popen[bytes]]]:
    """A QEMU over an inherited socket, and its client."""
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        process = _start(
            "-chardev",
            f"socket,id=q,fd={number}",
            "-mon",
            "chardev=q,mode=control",
            pass_fds=(number,),
        )
    try:
        async with await AsyncQMPClient.connect(ours) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()


@in_loop
async def test_commands_events_and_the_end() -> None:
    async with qemu() as (client, process):
        assert (await client.query_status())["status"] == "prelaunch"
        with pytest.raises(QMPCommandError, match="did you mean 'query-status'"):
            await client.execute("query-statuss")
        async with client.expect_event("RESUME"):
            await client.cont()
        stream = client.stream_events()
        await client.stop()
        await client.quit()
        assert [one.name async for one in stream] == ["STOP", "SHUTDOWN"]
        with pytest.raises(QMPDisconnectedError, match="closed the connection"):
            await client.query_status()
        assert await asyncio.to_thread(process.wait, 20) == 0


@in_loop
async def test_a_hundred_tasks_at_once() -> None:
    async with qemu() as (client, _):
        lists = await asyncio.gather(
            *(client.execute("qom-list-properties", typename=name) for name in ["object"] * 50),
            *(client.execute("query-status") for _ in range(50)),
        )
        assert all(isinstance(one, list) for one in lists[:50])
        assert all(one["status"] == "prelaunch" for one in lists[50:])
        results = await client.pipeline(["query-status", ("qom-list", {"path": "/"})] * 50)
        assert all(one["status"] == "prelaunch" for one in results[::2])
        assert all(isinstance(one, list) for one in results[1::2])


@in_loop
async def test_out_of_band() -> None:
    async with qemu() as (client, _):
        with pytest.raises(QMPCommandError) as refused:
            await client.execute("migrate-pause", oob=True)
        assert refused.value.error_class == "GenericError"
        assert "migrate-pause is currently only supported" in refused.value.desc


@in_loop
async def test_a_descriptor_for_qemu(tmp_path: Path) -> None:
    async with qemu() as (client, _):
        with (tmp_path / "given").open("wb") as file:
            added = await client.execute("add-fd", opaque="mine", fds=[file.fileno()])
        sets = await client.query_fdsets()
        assert sets[0]["fdset-id"] == added["fdset-id"]
        assert sets[0]["fds"][0]["opaque"] == "mine"


@in_loop
async def test_the_largest_reply_and_cancelling_it() -> None:
    async with qemu() as (client, _):
        schema = await client.query_qmp_schema()
        for turns in range(40):
            call = asyncio.create_task(client.query_qmp_schema())
            for _ in range(turns % 7):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert (await client.query_status())["status"] == "prelaunch"
        assert await client.query_qmp_schema() == schema


@in_loop
async def test_a_qemu_that_is_killed_in_the_middle_of_a_wait() -> None:
    async with qemu() as (client, process):
        waiting = asyncio.create_task(client.wait_for_event("STOP", timeout=None))
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(QMPDisconnectedError, match="closed the connection while the event"):
            await waiting


@in_loop
async def test_a_qemu_that_serves_or_connects(tmp_path: Path) -> None:
    path = tmp_path / "qemu.sock"
    process = _start("-qmp", f"unix:{path},server=on,wait=off")
    try:
        # Not there yet when this is first tried.
        async with await AsyncQMPClient.connect(path) as client:
            await client.reconnect()
            assert (await client.query_status())["status"] == "prelaunch"
    finally:
        process.kill()
        process.wait()
    path = tmp_path / "ours.sock"
    async with AsyncQMPClient.listen(path) as client:
        process = _start("-qmp", f"unix:{path},server=off")
        try:
            await client.accept()
            assert (await client.query_status())["status"] == "prelaunch"
        finally:
            process.kill()
            process.wait()
