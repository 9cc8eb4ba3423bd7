"""Types, objects and their properties: on the fake alone, and on real QEMUs and the fake alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from pytest_qmp.fake import FakeQMPServer

from .client import LineClient
from .test_agrees_with_qemu import on_fake, on_qemu, version

__all__ = ["on_fake", "on_qemu", "version"]

STOPPED = ["-S", "-M", "pc", "-m", "16"]
Talk = Callable[[list[str], list[bytes]], list[bytes]]


@pytest.fixture
def ask(
    make_server: Callable[..., FakeQMPServer], connect: Callable[..., LineClient]
) -> Callable[..., Any]:
    """Sends commands to one fake and gives the last reply."""

    def ask(*commands: dict[str, Any], args: list[str] | None = None) -> Any:
        client = connect(make_server("11.1", args=["-nodefaults", *(args or STOPPED)]))
        for command in commands:
            client.send(command)
            reply = client.read()
        return reply

    return ask


def call(execute: str, **arguments: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    return {"execute": execute, **({"arguments": named} if named else {})}


def test_object_lives_from_add_to_del(ask: Callable[..., Any]) -> None:
    add = call("object-add", qom_type="iothread", id="io", poll_max_ns=7)
    read = call("qom-get", path="/objects/io", property="poll-max-ns")
    assert ask(add, read) == {"return": 7}
    gone = ask(add, call("object-del", id="io"), read)
    assert gone["error"]["class"] == "DeviceNotFound"


def test_partial_path_must_be_unique(ask: Callable[..., Any]) -> None:
    assert ask(call("qom-get", path="i440fx", property="type"))["return"] == "i440FX-pcihost"
    assert ask(call("qom-list", path=""))["error"]["desc"] == "Path '' is ambiguous"


def test_set_property_is_read_back(ask: Callable[..., Any]) -> None:
    write = call("qom-set", path="/machine", property="hpet", value=False)
    assert ask(write, call("qom-get", path="/machine", property="hpet")) == {"return": False}


def test_memory_backend_in_use(ask: Callable[..., Any]) -> None:
    args = ["-S", "-M", "pc,memory-backend=ram0", "-m", "16"]
    args += ["-object", "memory-backend-ram,id=ram0,size=16M"]
    refused = ask(call("object-del", id="ram0"), args=args)
    assert refused["error"]["desc"] == "Cannot delete host memory backend 'ram0' which is mapped"


def test_memory_of_the_command_line(ask: Callable[..., Any]) -> None:
    args = ["-S", "-M", "q35", "-m", "1G,slots=2,maxmem=4G"]
    backend = call("object-add", qom_type="memory-backend-ram", id="m", size=1 << 29)
    dimm = call("device_add", driver="pc-dimm", id="d", memdev="m")
    summary = ask(backend, dimm, call("query-memory-size-summary"), args=args)["return"]
    assert summary == {"base-memory": 1 << 30, "plugged-memory": 1 << 29}


#: Numbers of threads are the host's; the monitor is not the same chardev.
HOST = re.compile(rb'"thread-id": \d{3,}')


@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(
            [
                call("qom-list-types", implements="user-creatable"),
                call("qom-list-types", implements="bus", abstract=True),
                call("qom-list-properties", typename="virtio-net-pci"),
                call("qom-list-properties", typename="nosuch"),
                call("device-list-properties", typename="e1000"),
                call("device-list-properties", typename="pci-device"),
            ],
            id="types",
        ),
        pytest.param(
            [
                call("qom-list", path="/machine"),
                call("qom-list", path="/machine/i440fx/pci.0"),
                call("qom-list", path="/machine/unattached"),
                call("qom-get", path="/machine", property="acpi-device"),
                call("qom-get", path="rtc", property="type"),
                call("qom-set", path="/machine", property="hpet", value="x"),
                call("qom-set", path="/machine", property="type", value="x"),
            ],
            id="tree",
        ),
        pytest.param(
            [
                call("object-add", qom_type="iothread", id="io"),
                call("object-add", qom_type="iothread", id="io"),
                call("object-add", qom_type="memory-backend-ram", id="m", size=4096),
                call("object-add", qom_type="secret", id="s"),
                call("query-iothreads"),
                call("query-memdev"),
                call("qom-list", path="/objects/m"),
                call("object-del", id="pc.ram"),
                call("object-del", id="io"),
                call("object-del", id="io"),
            ],
            id="objects",
        ),
        pytest.param(
            [
                call("device_add", driver="virtio-net-pci", id="n", vectors="3"),
                call("device_add", driver="virtio-net-pci", id="n", mac="x"),
                call("device_add", driver="virtio-net-pci", id="n", addr="1f.7"),
                call("device_add", driver="virtio-rng-pci", id="r", addr="0"),
                call("device_add", driver="virtio-rng-pci", id="r", nosuch=1),
                call("device_add", driver="isa-serial", id="i"),
                call("device_add", driver="VGA", id="v"),
                call("device_add", driver="virtio-blk-pci", id="b", drive="nosuch"),
                call("device_add", driver="virtio-rng-pci", id="g", bus="nosuch"),
                call("device_add", driver="virtio-rng-pci", id="g"),
                call("qom-list", path="/machine/peripheral"),
                call("qom-list", path="/machine/peripheral/g"),
                call("qom-get", path="g", property="addr"),
                call("device_del", id="g"),
                call("device_del", id="g"),
                call("query-pci"),
            ],
            id="devices",
        ),
        pytest.param(
            [
                call("query-cpus-fast"),
                call("query-hotpluggable-cpus"),
                call("query-cpu-definitions"),
                call("query-cpu-model-expansion", type="static", model={"name": "qemu64"}),
                call("query-machines"),
                call("query-current-machine"),
                call("query-kvm"),
                call("query-memory-size-summary"),
            ],
            id="machine",
        ),
    ],
)
def test_agrees(commands: list[dict[str, Any]], on_qemu: Talk, on_fake: Talk) -> None:
    messages = [json.dumps(command).encode() for command in commands]
    real, fake = (
        [HOST.sub(b"", line) for line in talk(STOPPED, messages)] for talk in (on_qemu, on_fake)
    )
    assert fake == real
