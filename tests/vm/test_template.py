"""Templates: booted once, and any number of fresh machines from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig, VMConfigError, VMError
from pytest_qmp.vm.restore_files import path_of
from pytest_qmp.vm.template import WAYS, Template
from tests import guests
from tests.vm.test_snapshots import QEMUS, binary, says


def echoing(folder: Path, **more: Any) -> VMConfig:
    """A guest that echoes lines."""
    arch = more.get("arch", "x86_64")
    fields = guests.overrides("echo", folder, arch=arch, banner="alive")
    return VMConfig(accel="tcg", timeout=30, **{**fields, **more})


def alive(vm: VirtualMachine) -> None:
    """The boot function of such a guest."""
    vm.console.expect_exact("alive")
    says(vm, "booted")


def digest(fd: int) -> str:
    """Of all that is in a file."""
    with open(path_of(fd), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@pytest.mark.needs_qemu
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
@pytest.mark.parametrize("version", QEMUS)
def test_each_way_on_each_machine(version: str, machine: str, way: str, tmp_path: Path) -> None:
    config = echoing(tmp_path, machine=machine, memory="32M", qemu=binary(version))
    with Template.boot(config, alive, restore=way) as template:
        assert (template.way, template.reasons) == (way, {})
        for name in ("first", "second"):
            with template.start(name=name) as vm:
                assert vm.label == name
                assert vm.events.names() == []
                assert vm.console.log.endswith("echo: booted\r\n")
                says(vm, name)
                assert ("first" in vm.console.log) is (name == "first")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_other_architectures(arch: str, tmp_path: Path) -> None:
    config = echoing(tmp_path, arch=arch)
    with Template.boot(config, alive, restore="clone") as template:
        assert (template.way, template.reasons) == ("clone", {})
        with template.start() as vm:
            says(vm, "clone")


@pytest.mark.needs_qemu
def test_where_timers_are_lost_each_machine_boots(tmp_path: Path) -> None:
    with Template.boot(echoing(tmp_path, arch="riscv64"), alive) as template:
        assert template.way == "boot"
        assert "timers of a RISC-V machine" in template.reasons["clone"]
        with template.start() as vm:
            says(vm, "booted")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("version", QEMUS)
def test_options_of_the_machine_are_kept(version: str, tmp_path: Path) -> None:
    qemu = binary(version)
    config = echoing(tmp_path, machine="q35,usb=on,i8042=off", memory=None, smp=4, qemu=qemu)
    with Template.boot(config, alive, restore="clone") as template, template.start() as vm:
        says(vm, "clone")
        assert len(vm.execute("query-cpus-fast")) == 4
        assert vm.config.machine == config.machine


@pytest.mark.needs_qemu
def test_a_clone_that_is_held(tmp_path: Path) -> None:
    with (
        Template.boot(echoing(tmp_path, memory="32M"), alive) as template,
        template.start(paused=True) as vm,
    ):
        vm.assert_status("paused")
        vm.cont()
        assert vm.wait_for_event("RESUME")
        says(vm, "clone")


@pytest.mark.needs_qemu
def test_a_template_that_was_paused(tmp_path: Path) -> None:
    def boot(vm: VirtualMachine) -> None:
        alive(vm)
        vm.stop()

    with (
        Template.boot(echoing(tmp_path, memory="32M"), boot) as template,
        template.start() as vm,
    ):
        vm.assert_status("paused")
        vm.cont()
        says(vm, "clone")


@pytest.mark.needs_qemu
def test_what_was_not_read_is_there_to_read(tmp_path: Path) -> None:
    def boot(vm: VirtualMachine) -> None:
        vm.console.expect_exact("al")

    with Template.boot(echoing(tmp_path, memory="32M"), boot) as template, template.start() as vm:
        vm.console.expect_exact("ive")
        assert vm.console.before == ""


@pytest.mark.needs_qemu
def test_machines_at_once_and_the_template_never_changes(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"image" * 200_000)
    config = echoing(tmp_path, memory="32M", drives=[Drive(disk, id="disk", interface="none")])
    with Template.boot(config, alive) as template:
        before = {name: digest(fd) for name, fd in template.descriptors().items()}
        assert set(before) == {"memory", "state", "disk0.0"}
        ready = threading.Barrier(4)

        def run(number: int) -> str:
            with template.start(name=f"clone{number}") as vm:
                for _ in range(3):
                    says(vm, f"number {number}")
                vm.execute(
                    "human-monitor-command",
                    {"command-line": f'qemu-io disk "write -P {number} 0 64k"'},
                )
                ready.wait(60)
                said = vm.execute(
                    "human-monitor-command",
                    {"command-line": f'qemu-io disk "read -P {number} 0 64k"'},
                )
                assert "failed" not in said
                return vm.console.log

        with ThreadPoolExecutor(4) as pool:
            logs = list(pool.map(run, range(1, 5)))
        for number, log in enumerate(logs, 1):
            assert [one for one in range(1, 5) if f"number {one}" in log] == [number]
        assert {name: digest(fd) for name, fd in template.descriptors().items()} == before
        with pytest.raises(PermissionError):
            os.pwrite(template.descriptors()["memory"], b"x", 0)
    assert disk.read_bytes() == b"image" * 200_000


@pytest.mark.needs_qemu
def test_a_crash_of_a_clone_leaves_the_template_good(tmp_path: Path) -> None:
    with Template.boot(echoing(tmp_path, memory="32M"), alive) as template:
        with template.start() as vm:
            vm.kill()
        with template.start() as vm:
            says(vm, "another")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("version", QEMUS)
def test_it_goes_by_its_parts_to_another_process(version: str, tmp_path: Path) -> None:
    config = echoing(tmp_path, memory="32M", qemu=binary(version), drives=[Drive.empty("8M")])
    with Template.boot(config, alive) as template:
        manifest = json.loads(json.dumps(template.manifest()))
        fds = {}
        for name, fd in template.descriptors().items():
            copy = tmp_path / f"copy-of-{name}"
            with open(path_of(fd), "rb") as file:
                copy.write_bytes(file.read())
            fds[name] = os.open(copy, os.O_RDONLY)
        config = template.config
    with Template.from_parts(config, manifest, fds) as template, template.start() as vm:
        says(vm, "elsewhere")
        with pytest.raises(PermissionError):
            os.pwrite(template.descriptors()["memory"], b"x", 0)
    with pytest.raises(VMError, match="not all of one"):
        Template.from_parts(config, manifest, {})


@pytest.mark.needs_qemu
def test_capture(tmp_path: Path) -> None:
    config = echoing(tmp_path, memory="32M")
    vm = VirtualMachine(config, cloneable=True).start()
    alive(vm)
    with Template.capture(vm) as template:
        assert template.way == "clone"
        assert vm.exit_status is not None
        with template.start() as clone:
            says(clone, "clone")
    with VirtualMachine(config) as plain:
        alive(plain)
        with Template.capture(plain) as template:
            assert template.way == "state"
            assert "cloneable=True" in template.reasons["clone"]
            with template.start() as clone:
                says(clone, "clone")


@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"devices": ["pcie-root-port,id=downstream,chassis=1"]},
            "the first machine from it failed",
        ),
        ({"devices": ["ivshmem-plain,memdev=shared"]}, "VMConfig.args|ivshmem|migrat"),
        ({"args": ["-m", "48M"]}, "VMConfig.args says -m"),
    ],
    ids=["hotplugged", "ivshmem", "memory"],
)
def test_it_says_why_a_way_does_not_serve(
    fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    if "devices" in fields and "ivshmem" in fields["devices"][0]:
        shared = tmp_path / "shared"
        shared.write_bytes(bytes(1 << 20))
        backend = f"memory-backend-file,id=shared,size=1M,share=on,mem-path={shared}"
        fields = {**fields, "args": ["-object", backend]}
    config = echoing(tmp_path, memory="32M", machine="q35", **fields)

    def boot(vm: VirtualMachine) -> None:
        alive(vm)
        if "root-port" in str(config.devices):
            vm.execute("device_add", driver="virtio-rng-pci", id="rng", bus="downstream")

    with Template.boot(config, boot) as template, template.start() as vm:
        assert template.way != "clone"
        assert re.search(reason, template.reasons["clone"])
        says(vm, "fresh")
        if template.way == "boot":
            with pytest.raises(VMError, match="no template can be made"):
                Template.boot(config, boot, restore="state")


@pytest.mark.needs_qemu
def test_the_way_that_was_asked_for_has_to_work(tmp_path: Path) -> None:
    config = echoing(tmp_path, args=["-m", "48M"])
    with pytest.raises(VMError, match=r"restore='clone'.*\n.*VMConfig.args says -m"):
        Template.boot(config, alive, restore="clone")
    with pytest.raises(VMConfigError, match="did you mean 'clone'"):
        Template.boot(config, alive, restore="clones")


@pytest.mark.needs_qemu
def test_an_error_of_the_boot_function_is_the_errors_own(tmp_path: Path) -> None:
    def boot(vm: VirtualMachine) -> None:
        raise LookupError(vm.status)

    with pytest.raises(LookupError, match="running"):
        Template.boot(echoing(tmp_path), boot)


def test_on_the_fake() -> None:
    def boot(vm: VirtualMachine) -> None:
        vm.fake.guest.on_console(b"hi\n", b"hello\r\n")
        vm.fake.guest.write_console(b"ready> ")
        vm.console.expect("ready>")

    with Template.boot(VMConfig(backend="fake"), boot) as template:
        assert template.way == "clone"
        for _ in range(2):
            with template.start() as vm:
                assert vm.console.log == "ready> "
                vm.console.sendline("hi")
                vm.console.expect("hello")
                vm.stop()


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Nothing that a template had stays open."""

    def memory_files() -> list[str]:
        links = [os.path.join("/proc/self/fd", one) for one in os.listdir("/proc/self/fd")]
        targets = [os.readlink(one) for one in links if os.path.lexists(one)]
        return [one for one in targets if "pytest-qmp-memory" in one or "-state" in one]

    yield
    assert memory_files() == []
