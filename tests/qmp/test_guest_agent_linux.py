"""The guest agent's client and Debian's qemu-guest-agent in a real Linux, over virtio-serial."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import linux_guest
import pytest

from pytest_qmp import GuestAgentClient, QMPCommandError, QMPTimeoutError, VirtualMachine, VMConfig
from tests.guests import debian

pytestmark = [pytest.mark.needs_qemu, pytest.mark.qmp(backend="qemu", accel="tcg")]

BOOT_SECONDS = 60
LIMIT = 30
AGENT = "qemu-ga -m virtio-serial -p /dev/vport0p1 -t /tmp"

# A zombie has closed the port, which only one process may have open.
UNTIL_IT_IS_GONE = "while grep -q 'State:.[^XZ]' /proc/$(cat /tmp/pid)/status; do :; done"

# What qemu-ga executes for guest-shutdown; Debian's own would need its service manager.
SHUTDOWN = "#!/bin/sh\npoweroff -f\n"

StartAgent = Callable[..., None]


@pytest.fixture(scope="module")
def linux() -> linux_guest.LinuxGuest:
    """The examples' Linux with Debian's agent in it; built once, then kept in a cache."""
    try:
        return debian.linux_with("qemu-guest-agent")
    except debian.GuestBuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    """Where QEMU listens for the agent's client."""
    return tmp_path / "agent.sock"


@pytest.fixture
def qmp_vm_config(
    qmp_vm_config: VMConfig, linux: linux_guest.LinuxGuest, channel: Path
) -> VMConfig:
    return qmp_vm_config.replace(
        kernel=linux.kernel,
        initrd=linux.initrd,
        append=linux_guest.APPEND,
        memory="256M",
        args=["-chardev", f"socket,id=agent,path={channel},server=on,wait=off"],
        devices=[
            "virtio-serial",
            {
                "driver": "virtserialport",
                "chardev": "agent",
                "name": "org.qemu.guest_agent.0",
            },
        ],
    )


@pytest.fixture
def run(qmp_vm: VirtualMachine) -> Callable[[str], None]:
    """Types a command at the booted guest's shell, and waits until that asks for the next."""
    console = qmp_vm.console
    console.expect_exact(linux_guest.PROMPT, timeout=BOOT_SECONDS)

    def run(command: str) -> None:
        console.sendline(command)
        console.expect_exact(linux_guest.PROMPT, timeout=LIMIT)

    run("mkdir -p /run")
    return run


@pytest.fixture
def start_agent(run: Callable[[str], None]) -> StartAgent:
    def start(options: str = "") -> None:
        run(f"{AGENT} {options} & echo $! >/tmp/pid")

    return start


def test_programs_and_files(start_agent: StartAgent, channel: Path) -> None:
    start_agent()
    with GuestAgentClient.connect(channel, timeout=LIMIT) as agent:
        agent.ping()
        assert int(agent.guest_info()["version"].split(".")[0]) >= 7

        result = agent.exec(["sh", "-c", "tr a-z A-Z; echo $WORD >&2; exit 3"], "hello\n")
        assert (result.status, result.signal) == (3, None)
        assert (result.output, result.error) == (b"HELLO\n", b"\n")
        assert agent.exec(["sh", "-c", "echo $WORD"], env={"WORD": "é"}).output == "é\n".encode()
        assert agent.exec(["sh", "-c", "kill -9 $$"]).signal == 9
        with pytest.raises(QMPCommandError, match="No such file or directory"):
            agent.exec(["/bin/no-such-program"])
        with pytest.raises(QMPTimeoutError, match=r"end of \['sleep', '60'\], process \d+ in"):
            agent.exec(["sleep", "60"], timeout=0.3)

        data = os.urandom(3 * 1024 * 1024 + 1)
        agent.write_file("/tmp/data", data)
        assert agent.read_file("/tmp/data") == data
        agent.write_file("/tmp/data", b"")
        assert agent.read_file("/tmp/data") == b""
        assert agent.read_file("/proc/version").startswith(b"Linux version")
        with pytest.raises(QMPCommandError, match="No such file or directory"):
            agent.read_file("/tmp/none")
        with pytest.raises(QMPCommandError):
            agent.read_file("/tmp")
        handles = agent.exec(["sh", "-c", "ls -l /proc/$(cat /tmp/pid)/fd"]).output
        assert b"/tmp/data" not in handles

        with pytest.raises(QMPCommandError, match="did you mean 'guest-get-osinfo'"):
            agent.guest_get_osnifo()
        big = agent.exec(["sh", "-c", "yes | head -c 17825792"])
        assert big.output_truncated
        assert set(big.output) == set(b"y\n")


def test_snippet_of_the_documentation(start_agent: StartAgent, channel: Path) -> None:
    start_agent()
    snippet = Path(__file__).parents[2] / "docs" / "snippets" / "guest_agent.py"
    command = [sys.executable, str(snippet), str(channel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert (done.stdout, done.stderr) == ("0 Linux\nhello\n", "")


def test_agent_that_starts_late_stops_and_starts_again(
    start_agent: StartAgent, run: Callable[[str], None], channel: Path
) -> None:
    with pytest.raises(QMPTimeoutError, match="qemu-guest-agent is installed and runs"):
        GuestAgentClient.connect(channel, timeout=0.6)
    start_agent()
    with GuestAgentClient.connect(channel, timeout=LIMIT) as agent:
        agent.ping()

        run("kill -STOP $(cat /tmp/pid)")
        with pytest.raises(QMPTimeoutError, match="the reply to 'guest-get-time'"):
            agent.guest_get_time(timeout=0.2)
        run("kill -CONT $(cat /tmp/pid)")
        assert agent.exec(["echo", "on"]).output == b"on\n"

        run(f"kill -9 $(cat /tmp/pid); {UNTIL_IT_IS_GONE}")
        with pytest.raises(QMPTimeoutError):
            agent.ping(timeout=0.2)
        start_agent()
        agent.sync()
        assert agent.exec(["echo", "again"]).output == b"again\n"

        agent.reconnect()
        assert agent.exec(["echo", "anew"]).output == b"anew\n"


def test_disabled_command_and_shutdown(
    qmp_vm: VirtualMachine, start_agent: StartAgent, channel: Path
) -> None:
    start_agent("-b guest-exec")
    with GuestAgentClient.connect(channel, timeout=LIMIT) as agent:
        with pytest.raises(QMPCommandError, match="has it, but it is disabled"):
            agent.exec(["true"])
        with pytest.raises(QMPCommandError, match="refused 'guest-shutdown'"):
            agent.guest_shutdown()  # there is no /sbin/shutdown yet
        agent.write_file("/sbin/shutdown", SHUTDOWN.encode())
        qmp_vm.console.sendline("chmod +x /sbin/shutdown")
        qmp_vm.console.expect_exact(linux_guest.PROMPT, timeout=LIMIT)
        agent.guest_shutdown()
    qmp_vm.wait_for_event("SHUTDOWN", {"data": {"guest": True}})
    assert qmp_vm.wait() == 0
