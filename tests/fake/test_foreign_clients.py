"""Other people's QMP clients talk to the fake, and find nothing strange in it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_qmp.fake import FakeQMPServer

VERSIONS = ("7.2", "10.0", "11.1")
LIMIT = 20.0
FAKE = [sys.executable, "-m", "pytest_qmp", "fake"]
MakeServer = Callable[..., FakeQMPServer]


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, make_server: MakeServer) -> FakeQMPServer:
    return make_server(request.param, args=["-S"])


# -- qemu.qmp ----------------------------------------------------------------------------------


def test_qemu_qmp(server: FakeQMPServer) -> None:
    qmp = pytest.importorskip("qemu.qmp", reason="qemu.qmp is not installed")

    async def talk() -> None:
        client = qmp.QMPClient("test")
        await client.connect(server.address)
        micro = client.greeting.QMP.version["qemu"]["micro"]
        assert (await client.execute("query-version"))["qemu"]["micro"] == micro
        with client.listener(["STOP", "RESUME"]) as listener:
            await client.execute("cont")
            assert (await listener.get())["event"] == "RESUME"
            await client.execute("stop")
            assert (await listener.get())["event"] == "STOP"
        # A line of over 200 kB.
        schema = await client.execute("query-qmp-schema")
        assert "blockdev-add" in {entity["name"] for entity in schema}
        with pytest.raises(qmp.ExecuteError, match="not been found"):
            await client.execute("query-nothing")
        with pytest.raises(qmp.ExecuteError, match="Parameter 'id' is missing"):
            await client.execute("device_del")
        replies = await asyncio.gather(*(client.execute("query-status") for _ in range(20)))
        assert {reply["status"] for reply in replies} == {"paused"}
        await client.execute("quit")
        # It is told of the end of a QEMU in this way, a real one's as well.
        with contextlib.suppress(EOFError):
            await client.disconnect()

    asyncio.run(asyncio.wait_for(talk(), LIMIT))
    assert server.wait_exit(LIMIT) == 0
    server.check()


def test_qemu_qmp_is_told_when_qemu_dies(server: FakeQMPServer) -> None:
    qmp = pytest.importorskip("qemu.qmp", reason="qemu.qmp is not installed")
    server.on("query-status").disconnect()

    async def talk() -> None:
        client = qmp.QMPClient("test")
        await client.connect(server.address)
        with pytest.raises(qmp.ExecInterruptedError):
            await client.execute("query-status")
        with pytest.raises(EOFError):
            await client.disconnect()

    asyncio.run(asyncio.wait_for(talk(), LIMIT))


@pytest.fixture
def own_event_loop() -> Iterator[None]:
    """What a client finds as its thread's event loop, and leaves open behind it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.usefixtures("own_event_loop")
def test_qemu_qmp_legacy(server: FakeQMPServer) -> None:
    legacy = pytest.importorskip("qemu.qmp.legacy", reason="qemu.qmp is not installed")
    client = legacy.QEMUMonitorProtocol(server.address)
    client.settimeout(LIMIT)
    greeting = client.connect()
    assert greeting["QMP"]["capabilities"] == ["oob"]
    assert client.cmd("query-status")["status"] == "prelaunch"
    client.cmd("cont")
    assert client.pull_event(wait=LIMIT)["event"] == "RESUME"
    reply = client.cmd_raw("device_del", {"id": 1})
    assert reply["error"]["desc"] == "Invalid parameter type for 'id', expected: string"
    server.guest.reset()
    assert client.pull_event(wait=LIMIT)["data"] == {"guest": True, "reason": "guest-reset"}
    client.cmd("quit")
    with contextlib.suppress(EOFError):
        client.close()
    assert server.wait_exit(LIMIT) == 0
    server.check()


