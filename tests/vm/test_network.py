"""The network: forwarded ports, private links, cables, captures."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import linux_guest
import pytest

from pytest_qmp import (
    Link,
    NeedsRealGuestError,
    QMPTimeoutError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMError,
    VMFactory,
    VMVerdictError,
)
from pytest_qmp.artifacts.bundle import write_bundle
from pytest_qmp.vm.argv import build_argv
from pytest_qmp.vm.host import find_qemu
from pytest_qmp.vm.network_config import ends_of
from pytest_qmp.vm.usernet import parse_cards, parse_connections
from tests.guests import debian
from tests.vm.test_versions import UNPACKED

LIMIT = 60
PCAP_MAGIC = b"\xd4\xc3\xb2\xa1"
LINUX_ADDRESS = "10.1.1.{}"

real = pytest.mark.needs_qemu


def paused(**fields: Any) -> VirtualMachine:
    """A machine that does not run, for what needs none that does."""
    return VirtualMachine(accel="tcg", paused=True, timeout=20, **fields)


def frames(pcap: bytes) -> list[bytes]:
    """What a capture holds."""
    assert pcap.startswith(PCAP_MAGIC)
    found = []
    at = 24
    while at + 16 <= len(pcap):
        size = struct.unpack_from("<4I", pcap, at)[2]
        found.append(pcap[at + 16 : at + 16 + size])
        at += 16 + size
    return found


# -- the config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ports": 22}, r"ports is a list, as in ports=\[22\]"),
        ({"ports": ["22"]}, r"a port of the guest is a number .* not '22'"),
        ({"ports": [0]}, "not 0"),
        ({"ports": [70000]}, "from 1 to 65535"),
        ({"ports": [True]}, "not True"),
        ({"ports": [("sctp", 22)]}, "'tcp' or 'udp', not 'sctp'"),
        ({"ports": [(22, "tcp")]}, "'tcp' or 'udp', not 22"),
        ({"network": "bridge"}, "True or 'restricted'"),
        ({"network": False, "ports": [22]}, "network=False says that there is none"),
        ({"links": ["link0"]}, r"links=\[Link\(\)\], not 'link0'"),
        ({"nic": ""}, "as 'e1000', not ''"),
    ],
)
def test_what_is_no_network(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        VMConfig(**fields)


def test_ports_are_brought_into_one_form() -> None:
    assert VMConfig(ports=[22, ("tcp", 22), ("udp", 53)]).ports == (22, ("udp", 53))


@pytest.mark.parametrize(
    ("fields", "card"),
    [
        ({}, "virtio-net-pci,romfile="),
        ({"arch": "aarch64"}, "virtio-net-pci,romfile="),
        ({"machine": "microvm,acpi=off"}, "virtio-net-device"),
        ({"arch": "s390x"}, "virtio-net-ccw"),
        ({"nic": "e1000"}, "e1000"),
    ],
)
def test_the_card_suits_the_machine(fields: dict[str, Any], card: str) -> None:
    argv = build_argv(VMConfig(network=True, **fields), "qemu", "tcg", {}, {})
    expected = f"{card},id=network-nic,netdev=network,mac=52:54:00:12:34:56"
    assert argv[argv.index("-device") + 1] == expected


@pytest.mark.parametrize(
    ("fields", "netdev"),
    [
        ({"network": True}, "user,id=network,restrict=on"),
        ({"network": "restricted"}, "user,id=network,restrict=on"),
        ({"network": "user"}, "user,id=network"),
        ({"ports": [22]}, "user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
    ],
)
def test_nothing_outside_is_reached_unless_asked_for(fields: dict[str, Any], netdev: str) -> None:
    argv = build_argv(VMConfig(**fields), "qemu", "tcg", {}, {})
    assert argv[argv.index("-netdev") + 1] == netdev
    assert "-netdev" not in build_argv(VMConfig(network=False), "qemu", "tcg", {}, {})


def test_reading_what_the_human_monitor_tells() -> None:
    cards = parse_cards(
        "a: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:01\r\n"
        " \\ #net01: index=0,type=user,net=10.0.3.0,restrict=off\r\n"
        "lonely: index=0,type=user,net=10.0.2.0,restrict=on\r\n"
        "b: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:02\r\n"
    )
    assert [(one.name, one.netdev, one.kind, one.net) for one in cards] == [
        ("a", "#net01", "user", "10.0.3.0")
    ]
    (listening,) = parse_connections(
        "Hub -1 (network):\r\n"
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        "  TCP[HOST_FORWARD]  12       127.0.0.1 38063       10.0.2.15    22     0     0\r\n"
        "  UDP[236 sec]       13               * 38064       10.0.2.15    53     0     0\r\n"
        "  ICMP[10 sec]       14       10.0.2.15     1        10.0.2.2     0     0     0\r\n"
    )
    assert listening.source == ("127.0.0.1", 38063)


# -- forwarded ports -----------------------------------------------------------------------------


def unpacked(version: str) -> str | None:
    """The path of a binary of that version, where it is unpacked."""
    place = UNPACKED / version
    return str(place / "usr/bin/qemu-system-x86_64") if (place / ".complete").exists() else None


@pytest.fixture(params=["installed", "10.0", "11.1"], ids="qemu-{}".format)
def qemu(request: pytest.FixtureRequest) -> str:
    """The path of the binary."""
    path = find_qemu("x86_64") if request.param == "installed" else unpacked(request.param)
    if path is None:
        pytest.skip(f"QEMU {request.param} is not unpacked here: run scripts/unpack-qemu")
    return path


@real
def test_ports_are_forwarded(qemu: str) -> None:
    with paused(qemu=qemu, ports=[22, ("udp", 53)]) as vm:
        assert set(vm.ports) == {22, ("udp", 53)}
        assert vm.forward_port(22) == vm.ports[22]
        assert vm.forward_port(53, "udp") == vm.ports["udp", 53]
        later = vm.forward_port(80)
        assert vm.forward_port(80) == later == vm.ports[80]
        socket.create_connection(("127.0.0.1", later), timeout=20).close()
        with pytest.raises(KeyError, match=r"443 of the guest is not forwarded \(forwarded: .*80"):
            _ = vm.ports[443]
        with pytest.raises(VMConfigError, match="a number from 1 to 65535"):
            vm.forward_port(0)
        with pytest.raises(VMConfigError, match="'tcp' or 'udp', not 'icmp'"):
            vm.forward_port(22, "icmp")
        assert vm.stderr == ""


@real
def test_a_port_is_forwarded_through_a_card_that_the_arguments_made() -> None:
    with paused(args=["-nic", "user,model=e1000"]) as vm:
        assert vm.forward_port(22) == vm.forward_port(22) == vm.ports[22]


@real
def test_a_machine_without_a_user_network() -> None:
    with paused() as vm:
        for what in (vm.forward_port, vm.wait_for_port):
            with pytest.raises(VMError, match=r"VMConfig\(network=True\) gives it one"):
                what(22)
        with pytest.raises(VMError, match=r"has no network card: VMConfig\(network=True\)"):
            vm.link_down()


@real
def test_no_two_machines_have_the_same_port() -> None:
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        machines = [paused(machine="pc", ports=[22, ("udp", 53)]) for _ in range(8)]
        for one in machines:
            stack.callback(one.close)
        found = [
            port for ports in pool.map(lambda vm: vm.start().ports.values(), machines)
            for port in ports
        ]  # fmt: skip
        # One machine, asked by several at once.
        again = set(pool.map(machines[0].forward_port, [80] * 8))
    assert len(set(found)) == 16
    assert len(again) == 1


@pytest.mark.parametrize(
    ("arch", "machine"), [("aarch64", "virt"), ("riscv64", "virt"), ("x86_64", "microvm")]
)
@real
def test_a_card_on_other_machines(arch: str, machine: str) -> None:
    with Link() as link, paused(arch=arch, machine=machine, ports=[22], links=[link]) as vm:
        assert vm.ports[22]
        with vm.link_down(link):
            pass
        with vm.capture(link) as capture:
            assert capture.data.startswith(PCAP_MAGIC)


# -- links ---------------------------------------------------------------------------------------


def test_a_link_is_a_segment() -> None:
    with Link() as link, link.socket() as one, link.socket() as two, link.socket() as three:
        one.send(b"from one")
        assert two.recv(100) == three.recv(100) == b"from one"
        two.close()
        for number in range(3000):  # more than any buffer holds: kept, in order
            three.send(b"%d" % number)
            assert one.recv(100) == b"%d" % number
        one.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody hears himself
            three.recv(100, socket.MSG_DONTWAIT)
        assert link.dropped == 0


def test_a_link_keeps_frames_for_who_is_slow_and_drops_them_in_the_end() -> None:
    with Link("slow") as link, link.socket() as one, link.socket() as slow, link.socket() as other:
        for number in range(500):
            one.send(b"%d" % number)
            other.recv(100)
        slow.settimeout(20)
        assert [slow.recv(100) for _ in range(500)] == [b"%d" % number for number in range(500)]
        for _ in range(4000):
            one.send(bytes(9000))
            other.recv(9000)
        assert 1500 < link.dropped < 2000
        assert "slow" in repr(link)


def test_hardware_addresses_are_the_same_in_each_run() -> None:
    def addresses() -> list[str]:
        with Link() as one, Link() as two:
            return [one.end().mac, one.end().mac, two.end().mac]

    first = addresses()
    assert len(set(first)) == 3
    assert addresses() == first
    with Link() as link:
        assert link.end(mac="52:54:00:AA:bb:cc").mac == "52:54:00:aa:bb:cc"
        for wrong in ("53:54:00:aa:bb:cc", "52:54", "525400aabbcc"):
            with pytest.raises(VMConfigError, match="is written like '52:54:00:12:34:56'"):
                link.end(mac=wrong)


def test_a_closed_link() -> None:
    link = Link()
    end = link.socket()
    link.close()
    link.close()
    with pytest.raises(OSError, match=r"refused|not connected|reset"):
        end.send(b"x")
    end.close()
    with pytest.raises(VMError, match="is closed: make a new one"):
        link.socket()


def test_closing_links_while_frames_fly() -> None:
    def shout(end: socket.socket, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                end.send(b"x" * 100)
            except OSError:
                return

    for _ in range(20):
        stop = threading.Event()
        with Link() as link, link.socket() as one, link.socket():
            thread = threading.Thread(target=shout, args=(one, stop))
            thread.start()
            link.socket().close()
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@real
def test_a_machine_on_a_closed_link() -> None:
    link = Link()
    link.close()
    with pytest.raises(VMError, match="is closed: make a new one"):
        paused(links=[link]).start()


# -- real guests ---------------------------------------------------------------------------------


@dataclass
class Guest:
    """A booted Linux, and its shell."""

    vm: VirtualMachine

    @property
    def mac(self) -> str:
        """The hardware address of its card on the link."""
        (end,) = ends_of(self.vm.config.links)
        return end.mac

    def run(self, command: str) -> str:
        """What a command writes."""
        return self.vm.console.run(command, LIMIT, check=True).output

    def leave(self, command: str) -> None:
        """Starts something that goes on without the terminal."""
        self.run(f"setsid sh -c '{command}' > /dev/null 2>&1 < /dev/null &")


def linux(**more: Any) -> VMConfig:
    """The examples' Linux."""
    try:
        guest = linux_guest.build()
    except debian.GuestBuildError as error:
        pytest.skip(str(error))
    return VMConfig(
        accel="tcg",
        kernel=guest.kernel,
        initrd=guest.initrd,
        memory="128M",
        timeout=LIMIT,
        **{"append": linux_guest.APPEND, **more},
    )


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Guest, Guest, Link]]:
    """Two guests on one link, the first one with a restricted network, too.

    The first one is on the newest QEMU that there is, the second one on the installed one.
    """
    with Link("lan") as link, ExitStack() as stack:
        first = linux(links=[link], ports=[22], capture=True, qemu=unpacked("11.1"))
        machines = [
            stack.enter_context(VirtualMachine(first, name="first")),
            stack.enter_context(VirtualMachine(linux(links=[link]), name="second")),
        ]
        guests = [Guest(vm) for vm in machines]
        for number, guest in enumerate(guests):
            guest.vm.console.expect_exact(linux_guest.PROMPT)
            card = interface(guest, guest.mac)
            address = LINUX_ADDRESS.format(number + 1)
            guest.run(f"ip addr add {address}/24 dev {card} && ip link set {card} up")
        yield guests[0], guests[1], link


