"""Devices that come and go: on the fake, on each QEMU, and with a Linux that lets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import linux_guest
import pytest

from pytest_qmp import QMPCommandError, QMPTimeoutError, VirtualMachine, VMConfig, VMHotplugError
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.vm.hotplug import _answers
from tests import guests

from .every_backend import EVERY_BACKEND, EVERY_QEMU, config_of

FAKES = [one for one in EVERY_BACKEND if one not in EVERY_QEMU]


@pytest.fixture(params=EVERY_BACKEND)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> VMConfig:
    """A q35 with two places, and a guest that does nothing."""
    config = config_of(request.param).replace(hotplug_slots=2, devices=["qemu-xhci"])
    if config.backend == "fake":
        return config
    return config.replace(**guests.overrides("halt", tmp_path))


@pytest.fixture
def vm(config: VMConfig) -> Iterator[VirtualMachine]:
    with VirtualMachine(config) as machine:
        yield machine


@pytest.fixture(params=FAKES)
def fake(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    """A machine whose guest a test plays."""
    with VirtualMachine(config_of(request.param), hotplug_slots=2) as machine:
        yield machine


def devices(vm: VirtualMachine) -> set[str]:
    listed = vm.execute("qom-list", path="/machine/peripheral")
    return {one["name"] for one in listed if one["type"].startswith("child<")}


# -- plugging in -----------------------------------------------------------------------------------


def test_a_device_takes_a_free_port(vm: VirtualMachine) -> None:
    first = vm.hotplug("virtio-rng-pci")
    assert first == "virtio-rng-pci-1"
    assert vm.hotplug("virtio-net-pci", id="card", mac="52:54:00:00:00:01") == "card"
    assert {first, "card"} < devices(vm)
    with pytest.raises(VMHotplugError, match=r"all 2 of its hotplug_slots are .*hotplug_slots=4"):
        vm.hotplug("virtio-rng-pci")


def test_without_ports(config: VMConfig) -> None:
    with VirtualMachine(config.replace(hotplug_slots=0)) as vm:
        with pytest.raises(VMHotplugError, match=r"'pcie\.0' takes .* only at the start.*slots=2"):
            vm.hotplug("virtio-rng-pci")
        with pytest.raises(QMPCommandError, match=r"'pcie\.0' does not support"):
            vm.hotplug("virtio-rng-pci", bus="pcie.0")


@pytest.mark.parametrize("machine", ["pc", "pc,usb=off"])
def test_a_pc_needs_no_ports(config: VMConfig, machine: str) -> None:
    with VirtualMachine(config, machine=machine) as vm:
        assert "hotplug-slot1" not in " ".join(vm.argv)
        assert vm.hotplug("virtio-rng-pci") in devices(vm)


def test_properties_are_spelled_as_the_device_does(vm: VirtualMachine) -> None:
    vm.hotplug("virtio-net-pci", id="card", guest_csum=False, page_per_vq=True)
    for name, value in (("guest_csum", False), ("page-per-vq", True)):
        path = "/machine/peripheral/card"
        assert vm.execute("qom-get", path=path, property=name) is value


def test_names_that_are_wrong(vm: VirtualMachine) -> None:
    with pytest.raises(QMPCommandError, match="did you mean 'virtio-rng-pci'"):
        vm.hotplug("virtio-rgn-pci")
    with pytest.raises(QMPCommandError, match="has no property 'mak'; did you mean 'mac'"):
        vm.hotplug("virtio-net-pci", mak="52:54:00:00:00:01")
    vm.hotplug("virtio-net-pci", id="card")
    with pytest.raises(QMPCommandError, match="did you mean 'card'"):
        vm.unplug("crd")


@pytest.mark.parametrize("config", EVERY_QEMU, indirect=True)
def test_cpus(config: VMConfig) -> None:
    with VirtualMachine(config, smp="1,maxcpus=2") as vm:
        cpu = vm.hotplug("qemu64-x86_64-cpu")
        assert cpu in devices(vm)
        assert len(vm.execute("query-cpus-fast")) == 2
        with pytest.raises(VMHotplugError, match="2 places for CPUs, and all are taken"):
            vm.hotplug("qemu64-x86_64-cpu")


# -- unplugging ------------------------------------------------------------------------------------


def test_usb_goes_at_once(vm: VirtualMachine) -> None:
    vm.stop()
    tablet = vm.hotplug("usb-tablet", "tablet")
    gone = vm.unplug(tablet)
    assert gone is not None
    assert gone.data["device"] == "tablet"
    assert vm.wait_for_event("DEVICE_DELETED").data["device"] == "tablet"
    assert "tablet" not in devices(vm)


def test_a_guest_that_does_not_answer(vm: VirtualMachine) -> None:
    device = vm.hotplug("virtio-rng-pci")
    with pytest.raises(QMPTimeoutError, match=r"go of 'virtio-rng-pci-1'.*has to have booted"):
        vm.unplug(device, timeout=0.1)
    if vm.backend == "fake":
        busy = f"Device {device} is already in the process of unplug"
        vm.fake.on("device_del").reply_error("GenericError", busy)
        with pytest.raises(QMPTimeoutError, match=f"QEMU said last: {busy}"):
            vm.unplug(device, timeout=0.1)


def test_a_guest_that_does_not_run(vm: VirtualMachine) -> None:
    device = vm.hotplug("virtio-rng-pci")
    vm.stop()
    with pytest.raises(VMHotplugError, match=r"run state is 'paused'.*cont\(\)") as refused:
        vm.unplug(device)
    assert refused.value.device == device


def test_the_fake_s_guest_lets_go(fake: VirtualMachine) -> None:
    guest = fake.fake.guest
    guest.on_unplug(guest.accept_unplug)
    device = fake.hotplug("virtio-rng-pci")
    gone = fake.unplug(device)
    assert gone is not None
    assert gone.data["device"] == device
    assert device not in devices(fake)
    # The port is free again.
    for _ in range(3):
        fake.unplug(fake.hotplug("virtio-rng-pci"))


def test_the_fake_s_guest_refuses(fake: VirtualMachine) -> None:
    guest = fake.fake.guest
    guest.on_unplug(guest.refuse_unplug)
    device = fake.hotplug("virtio-rng-pci")
    with pytest.raises(VMHotplugError, match=r"not let go.*DEVICE_UNPLUG_GUEST_ERROR") as refused:
        fake.unplug(device)
    assert refused.value.device == device
    guest.on_unplug(guest.accept_unplug)
    fake.unplug(device)


def test_asked_again_until_it_listens(fake: VirtualMachine) -> None:
    guest = fake.fake.guest
    asked: list[str] = []

    def boots_meanwhile(device: str) -> None:
        asked.append(device)
        if len(asked) < 2:
            guest.refuse_unplug(device, silently=True)
        else:
            guest.accept_unplug(device)

    guest.on_unplug(boots_meanwhile)
    device = fake.hotplug("virtio-rng-pci")
    fake.unplug(device)
    assert asked == [device, device]


def test_only_its_own_device_counts(fake: VirtualMachine) -> None:
    guest = fake.fake.guest
    one, other = fake.hotplug("virtio-rng-pci"), fake.hotplug("virtio-rng-pci")
    fake.execute("device_del", id=other)

    def both(device: str) -> None:
        guest.accept_unplug(other)
        guest.accept_unplug(device)

    guest.on_unplug(both)
    gone = fake.unplug(one)
    assert gone is not None
    assert gone.data["device"] == one


def test_what_the_guest_s_firmware_tells() -> None:
    def ost(source: int, status: int, device: str = "dimm") -> bool:
        info = {"device": device, "slot": "0", "slot-type": "DIMM"}
        data = {"info": {**info, "source": source, "status": status}}
        return _answers(QMPEvent(event="ACPI_DEVICE_OST", data=data), "dimm")

    assert ost(3, 0x81)
    assert ost(0x103, 1)
    assert not ost(3, 0x84)
    assert not ost(3, 0)
    assert not ost(1, 1)
    assert not ost(3, 0x81, "other")


# -- with a Linux ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["q35", "pc"])
def linux(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    """A booted one: q35 on the installed QEMU, pc on the newest that is here."""
    try:
        guest = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    config = config_of("installed" if request.param == "q35" else "11.1").replace(
        machine=request.param,
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=linux_guest.APPEND,
        memory=None,
        smp="1,maxcpus=2",
        args=["-m", "256M,slots=2,maxmem=512M"],
        hotplug_slots=2,
        timeout=60,
    )
    with VirtualMachine(config) as vm:
        vm.console.expect_exact(linux_guest.PROMPT)
        yield vm


def run(vm: VirtualMachine, command: str) -> None:
    vm.console.sendline(command)
    vm.console.expect_exact(linux_guest.PROMPT)


def until(vm: VirtualMachine, condition: str) -> None:
    run(vm, f"until {condition}; do usleep 50000; done")


@pytest.mark.needs_qemu
def test_linux_gets_a_card_and_gives_it_back(linux: VirtualMachine) -> None:
    for _ in range(2):
        card = linux.hotplug("virtio-net-pci", mac="52:54:00:00:00:01")
        until(linux, "grep -q 52:54:00:00:00:01 /sys/class/net/*/address")
        linux.unplug(card)
        until(linux, "! grep -q 52:54:00:00:00:01 /sys/class/net/*/address")
    assert card not in devices(linux)


@pytest.mark.needs_qemu
def test_linux_gets_a_disk(linux: VirtualMachine, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"hello from the host".ljust(1 << 20))
    file = {"driver": "file", "filename": str(tmp_path / "disk")}
    linux.execute("blockdev-add", driver="raw", node_name="disk", file=file)
    disk = linux.hotplug("virtio-blk-pci", drive="disk")
    until(linux, "test -b /dev/vda")
    linux.console.sendline("head -c 19 /dev/vda")
    linux.console.expect_exact("hello from the host")
    linux.unplug(disk)
    linux.execute("blockdev-del", node_name="disk")


@pytest.mark.needs_qemu
def test_linux_gets_memory(linux: VirtualMachine) -> None:
    linux.execute("object-add", qom_type="memory-backend-ram", id="more", size=128 << 20)
    dimm = linux.hotplug("pc-dimm", memdev="more")
    linux.wait_for_event("ACPI_DEVICE_OST", {"data": {"info": {"device": dimm, "source": 1}}})
    linux.unplug(dimm)
    linux.execute("object-del", id="more")


@pytest.mark.needs_qemu
def test_linux_gets_a_cpu(linux: VirtualMachine) -> None:
    # Once a CPU has gone under TCG, QEMU 7.2 crashes with the next change of memory.
    cpu = linux.hotplug("qemu64-x86_64-cpu")
    until(linux, "test -e /sys/devices/system/cpu/cpu1/online")
    if linux.qmp.version >= (10, 0):
        linux.unplug(cpu)
        assert cpu not in devices(linux)
