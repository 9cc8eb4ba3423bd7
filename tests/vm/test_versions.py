"""The same on each QEMU: the installed one, and those that scripts/unpack-qemu has unpacked."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import Drive, QMPCommandError, VirtualMachine, VMConfig, VMVerdictError
from pytest_qmp.vm.host import find_qemu, qemu_version
from pytest_qmp.vm.requirements import missing
from tests import guests

UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "qemu"

pytestmark = pytest.mark.needs_qemu

Start = Callable[..., VirtualMachine]


@pytest.fixture(scope="module", params=["installed", "10.0", "11.1"], ids="qemu-{}".format)
def qemu(request: pytest.FixtureRequest) -> str:
    """The path of the binary."""
    if request.param == "installed":
        return find_qemu("x86_64")
    place = UNPACKED / request.param
    if not (place / ".complete").exists():
        pytest.skip(f"QEMU {request.param} is not unpacked here: run scripts/unpack-qemu")
    return str(place / "usr" / "bin" / "qemu-system-x86_64")


@pytest.fixture
def start(qemu: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a machine with a guest that prints ``alive`` and then behaves as named."""
    with ExitStack() as machines:

        def start(behaviour: str = "spin", **more: Any) -> VirtualMachine:
            form = more.pop("form", "firmware")
            fields = guests.overrides(behaviour, tmp_path, banner="alive", form=form)
            fields["devices"] = (*fields.get("devices", ()), *more.pop("devices", ()))
            fields |= {"qemu": qemu, "accel": "tcg", "timeout": 20, "memory": "64M", **more}
            return machines.enter_context(VirtualMachine(**fields))

        yield start


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_it_starts_and_says_its_version(start: Start, qemu: str, machine: str) -> None:
    vm = start(machine=machine)
    vm.assert_status("running")
    assert str(vm.qmp.version).startswith(qemu_version(qemu))
    assert qemu_version(qemu) in vm.description
    assert vm.stderr == ""
    if "/.cache/" in qemu:
        assert qemu_version(qemu).startswith(Path(qemu).parents[2].name)


def test_its_own_firmware_boots_a_disk(start: Start, tmp_path: Path) -> None:
    disk = guests.overrides("halt", tmp_path, form="boot-sector", banner="up")["drives"]
    vm = start(firmware=None, devices=["virtio-net-pci", "virtio-vga"], drives=disk)
    vm.console.expect_exact("up")


def test_console_both_ways(start: Start) -> None:
    vm = start("echo")
    vm.console.expect_exact("alive")
    vm.console.send("hello\n")
    vm.console.expect_exact("hello")


def test_stop_cont_and_quit(start: Start) -> None:
    vm = start()
    with vm.expect_event("STOP"):
        vm.stop()
    vm.assert_status("paused")
    with vm.expect_event("RESUME"):
        vm.cont()
    assert vm.quit() == 0


def test_kill(start: Start) -> None:
    assert start().kill() == -signal.SIGKILL


def test_reset_by_the_guest(start: Start) -> None:
    vm = start("reset-on-key")
    vm.console.expect_exact("alive")
    with vm.expect_event("RESET", match={"data": {"guest": True}}):
        vm.console.send("x")
    vm.console.expect_exact("alive")


def test_poweroff_by_the_guest(start: Start) -> None:
    vm = start("poweroff-on-key")
    vm.console.expect_exact("alive")
    vm.console.send("x")
    assert vm.wait_for_event("SHUTDOWN").data == {"guest": True, "reason": "guest-shutdown"}
    assert vm.wait() == 0


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_what_the_firmware_makes_of_a_reset_is_no_verdict(start: Start, machine: str) -> None:
    # SeaBIOS resets the machine once more, and more often.
    options = {"form": "boot-sector", "machine": machine}
    vm = start("reset-on-key", args=["-no-shutdown"], **options)
    vm.console.expect("alive")
    vm.reset()
    vm.console.expect("alive")
    vm.console.send("x")
    vm.wait_for_event("RESET", match={"data": {"reason": "guest-reset"}})
    vm.console.expect("alive")
    vm.stop()
    vm.reset()
    vm.cont()
    vm.console.expect("alive")
    vm.check()


def test_a_reset_of_the_guests_own_is_a_verdict(start: Start) -> None:
    vm = start("reset-on-key", form="boot-sector")
    vm.console.expect("alive")
    vm.console.send("x")
    with pytest.raises(VMVerdictError, match=r"was reset .*while 'never'"):
        vm.console.expect("never")


def test_a_panic_is_told(start: Start) -> None:
    vm = start("panic", args=["-action", "panic=pause"])
    assert vm.wait_for_event("GUEST_PANICKED").data["action"] == "pause"
    vm.assert_status("guest-panicked")


def test_a_device_comes_and_goes(start: Start) -> None:
    # Not "spin": a device_add that fails beside a busy guest is one that QEMU 7.2 can hang in.
    vm = start("halt", devices=["pcie-root-port,id=downstream,chassis=1"])
    vm.execute("device_add", driver="virtio-rng-pci", id="rng", bus="downstream")
    vm.assert_qmp("qom-get", "", "virtio-rng-pci", path="/machine/peripheral/rng", property="type")
    with pytest.raises(QMPCommandError, match="Duplicate device ID 'rng'"):
        vm.execute("device_add", driver="virtio-rng-pci", id="rng", bus="downstream")
    vm.execute("device_del", id="rng")


def test_a_snapshot_is_saved_and_loaded(start: Start, tmp_path: Path, qemu: str) -> None:
    disk = tmp_path / "disk.qcow2"
    image_tool = Path(qemu).with_name("qemu-img")
    subprocess.run([image_tool, "create", "-q", "-f", "qcow2", disk, "8M"], check=True)
    vm = start(drives=[Drive(disk, id="disk", interface="none")])
    vm.console.expect_exact("alive")
    node = vm.execute("query-named-block-nodes")[0]["node-name"]
    for job in ("snapshot-save", "snapshot-load"):
        arguments = {"job-id": job, "tag": "one", "vmstate": node, "devices": [node]}
        vm.execute(job, arguments)
        vm.wait_for_event("JOB_STATUS_CHANGE", match={"data": {"id": job, "status": "concluded"}})
        assert [one.get("error") for one in vm.execute("query-jobs")] == [None]
        vm.execute("job-dismiss", id=job)
    vm.wait_for_status(["running", "paused"])


@pytest.mark.parametrize(
    ("requirement", "met"),
    [("machine:q35", True), ("device:virtio-net-pci", True), ("command:no-such", False)],
)
def test_what_it_has_is_known(qemu: str, requirement: str, met: bool) -> None:
    assert (missing(requirement, VMConfig(qemu=qemu)) == "") is met