def interface(guest: Guest, mac: str) -> str:
    """The name of the card with that address."""
    path = guest.run(f"grep -l {mac} /sys/class/net/*/address")
    found = re.search(r"/net/(\w+)/", path)
    assert found is not None
    return found[1]


@real
def test_two_guests_talk_over_a_link(pair: tuple[Guest, Guest, Link]) -> None:
    first, second, link = pair
    assert "0% packet loss" in first.run(f"ping -c 2 -W 20 {LINUX_ADDRESS.format(2)}")
    second.run("dd if=/dev/zero of=/tmp/big bs=1M count=4; httpd -p 5000 -h /tmp")
    with link.socket() as wire:
        ask = rf"printf 'GET /big HTTP/1.0\r\n\r\n' | nc {LINUX_ADDRESS.format(2)} 5000"
        assert int(first.run(f"{ask} | wc -c")) > 4 * 1024 * 1024
        wire.settimeout(LIMIT)
        seen = wire.recv(70000)
    assert seen[6:12].hex(":") in {first.mac, second.mac}


@real
def test_the_test_itself_is_on_the_link(pair: tuple[Guest, Guest, Link]) -> None:
    first, _, link = pair
    card = interface(first, first.mac)
    with link.socket() as wire:
        wire.settimeout(LIMIT)
        own, theirs = bytes.fromhex("525400000099"), socket.inet_aton(LINUX_ADDRESS.format(1))
        asked = socket.inet_aton(LINUX_ADDRESS.format(99))
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + asked + bytes(6) + theirs
        wire.send(b"\xff" * 6 + own + b"\x08\x06" + arp)
        answer = wire.recv(70000)
        while answer[12:14] != b"\x08\x06" or answer[28:32] != theirs:
            answer = wire.recv(70000)
    assert answer[6:12].hex(":") in first.run(f"cat /sys/class/net/{card}/address")


@real
def test_a_cable_is_pulled_and_plugged(pair: tuple[Guest, Guest, Link]) -> None:
    first, second, link = pair
    card = interface(first, first.mac)

    def carrier(value: int) -> str:
        return f"until grep -q {value} /sys/class/net/{card}/carrier; do :; done"

    with first.vm.link_down(link):
        first.run(carrier(0))
        second.run(f"! ping -c 1 -W 1 {LINUX_ADDRESS.format(1)}")
    first.run(carrier(1))
    first.vm.set_link("link0-nic", up=False)
    first.run(carrier(0))
    first.vm.link_up("link0-nic")
    first.run(carrier(1))
    second.run(f"until ping -c 1 -W 1 {LINUX_ADDRESS.format(1)}; do :; done")
    for wrong in (lambda: first.vm.link_down("eth0"), lambda: second.vm.link_up("network")):
        with pytest.raises(VMError, match=r"has no network card '\w+'; its networks are: .*link0"):
            wrong()
    with Link() as other, pytest.raises(VMError, match=r"is not on <Link link\d>"):
        first.vm.link_down(other)


@real
def test_a_capture(pair: tuple[Guest, Guest, Link], tmp_path: Path) -> None:
    first, second, _ = pair
    whole = first.vm.captures["link0-2"]
    with second.vm.capture() as capture:
        first.run(f"ping -c 1 -W 20 {LINUX_ADDRESS.format(2)}")
        assert second.vm.captures == {"link0-1": capture}
    first.run(f"ping -c 1 -W 20 {LINUX_ADDRESS.format(2)}")
    seen = frames(capture.save(tmp_path / "x.pcap").read_bytes())
    requests = [one for one in seen if one[23:24] == b"\x01" and one[34:35] == b"\x08"]
    assert len(requests) == 1
    assert len(frames(whole.data)) > len(seen)
    assert set(first.vm.captures) == {"network-1", "link0-2"}
    with pytest.raises(VMError, match="several networks, network, link0: say which one"):
        first.vm.capture()
    with pytest.raises(VMError, match=r"can't capture 'nic7' .*: 'network', 'link0'"):
        first.vm.capture("nic7")


