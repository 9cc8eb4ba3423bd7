"""What the guest does, and what comes of it: run states, events, the console."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

import pytest

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

Connect = Callable[..., LineClient]
MakeServer = Callable[..., FakeQMPServer]
VERSIONS = ("7.2", "10.0", "11.1")


def read_bytes(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += sock.recv(count - len(data))
    return data


@pytest.fixture
def console(server: FakeQMPServer) -> Iterator[socket.socket]:
    sock = server.open_console()
    sock.settimeout(10)
    yield sock
    sock.close()


def test_poweroff_ends_qemu(server: FakeQMPServer, client: LineClient) -> None:
    server.guest.poweroff()
    assert client.read()["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert client.at_eof()
    assert server.exit_status == 0


@pytest.mark.parametrize("args", [["-no-shutdown"], ["-action", "shutdown=pause"]])
def test_poweroff_with_no_shutdown_stops(
    make_server: MakeServer, connect: Connect, args: list[str]
) -> None:
    server = make_server(args=args)
    client = connect(server)
    server.guest.poweroff()
    assert [client.read()["event"] for _ in range(2)] == ["SHUTDOWN", "STOP"]
    assert client.status() == "shutdown"
    error = client.execute("cont")["error"]["desc"]
    assert error == "Resetting the Virtual Machine is required"
    assert client.events_then_reply("system_reset")[0] == ["RESET"]
    assert client.status() == "prelaunch"
    assert client.events_then_reply("cont")[0] == ["RESUME"]
    assert client.events_then_reply("quit")[0] == ["SHUTDOWN"]
    assert client.at_eof()


def test_reset(server: FakeQMPServer, client: LineClient) -> None:
    server.guest.reset()
    event = client.read()
    assert (event["event"], event["data"]) == ("RESET", {"guest": True, "reason": "guest-reset"})
    assert client.status() == "running"


def test_reset_with_no_reboot_ends(make_server: MakeServer, connect: Connect) -> None:
    server = make_server(args=["-no-reboot"])
    client = connect(server)
    server.guest.reset()
    assert client.read()["data"] == {"guest": True, "reason": "guest-reset"}
    assert client.at_eof()
    assert server.exit_status == 0


@pytest.mark.parametrize(
    ("args", "action", "status"),
    [
        ([], "poweroff", 0),
        (["-action", "panic=exit-failure"], "poweroff", 1),
        (["-action", "panic=shutdown"], "poweroff", 0),
    ],
)
def test_a_panic_ends_qemu(
    make_server: MakeServer, connect: Connect, args: list[str], action: str, status: int
) -> None:
    server = make_server(args=args)
    client = connect(server)
    server.guest.panic()
    assert client.read()["data"] == {"action": action}
    assert client.read()["data"] == {"guest": True, "reason": "guest-panic"}
    assert client.at_eof()
    assert server.exit_status == status


@pytest.mark.parametrize("args", [["-no-shutdown"], ["-action", "panic=pause"]])
def test_a_panic_can_pause(make_server: MakeServer, connect: Connect, args: list[str]) -> None:
    server = make_server(args=args)
    client = connect(server)
    server.guest.panic()
    assert client.read()["data"] == {"action": "pause"}
    assert client.read()["event"] == "STOP"
    assert client.status() == "guest-panicked"
    assert client.events_then_reply("cont") == (["RESUME"], {"return": {}})


def test_a_panic_can_go_on(make_server: MakeServer, connect: Connect) -> None:
    server = make_server(args=["-action", "panic=none"])
    client = connect(server)
    server.guest.panic()
    assert client.read()["data"] == {"action": "run"}
    assert client.status() == "running"


def test_a_panic_can_fail_and_stop(make_server: MakeServer, connect: Connect) -> None:
    server = make_server(args=["-action", "panic=exit-failure", "-no-shutdown"])
    client = connect(server)
    server.guest.panic()
    names = [client.read()["event"] for _ in range(3)]
    assert names == ["GUEST_PANICKED", "SHUTDOWN", "STOP"]
    assert client.status() == "shutdown"


@pytest.mark.parametrize(
    ("action", "following", "status"),
    [
        ("reset", ["RESET"], "running"),
        ("shutdown", ["POWERDOWN"], "running"),
        ("pause", ["STOP"], "watchdog"),
        ("debug", [], "running"),
        ("none", [], "running"),
        ("inject-nmi", [], "running"),
    ],
)
def test_a_watchdog(
    make_server: MakeServer, connect: Connect, action: str, following: list[str], status: str
) -> None:
    server = make_server(args=["-action", f"watchdog={action}"])
    client = connect(server)
    server.guest.watchdog()
    event = client.read()
    assert (event["event"], event["data"]) == ("WATCHDOG", {"action": action})
    assert [client.read()["event"] for _ in following] == following
    assert client.status() == status


def test_a_watchdog_that_powers_off_says_nothing_more(
    make_server: MakeServer, connect: Connect
) -> None:
    server = make_server(args=["-no-shutdown"])
    client = connect(server)
    assert client.execute("watchdog-set-action", action="poweroff") == {"return": {}}
    server.guest.watchdog()
    assert client.read()["event"] == "WATCHDOG"
    assert client.at_eof()
    assert server.exit_status == 0


def test_a_watchdog_respects_no_reboot(make_server: MakeServer, connect: Connect) -> None:
    server = make_server(args=["-no-reboot", "-no-shutdown"])
    client = connect(server)
    server.guest.watchdog()
    assert [client.read()["event"] for _ in range(3)] == ["WATCHDOG", "SHUTDOWN", "STOP"]
    assert client.status() == "shutdown"


def test_a_crash_kernel_goes_on(server: FakeQMPServer, client: LineClient) -> None:
    server.guest.crash_loaded()
    event = client.read()
    assert (event["event"], event["data"]) == ("GUEST_CRASHLOADED", {"action": "run"})
    assert client.status() == "running"


def test_a_paravirtual_shutdown(make_server: MakeServer, connect: Connect) -> None:
    server = make_server("10.0")
    client = connect(server)
    server.guest.pv_shutdown()
    assert client.read()["event"] == "GUEST_PVSHUTDOWN"
    assert client.read()["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert client.at_eof()
    with pytest.raises(FakeQMPServerError, match=r"7\.2 knows no shutdown by pvpanic"):
        make_server("7.2").guest.pv_shutdown()


@pytest.mark.parametrize(
    ("version", "machine", "path"),
    [
        ("7.2", "pc", "/machine/unattached/device[9]"),
        ("11.1", "pc", "/machine/unattached/device[3]/rtc"),
        ("11.1", "q35", "/machine/unattached/device[2]/rtc"),
    ],
)
def test_a_clock_that_is_set_is_told_once_a_second(
    make_server: MakeServer, connect: Connect, version: str, machine: str, path: str
) -> None:
    server = make_server(version, args=["-M", machine], virtual_time=True)
    client = connect(server)
    for offset in (1, 2, 3):
        server.guest.rtc_change(offset)
    assert client.read()["data"] == {"offset": 1, "qom-path": path}
    assert client.status() == "running"
    server.advance(1)
    assert client.read()["data"]["offset"] == 3
    server.advance(5)
    server.guest.rtc_change(4)
    assert client.read()["data"]["offset"] == 4


def test_a_guest_acts_whenever_it_boots(make_server: MakeServer, connect: Connect) -> None:
    server = make_server(args=["-S", "-M", "q35"])
    server.guest.on_boot(server.guest.suspend)
    server.guest.on_wake(server.guest.reset)
    client = connect(server)
    assert client.events_then_reply("cont")[0] == ["RESUME"]
    assert client.read()["event"] == "SUSPEND"
    assert client.events_then_reply("system_wakeup")[0] == ["WAKEUP"]
    assert [client.read()["event"] for _ in range(2)] == ["RESET", "SUSPEND"]
    assert client.events_then_reply("system_reset")[0] == ["RESET"]
    assert client.status() == "prelaunch"
    assert client.events_then_reply("cont")[0] == ["RESUME"]
    assert client.read()["event"] == "SUSPEND"


def test_a_guest_answers_what_it_is_asked_for(make_server: MakeServer, connect: Connect) -> None:
    server = make_server(args=["-M", "pc", "-device", "virtio-net-pci,id=net0"])
    client = connect(server)
    server.guest.on_unplug(server.guest.refuse_unplug)
    assert client.events_then_reply("device_del", id="net0")[0] == []
    assert client.read()["event"] == "DEVICE_UNPLUG_GUEST_ERROR"
    server.guest.on_unplug(server.guest.accept_unplug)
    assert client.events_then_reply("device_del", id="net0")[0] == []
    assert [client.read()["event"] for _ in range(2)] == ["DEVICE_DELETED"] * 2
    server.guest.on_powerdown(server.guest.poweroff)
    assert client.events_then_reply("system_powerdown")[0] == ["POWERDOWN"]
    assert client.read()["event"] == "SHUTDOWN"


def test_a_guest_that_runs_boots_at_once(server: FakeQMPServer, client: LineClient) -> None:
    server.guest.on_boot(server.guest.poweroff)
    assert client.read()["event"] == "SHUTDOWN"
    assert client.at_eof()


@pytest.mark.parametrize("version", VERSIONS)
def test_suspend_and_wakeup(make_server: MakeServer, connect: Connect, version: str) -> None:
    server = make_server(version, args=["-M", "q35"])
    client = connect(server)
    server.guest.suspend()
    assert client.read()["event"] == "SUSPEND"
    assert client.status() == "suspended"
    stops = [] if version == "7.2" else ["STOP"]
    assert client.events_then_reply("stop")[0] == stops
    assert client.status() == ("paused" if stops else "suspended")
    assert client.events_then_reply("cont")[0] == (["RESUME"] if stops else [])
    assert client.status() == "suspended"
    assert client.events_then_reply("system_wakeup")[0] == ["WAKEUP"]
    assert client.status() == "running"
    assert "not in suspended state" in client.execute("system_wakeup")["error"]["desc"]


@pytest.mark.parametrize(("version", "events"), [("7.2", ["WAKEUP", "STOP"]), ("11.1", ["STOP"])])
def test_a_sleeping_guest_migrates(
    make_server: MakeServer, connect: Connect, version: str, events: list[str]
) -> None:
    server = make_server(version, args=["-M", "q35"])
    client = connect(server)
    server.guest.suspend()
    assert client.read()["event"] == "SUSPEND"
    assert client.execute("migrate", uri="exec:cat>/dev/null") == {"return": {}}
    assert [client.read()["event"] for _ in events] == events
    assert client.status() == "postmigrate"


def test_set_action_changes_what_comes_of_it(server: FakeQMPServer, client: LineClient) -> None:
    client.execute("set-action", shutdown="pause")
    server.guest.poweroff()
    assert [client.read()["event"] for _ in range(2)] == ["SHUTDOWN", "STOP"]
    assert server.exit_status is None


def test_a_guest_that_does_not_run_does_nothing(make_server: MakeServer) -> None:
    server = make_server(args=["-S"])
    with pytest.raises(FakeQMPServerError, match="can't power off in the run state 'prelaunch'"):
        server.guest.poweroff()
    server.kill()
    with pytest.raises(FakeQMPServerError, match="its QEMU has ended with status -9"):
        server.guest.reset()


def test_a_machine_that_has_no_sleep_gets_none(make_server: MakeServer) -> None:
    server = make_server(args=["-machine", "none"])
    with pytest.raises(FakeQMPServerError, match="'none' can't be woken up"):
        server.guest.suspend()


def test_what_was_written_before_is_there_when_one_connects(server: FakeQMPServer) -> None:
    assert not server.guest.has_console
    server.guest.write_console(b"SeaBIOS\r\n")
    assert server.guest.has_console
    with server.open_console() as sock:
        sock.settimeout(10)
        assert read_bytes(sock, 9) == b"SeaBIOS\r\n"
        server.guest.write_console(b"login: ")
        assert read_bytes(sock, 7) == b"login: "


def test_a_console_can_be_scripted(server: FakeQMPServer, console: socket.socket) -> None:
    def echo(match: re.Match[bytes]) -> bytes:
        return b"<" + match[1] + b">\n"

    server.guest.on_console(b"root\r", b"Password: ")
    server.guest.on_console(r"echo (\w+)\r", echo)
    assert server.guest.has_console
    console.sendall(b"ro")
    console.sendall(b"ot\r")
    assert read_bytes(console, 10) == b"Password: "
    console.sendall(b"echo one\recho two\r")
    assert read_bytes(console, 12) == b"<one>\n<two>\n"
    assert server.guest.console_input == b"root\recho one\recho two\r"


def test_a_script_may_power_the_guest_off(
    server: FakeQMPServer, client: LineClient, console: socket.socket
) -> None:
    def poweroff(match: re.Match[bytes]) -> bytes:
        server.guest.write_console(b"Power down.\n")
        server.guest.poweroff()
        return b""

    server.guest.on_console(b"poweroff\r", poweroff)
    console.sendall(b"poweroff\r")
    assert read_bytes(console, 12) == b"Power down.\n"
    assert console.recv(1) == b""
    assert client.read()["event"] == "SHUTDOWN"
    assert server.wait_exit(10) == 0


def test_a_pattern_that_matches_nothing_typed_is_refused(server: FakeQMPServer) -> None:
    with pytest.raises(FakeQMPServerError, match="even when nothing is typed"):
        server.guest.on_console(b"x*", b".")


def test_a_script_that_breaks_down_ends_all_and_is_raised_by_check(
    server: FakeQMPServer, client: LineClient, console: socket.socket
) -> None:
    def fail(match: re.Match[bytes]) -> bytes:
        raise ZeroDivisionError("mine")

    server.guest.on_console(b"x", fail)
    console.sendall(b"x")
    assert client.at_eof()
    with pytest.raises(FakeQMPServerError, match="ZeroDivisionError: mine"):
        server.check()


def test_a_console_takes_bytes_only(server: FakeQMPServer) -> None:
    with pytest.raises(FakeQMPServerError, match="takes bytes, not str"):
        server.guest.write_console("text")  # type: ignore[arg-type]
