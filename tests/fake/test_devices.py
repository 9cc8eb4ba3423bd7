"""Devices that come and go, on the fake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.fake import FakeQMPServer

from .client import LineClient

PC = ["-nodefaults", "-M", "pc", "-m", "16"]
STOPPED = [*PC, "-S"]
Q35 = ["-nodefaults", "-M", "q35", "-S", "-device", "pcie-root-port,id=rp,chassis=1"]

Start = Callable[..., "tuple[FakeQMPServer, LineClient]"]


@pytest.fixture
def start(make_server: Callable[..., FakeQMPServer], connect: Callable[..., LineClient]) -> Start:
    def start(args: list[str], version: str = "11.1") -> tuple[FakeQMPServer, LineClient]:
        server = make_server(version, args=args)
        return server, connect(server)

    return start


def failure(reply: Any) -> str:
    return str(reply["error"]["desc"])


def deleted(*paths: str) -> list[dict[str, str]]:
    """The data of the events about a device of two parts."""
    data = []
    for path in paths:
        name = path.rpartition("/")[2]
        data.append({"path": f"{path}/virtio-backend"})
        data.append({"device": name, "path": path})
    return data


def test_added_device_is_in_the_tree(start: Start) -> None:
    _, client = start(STOPPED)
    added = {"driver": "virtio-net-pci", "id": "n", "mac": "52:54:00:aa:bb:cc", "vectors": 3}
    assert client.execute("device_add", **added) == {"return": {}}
    path = "/machine/peripheral/n"
    for name, value in (
        ("type", "virtio-net-pci"),
        ("mac", "52:54:00:aa:bb:cc"),
        ("vectors", 3),
        ("addr", 16),
        ("parent_bus", "/machine/i440fx/pci.0"),
        ("hotplugged", True),
    ):
        got = client.execute("qom-get", path=path, property=name)
        assert got == {"return": value}, name
    listed = client.execute("qom-list", path="/machine/peripheral")["return"]
    assert {"name": "n", "type": "child<virtio-net-pci>"} in listed


def test_slots_are_taken_and_freed(start: Start) -> None:
    server, client = start(PC)
    for number in range(30):
        client.execute("device_add", driver="virtio-rng-pci", id=f"r{number}")
    full = client.execute("device_add", driver="virtio-rng-pci", id="more")
    assert failure(full).startswith("PCI: no slot/function available for virtio-rng-pci")
    client.execute("device_del", id="r7")
    server.guest.accept_unplug("r7")
    assert [client.read()["data"] for _ in range(2)] == deleted("/machine/peripheral/r7")
    assert client.execute("device_add", driver="virtio-rng-pci", id="more") == {"return": {}}


def test_unplug_waits_for_the_guest(start: Start) -> None:
    server, client = start(PC)
    client.execute("device_add", driver="virtio-net-pci", id="n")
    assert client.execute("device_del", id="n") == {"return": {}}
    assert client.execute("qom-get", path="/machine/peripheral/n", property="type")["return"]
    server.guest.accept_unplug("n")
    events = [client.read() for _ in range(2)]
    assert [event["event"] for event in events] == ["DEVICE_DELETED"] * 2
    assert [event["data"] for event in events] == deleted("/machine/peripheral/n")
    assert failure(client.execute("device_del", id="n")) == "Device 'n' not found"


def test_refused_unplug_leaves_the_device(start: Start) -> None:
    server, client = start(PC)
    client.execute("device_add", driver="virtio-rng-pci", id="r")
    client.execute("device_del", id="r")
    server.guest.refuse_unplug("r")
    told = client.read()
    assert told["event"] == "DEVICE_UNPLUG_GUEST_ERROR"
    assert told["data"] == {"device": "r", "path": "/machine/peripheral/r"}
    with pytest.raises(FakeQMPServerError, match="was not asked to let go of 'r': send device_del"):
        server.guest.accept_unplug("r")
    assert client.execute("qom-get", path="r", property="type") == {"return": "virtio-rng-pci"}


def test_an_unplug_that_is_refused_in_silence(start: Start) -> None:
    server, client = start(PC)
    client.execute("device_add", driver="virtio-rng-pci", id="r")
    client.execute("device_del", id="r")
    server.guest.refuse_unplug("r", silently=True)
    assert client.execute("query-name") == {"return": {}}
    assert client.execute("device_del", id="r") == {"return": {}}


def test_only_a_running_guest_lets_go(start: Start) -> None:
    server, client = start(STOPPED)
    client.execute("device_add", driver="virtio-rng-pci", id="r")
    client.execute("device_del", id="r")
    with pytest.raises(FakeQMPServerError, match="prelaunch"):
        server.guest.accept_unplug("r")


def test_second_request_and_reset(start: Start) -> None:
    _, client = start(STOPPED)
    client.execute("device_add", driver="virtio-rng-pci", id="r")
    client.execute("device_del", id="r")
    again = client.execute("device_del", id="r")
    assert failure(again) == "Device r is already in the process of unplug"
    assert client.events_then_reply("system_reset") == (["RESET"], {"return": {}})
    assert [client.read()["data"] for _ in range(2)] == deleted("/machine/peripheral/r")


def test_bus_without_hotplug(start: Start) -> None:
    _, client = start(Q35)
    refused = client.execute("device_add", driver="virtio-rng-pci", id="r")
    assert failure(refused) == "Bus 'pcie.0' does not support hotplugging"
    assert client.execute("device_add", driver="virtio-rng-pci", id="r", bus="rp") == {"return": {}}
    refused = client.execute("device_add", driver="virtio-rng-pci", id="s", bus="rp")
    assert "slot 0 function 0 already occupied by virtio-rng-pci" in failure(refused)


def test_controller_goes_with_what_is_on_it(start: Start) -> None:
    _, client = start([*STOPPED, "-device", "qemu-xhci,id=x"])
    client.execute("device_add", driver="usb-kbd", id="k")
    client.execute("device_del", id="x")
    client.events_then_reply("system_reset")
    gone = [client.read()["data"]["path"] for _ in range(3)]
    assert gone == [
        "/machine/peripheral/k",
        "/machine/peripheral/x/xhci-core",
        "/machine/peripheral/x",
    ]
    missing = client.execute("device_add", driver="usb-kbd", id="k")
    assert failure(missing) == "No 'usb-bus' bus found for device 'usb-kbd'"


def test_a_failed_device_leaves_nothing(start: Start) -> None:
    _, client = start([*STOPPED, "-netdev", "hubport,id=h,hubid=0"])
    wrong = {"driver": "virtio-net-pci", "id": "n", "netdev": "h", "addr": "0"}
    assert "in use by i440FX" in failure(client.execute("device_add", **wrong))
    wrong["addr"] = "5"
    assert client.execute("device_add", **wrong) == {"return": {}}
    taken = client.execute("device_add", driver="e1000", id="e", netdev="h")
    assert failure(taken) == "Property 'e1000.netdev' can't take value 'h', it's in use"


def test_devices_of_the_command_line(start: Start) -> None:
    _, client = start([*STOPPED, "-device", "VGA,id=v,addr=9", "-device", '{"driver":"e1000"}'])
    assert client.execute("qom-get", path="v", property="addr") == {"return": 72}
    assert client.execute("qom-get", path="v", property="hotplugged") == {"return": False}
    anonymous = client.execute("qom-list", path="/machine/peripheral-anon")["return"]
    assert {"name": "device[0]", "type": "child<e1000>"} in anonymous
    refused = client.execute("device_del", id="v")
    assert failure(refused) == "Device 'VGA' does not support hotplugging"


def test_cpus_of_the_command_line(start: Start) -> None:
    _, client = start([*STOPPED, "-smp", "3,maxcpus=4,sockets=2"])
    cpus = client.execute("query-cpus-fast")["return"]
    assert [cpu["cpu-index"] for cpu in cpus] == [0, 1, 2]
    assert cpus[2]["props"] == {"socket-id": 1, "core-id": 0, "thread-id": 0}
    assert len(client.execute("query-hotpluggable-cpus")["return"]) == 4


def test_backends_are_free_again_once_the_device_has_gone(start: Start) -> None:
    server, client = start([*PC, "-chardev", "null,id=c"])
    client.execute("netdev_add", type="hubport", id="h", hubid=0)
    client.execute("device_add", driver="virtio-net-pci", id="n", netdev="h")
    client.execute("device_add", driver="pci-serial", id="s", chardev="c")
    used = client.execute("device_add", driver="pci-serial", id="t", chardev="c")
    assert failure(used).endswith("chardev 'c' is already in use")
    for name in ("n", "s"):
        client.execute("device_del", id=name)
        server.guest.accept_unplug(name)
        while client.read()["data"]["path"] != f"/machine/peripheral/{name}":
            pass
    assert client.execute("device_add", driver="e1000", id="n", netdev="h") == {"return": {}}
    assert client.execute("device_add", driver="pci-serial", id="t", chardev="c") == {"return": {}}


def test_memory_goes_only_when_the_guest_lets_it(start: Start) -> None:
    server, client = start(["-nodefaults", "-M", "pc", "-m", "16M,slots=1,maxmem=64M"])
    added = {"qom-type": "memory-backend-ram", "id": "m", "size": 1 << 24}
    client.execute("object-add", **added)
    assert client.execute("device_add", driver="pc-dimm", id="d", memdev="m") == {"return": {}}
    client.execute("device_del", id="d")
    client.events_then_reply("system_reset")
    found = client.execute("query-memory-devices")["return"]
    assert [one["data"]["id"] for one in found] == ["d"]
    server.guest.accept_unplug("d")
    gone = {"device": "d", "path": "/machine/peripheral/d"}
    assert client.read()["data"] == gone
    assert client.execute("object-del", id="m") == {"return": {}}


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_nothing_is_read_until_a_device_is_asked_for(
    version: str, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    def read(version: str, part: str) -> None:
        raise AssertionError(f"read {part} of {version}")

    for module in ("devices", "objects", "qom", "facts"):
        monkeypatch.setattr(f"pytest_qmp.fake.{module}.load_facts", read)
    _, client = start([*STOPPED, "-device", "VGA,id=v"], version)
    assert client.status() == "prelaunch"
    assert client.execute("query-name") == {"return": {}}