@real
def test_waiting_for_a_server(pair: tuple[Guest, Guest, Link]) -> None:
    first, _, _ = pair
    vm = first.vm
    # The card is not up: QEMU accepts all the same.
    socket.create_connection(("127.0.0.1", vm.ports[22]), timeout=20).close()
    with pytest.raises(QMPTimeoutError, match=r"nothing came from a guest with .* 10\.0\.2\.15"):
        vm.wait_for_port(25, timeout=0.3)
    card = interface(first, "52:54:00:12:34:56")
    first.run(f"ip addr add 10.0.2.77/24 dev {card}; ip link set {card} up")
    first.leave("ping 10.0.2.2")
    with pytest.raises(QMPTimeoutError, match=r"uses the address 10\.0\.2\.77.*by DHCP"):
        vm.wait_for_port(25, timeout=2)
    first.run(f"ip addr flush dev {card}; ip addr add 10.0.2.15/24 dev {card}")
    with pytest.raises(QMPTimeoutError, match=r"(?s)no server listens \(\d+ times\).*last lines"):
        vm.wait_for_port(25, timeout=1)
    # A server that takes one caller alone: the wait is none.
    first.leave("(echo SSH-2.0-busy; sleep 99) | nc -l -p 22")
    assert vm.wait_for_port(22) == vm.ports[22]
    assert vm.wait_for_port(22) == vm.ports[22]
    assert vm.wait_for_port(22, banner=r"SSH-2\.0") == vm.ports[22]
    first.leave("sleep 99 | nc -l -p 81")
    with pytest.raises(QMPTimeoutError, match="it listens, and said"):
        vm.wait_for_port(81, banner="nothing like it", timeout=1)
    with pytest.raises(VMConfigError, match="banner= is a regular expression"):
        vm.wait_for_port(81, banner="(")
    assert not any("port-probe" in one["label"] for one in vm.execute("query-chardev"))


@real
@pytest.mark.parametrize("qemu", ["installed", "10.0"], ids="qemu-{}".format, indirect=True)
def test_a_guest_that_configures_itself(qemu: str) -> None:
    config = linux(append=f"{linux_guest.APPEND} network", ports=[80], qemu=qemu)
    with VirtualMachine(config) as vm:
        port = vm.wait_for_port(80)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=LIMIT) as page:
            assert page.status == 200
        # Nothing outside: not even this host.
        vm.console.expect_exact(linux_guest.PROMPT)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            Guest(vm).run(f"! nc -w 1 10.0.2.2 {server.getsockname()[1]} < /dev/null")
            with pytest.raises(BlockingIOError):
                server.accept()


@real
def test_a_wait_for_a_port_ends_with_the_machine() -> None:
    with paused(ports=[22]) as vm:
        assert vm.pid is not None
        threading.Timer(0.2, os.kill, (vm.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(VMVerdictError, match="killed by SIGKILL"):
            vm.wait_for_port(22, timeout=LIMIT)
        assert time.monotonic() - began < LIMIT / 2


# -- the artifacts and the fixture ---------------------------------------------------------------


@real
def test_captures_are_in_the_artifacts(tmp_path: Path) -> None:
    with Link() as link, paused(network=True, links=[link], capture=True) as vm:
        for _ in range(2):
            place = write_bundle(tmp_path, "test", "it failed", [vm])
            assert {one.name for one in place.glob("*.pcap")} == {"network-1.pcap", "link0-2.pcap"}
            assert (place / "link0-2.pcap").read_bytes().startswith(PCAP_MAGIC)
            file = vm.captures["link0-2"].path
            vm.close()
            assert not file.exists()
    # By hand, machines are on one network of this host's.
    assert (
        "socket,id=link0,mcast=239.192.0.1:5558,localaddr=127.0.0.1"
        in (place / "rerun.sh").read_text()
    )
    with Link() as link, paused(links=[link], capture=True) as vm:
        vm.keep_logs()
        (capture,) = vm.captures.values()
        vm.close()
        assert capture.data == capture.path.read_bytes()
        vm.drop_logs()
        assert not vm.captures
        assert not capture.path.parent.exists()


@pytest.mark.qmp(backend="fake")
def test_the_fixture(qmp_link: Link, qmp_vm_factory: VMFactory) -> None:
    first, second = (qmp_vm_factory(links=[qmp_link]) for _ in range(2))
    assert Guest(first).mac != Guest(second).mac


# -- the fake ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_the_fake_has_cables_and_nothing_goes_over_them(version: str) -> None:
    with (
        Link() as link,
        VirtualMachine(
            backend="fake", emulate=version, ports=[22], links=[link], capture=True
        ) as vm,
    ):
        with vm.link_down(link):
            vm.fake.assert_called("set_link", name="link0", up=False)
        vm.fake.assert_called("set_link", name="link0", up=True)
        vm.link_down()
        vm.link_up("network-nic")
        with pytest.raises(VMError, match="no network card 'eth0'; its networks are: 'network', "):
            vm.link_down("eth0")
        for ask in (lambda: vm.ports, lambda: vm.wait_for_port(22), lambda: vm.forward_port(22)):
            with pytest.raises(NeedsRealGuestError, match="a forwarded port needs a real guest"):
                ask()
        with pytest.raises(NeedsRealGuestError, match="a capture needs a real guest"):
            vm.capture(link)