@pytest.mark.parametrize("options", [[], ["-v", "-p"], ["-N"]], ids=["plain", "pretty", "skip"])
def test_qmp_shell(server: FakeQMPServer, options: list[str]) -> None:
    pytest.importorskip("qemu.qmp.qmp_shell", reason="qemu.qmp is not installed")
    if options == ["-N"]:
        # Without negotiation only this works.
        lines = ["query-status", "qmp_capabilities", "query-name"]
    else:
        lines = ["query-status", "cont", "set-action reboot=shutdown", "device_del", "query-name"]
    done = subprocess.run(
        [sys.executable, "-m", "qemu.qmp.qmp_shell", *options, server.address],
        input="\n".join([*lines, ""]),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    if options == ["-N"]:
        assert "Expecting capabilities negotiation" in done.stdout
    else:
        assert "prelaunch" in done.stdout
        assert "Parameter 'id' is missing" in done.stdout
        server.assert_called("set-action", reboot="shutdown")
    server.assert_called_once("query-name")


# -- the old qmp package -------------------------------------------------------------------------


def test_old_qmp(server: FakeQMPServer) -> None:
    qmp = pytest.importorskip("qmp", reason="the old qmp package is not installed")
    client = qmp.QEMUMonitorProtocol(server.address)
    client.settimeout(LIMIT)
    assert "version" in client.connect()["QMP"]
    assert client.cmd("query-status")["return"]["status"] == "prelaunch"
    assert client.cmd("cont") == {"return": {}}
    assert [event["event"] for event in client.get_events()] == ["RESUME"]
    assert client.cmd("system_wakeup")["error"]["class"] == "GenericError"
    assert client.cmd("query-name", cmd_id="mine") == {"return": {}, "id": "mine"}
    assert client.cmd("quit") == {"return": {}}
    client.close()
    assert server.wait_exit(LIMIT) == 0
    server.check()


# -- avocado-vt --------------------------------------------------------------------------------

AVOCADO = """\
import sys
from virttest.qemu_monitor import VM, QMPCmdError, QMPMonitor

path, version = sys.argv[1:]
monitor = QMPMonitor(VM("vm"), "qmp", {"monitor_filename": path})
assert monitor.get_greeting()["QMP"]["version"]["qemu"]["major"] == int(version.split(".")[0])
assert "query-status" in monitor._supported_cmds
monitor.verify_responsive()
assert monitor.verify_status("prelaunch")
monitor.cmd("cont")
assert monitor.get_event("RESUME")
assert monitor.verify_status("running")
monitor.clear_events()
monitor.cmd("stop")
assert [event["event"] for event in monitor.get_events()] == ["STOP"]
try:
    monitor.cmd("device_del", {"id": 1})
except QMPCmdError as error:
    assert "expected: string" in str(error.data)
else:
    raise SystemExit("device_del took a number")
monitor.system_reset()
assert monitor.cmd_qmp("query-name", q_id="mine")["id"] == "mine"
monitor.quit()
"""


def test_avocado_vt(server: FakeQMPServer) -> None:
    if importlib.util.find_spec("virttest") is None:
        pytest.skip("avocado-framework-plugin-vt is not installed: `nox -s avocado` installs it")
    done = subprocess.run(
        [sys.executable, "-c", AVOCADO, server.address, server.emulates],
        capture_output=True,
        text=True,
        timeout=3 * LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert server.wait_exit(LIMIT) == 0
    server.check()


# -- programs that start QEMU themselves -----------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("own_event_loop")
def test_qemu_qmp_accepts_the_program(tmp_path: Path, version: str) -> None:
    legacy = pytest.importorskip("qemu.qmp.legacy", reason="qemu.qmp is not installed")
    path = tmp_path / "qmp.sock"
    client = legacy.QEMUMonitorProtocol(str(path), server=True)
    client.settimeout(LIMIT)
    process = subprocess.Popen(
        [*FAKE, "--emulate", version, "-S", "-qmp", f"unix:{path}"],
        stdin=subprocess.DEVNULL,
    )
    try:
        assert client.accept(timeout=LIMIT)["QMP"]["version"]
        assert client.cmd("query-status")["status"] == "prelaunch"
        client.cmd("quit")
        deadline = time.monotonic() + LIMIT
        assert process.wait(max(0.0, deadline - time.monotonic())) == 0
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(EOFError):
            client.close()


# -- libvirt ---------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", VERSIONS)
def test_libvirt(version: str) -> None:
    script = ROOT / "scripts" / "libvirt-on-the-fake"
    if not (ROOT / ".cache" / "libvirt" / ".complete").exists():
        pytest.skip(f"libvirt is not unpacked here: {script} does that, as root")
    done = subprocess.run(
        [script, version],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout
