"""Migration: away and in, by each way, on the fake, on each QEMU and on each architecture."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pytest_qmp import (
    QMPCommandError,
    QMPTimeoutError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMMigrationError,
    VMVerdictError,
)
from tests import guests

from .every_backend import EVERY_BACKEND, EVERY_QEMU, config_of

Make = Callable[..., VirtualMachine]

WAYS = ["fd", "unix", "file"]
ARCHES = [
    pytest.param(arch, marks=pytest.mark.skipif(not shutil.which(f"qemu-system-{arch}"), reason=""))
    for arch in ("aarch64", "riscv64")
]


class Lab:
    """Makes machines of one kind, with a guest that counts where there is a real one."""

    def __init__(self, config: VMConfig, stack: ExitStack) -> None:
        self.config = config
        self._stack = stack

    def make(self, **changes: Any) -> VirtualMachine:
        """A machine that is not started."""
        vm = VirtualMachine(self.config, **changes)
        self._stack.callback(vm.close)
        return vm

    def source(self, **changes: Any) -> VirtualMachine:
        """One whose guest runs."""
        vm = self.make(name="source", **changes).start()
        if vm.backend == "qemu":
            vm.console.expect_exact("00000010")
        return vm

    def destination(self, **changes: Any) -> VirtualMachine:
        """One that waits for a guest."""
        return self.make(name="destination", incoming=True, **changes).start()


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """On the backend that the test is parametrized with."""
    config = config_of(request.param).replace(memory="32M")
    if config.backend != "fake":
        config = config.replace(**guests.overrides("flood", tmp_path))
    with ExitStack() as stack:
        yield Lab(config, stack)


_FAKE, _OLDEST, _NEWEST = EVERY_BACKEND[1], EVERY_QEMU[0], EVERY_QEMU[-1]
everywhere = pytest.mark.parametrize("lab", EVERY_BACKEND, indirect=True)
on_both = pytest.mark.parametrize("lab", [_FAKE, _OLDEST, _NEWEST], indirect=True)
on_qemu = pytest.mark.parametrize("lab", [_OLDEST, _NEWEST], indirect=True)
on_one_qemu = pytest.mark.parametrize("lab", [_OLDEST], indirect=True)


def numbers(log: bytes) -> list[int]:
    return [int(line, 16) for line in re.findall(rb"^([0-9A-F]{8})\r?$", log, re.MULTILINE)]


def assert_same_guest(source: VirtualMachine, destination: VirtualMachine) -> None:
    """What the two consoles show is one guest's count."""
    if source.backend != "qemu":
        return
    # All of it, also what is still on its way.
    source.kill()
    source.console.expect(pexpect.EOF)
    written = source.console_logs["serial0"]
    after = int(written.split()[-2], 16) + 16
    destination.console.expect_exact(f"{after:08X}\r\n")
    counted = numbers(written + destination.console_logs["serial0"])
    gaps = [(a, b) for a, b in pairwise(counted) if b != a + 1]
    seam = written[-40:], destination.console_logs["serial0"][:40]
    assert all(b - a <= 3 for a, b in gaps), (gaps, seam)
    # The byte that a UART was about to send may get lost, and then one line or two are none.
    assert 0 <= counted[-1] + 1 - len(counted) <= 2
    assert len(counted) > len(numbers(written)) > 16


@everywhere
@pytest.mark.parametrize("via", WAYS)
def test_to_another_machine(lab: Lab, via: str) -> None:
    source, destination = lab.source(), lab.destination()
    migration = source.migrate(destination, via=via)
    assert migration.status == "completed"
    assert migration.progress == 1.0
    assert migration.info["ram"]["total"] >= 32 << 20
    source.assert_status("postmigrate")
    destination.assert_status("running")
    assert_same_guest(source, destination)
    assert migration.info["status"] == "completed"


@on_both
def test_a_destination_that_was_not_started(lab: Lab) -> None:
    source, destination = lab.source(), lab.make(name="destination")
    source.migrate(to=destination)
    assert destination.config.incoming
    assert "-incoming" in destination.argv
    destination.assert_status("running")
    assert_same_guest(source, destination)


@on_both
def test_a_stopped_guest_stays_stopped(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    source.stop()
    source.migrate(destination)
    destination.assert_status("paused")
    destination.cont()
    assert_same_guest(source, destination)


@on_both
def test_to_a_file_and_in_from_there(lab: Lab, tmp_path: Path) -> None:
    source, path = lab.source(), tmp_path / "state, of a guest"
    path.write_bytes(b"rubbish" * 100_000)
    source.migrate(path, via="file")
    source.assert_status("postmigrate")
    for _ in range(2):
        destination = lab.destination()
        destination.migrate_incoming(path)
        destination.assert_status("running")
        assert_same_guest(source, destination)


@on_qemu
def test_to_an_address_and_on_and_on(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "state.gz"
    first, second, third = lab.source(), lab.destination(), lab.destination()
    first.migrate(second)
    assert_same_guest(first, second)
    second.migrate(f"exec:gzip -1c > {path}")
    assert gzip.decompress(path.read_bytes()).startswith(b"QEVM")
    third.migrate_incoming(f"exec:gzip -dc {path}")
    third.assert_status("running")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("via", WAYS)
def test_other_architectures(arch: str, via: str, tmp_path: Path) -> None:
    fields = guests.overrides("flood", tmp_path, arch=arch)
    config = VMConfig(accel="tcg", timeout=20, memory="32M", **fields)
    with ExitStack() as stack:
        lab = Lab(config, stack)
        source, destination = lab.source(), lab.destination()
        source.migrate(destination, via=via)
        source.assert_status("postmigrate")
        assert_same_guest(source, destination)


# -- on the way ------------------------------------------------------------------------------------


@on_both
def test_begun_watched_and_cancelled(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    slow = {"max_bandwidth": 10_000, "downtime_limit": 1}
    migration = source.migrate(destination, parameters=slow, wait=False)
    assert migration.wait("active").status == "active"
    told: list[tuple[int, int]] = []
    with pytest.raises(QMPTimeoutError, match=r"be completed, in vain: it is active, \d+ of \d+"):
        migration.wait(timeout=0.4, on_progress=lambda done, total: told.append((done, total)))
    assert all(0 <= done <= total for done, total in told)
    assert told
    assert 0.0 <= migration.progress <= 1.0
    assert migration.cancel() == "cancelled"
    source.wait_for_status("running")
    with pytest.raises(VMMigrationError, match=r"of source to destination by .* was cancelled"):
        migration.wait()
    # The guest was never gone, and can go elsewhere.
    other = lab.destination()
    source.migrate(other, parameters={"max-bandwidth": 1 << 30, "downtime-limit": 300})
    assert_same_guest(source, other)


@on_both
def test_held_before_the_switchover(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    migration = source.migrate(destination, capabilities=["pause-before-switchover"], wait=False)
    migration.wait("pre-switchover")
    with pytest.raises(QMPTimeoutError, match="migrate-continue"):
        migration.wait(timeout=0.05)
    source.execute("migrate-continue", state="pre-switchover")
    migration.wait()
    destination.assert_status("running")


@on_qemu
def test_by_several_connections(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    several: dict[str, Any] = {"capabilities": ["multifd"], "parameters": {"multifd-channels": 2}}
    with pytest.raises(VMMigrationError, match="multifd needs several connections"):
        source.migrate(destination, via="fd", **several)
    source.migrate(destination, **several)
    assert_same_guest(source, destination)


@on_qemu
def test_the_memory_comes_after_the_guest(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    how: dict[str, Any] = {
        "capabilities": ["postcopy-ram"],
        "parameters": {"max-bandwidth": 10_000, "downtime-limit": 1},
    }
    try:
        migration = source.migrate(destination, wait=False, **how)
    except QMPCommandError as refused:
        pytest.skip(f"this host does not let QEMU: {refused.desc}")
    migration.wait("active")
    source.execute("migrate-start-postcopy")
    migration.wait(["postcopy-active", "completed"])
    migration.wait()
    destination.assert_status("running")
    assert_same_guest(source, destination)


# -- what can go wrong -----------------------------------------------------------------------------


@on_qemu
def test_machines_that_differ(lab: Lab) -> None:
    source = lab.source(devices=["virtio-rng-pci"])
    destination = lab.destination()
    with pytest.raises(VMMigrationError) as failed:
        source.migrate(destination)
    text = str(failed.value)
    assert "from source" not in text
    assert "the migration of source to destination by a pair of sockets failed" in text
    assert re.search("The destination .*exited with status 1", text)
    assert "load of migration failed" in text
    assert "devices=('virtio-rng-pci',) and ()" in text
    # The guest has not gone: it was not let go before it had arrived.
    source.wait_for_status("running")
    source.migrate(lab.destination(devices=["virtio-rng-pci"]))
    destination.close()
    destination.check()


@on_qemu
@pytest.mark.parametrize("via", ["unix", "file"])
def test_less_memory(lab: Lab, via: str) -> None:
    source, destination = lab.source(), lab.destination(memory="16M")
    with pytest.raises(VMMigrationError, match=r"(?s)Size mismatch.*memory='32M' and '16M'"):
        source.migrate(destination, via=via)
    destination.close()
    destination.check()


@on_one_qemu
def test_a_destination_that_dies(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    slow = {"max-bandwidth": 10_000, "downtime-limit": 1}
    migration = source.migrate(destination, parameters=slow, wait=False)
    migration.wait("active")
    destination.kill()
    with pytest.raises(VMMigrationError, match="was killed by SIGKILL"):
        migration.wait()
    source.assert_status("running")


@on_one_qemu
def test_a_source_that_dies(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    migration = source.migrate(destination, parameters={"max-bandwidth": 10_000}, wait=False)
    migration.wait("active")
    os.kill(source.pid or 0, signal.SIGKILL)
    with pytest.raises(VMVerdictError, match="was killed by SIGKILL without having been asked"):
        migration.wait()
    destination.close()
    destination.check()


@on_one_qemu
@pytest.mark.parametrize("via", WAYS)
def test_a_source_that_must_stay(lab: Lab, via: str) -> None:
    nvme = ["nvme,serial=1"]
    source, destination = lab.source(devices=nvme), lab.destination(devices=nvme)
    if source.qmp.version >= (8, 0):
        pytest.skip("its nvme migrates, or will")
    with pytest.raises(QMPCommandError, match="non-migratable device"):
        source.migrate(destination, via=via)
    source.assert_status("running")
    destination.close()
    destination.check()


@pytest.mark.needs_qemu
def test_a_source_whose_guest_panics_meanwhile(tmp_path: Path) -> None:
    fields = guests.overrides("panic", tmp_path)
    config = VMConfig(accel="tcg", timeout=20, memory="32M", paused=True, **fields)
    with ExitStack() as stack:
        lab = Lab(config, stack)
        source, destination = lab.make().start(), lab.make(incoming=True).start()
        migration = source.migrate(destination, parameters={"max-bandwidth": 10_000}, wait=False)

        def go_on() -> None:
            source.cont()
            migration.wait()

        with pytest.raises(VMVerdictError, match="the guest panicked"):
            go_on()
        source.kill()


@on_both
def test_wrong_destinations(lab: Lab, tmp_path: Path) -> None:
    source, running = lab.source(), lab.source()
    with pytest.raises(VMMigrationError, match=r"is 'running', not 'inmigrate'.*incoming=True"):
        source.migrate(running)
    with pytest.raises(VMMigrationError, match="can't migrate to itself"):
        source.migrate(source)
    with pytest.raises(VMMigrationError, match="not 7"):
        source.migrate(7)  # type: ignore[arg-type]
    with pytest.raises(VMMigrationError, match=r"can't write .*: Is a directory"):
        source.migrate(tmp_path)
    with pytest.raises(VMMigrationError, match="via='fd' is for another machine"):
        source.migrate(tmp_path / "state", via="fd")
    with pytest.raises(VMMigrationError, match="did you mean 'file'"):
        source.migrate(lab.destination(), via="files")
    with pytest.raises(VMMigrationError, match=r"not 'inmigrate'"):
        source.migrate_incoming(tmp_path / "state")
    with pytest.raises(VMMigrationError, match=r"can't read .*: No such file"):
        lab.destination().migrate_incoming(tmp_path / "state")


@on_both
def test_wrong_settings(lab: Lab) -> None:
    source, destination = lab.source(), lab.destination()
    with pytest.raises(VMMigrationError, match="is a list of names"):
        source.migrate(destination, capabilities="multifd")
    with pytest.raises(QMPCommandError, match="nonsense"):
        source.migrate(destination, capabilities=["nonsense"])
    with pytest.raises(QMPCommandError, match="nonsense"):
        source.migrate(destination, parameters={"nonsense": 1})
    with pytest.raises(VMMigrationError, match="did you mean 'completed'"):
        source.migrate(destination, wait=False).wait("complete")


@on_one_qemu
def test_the_fake_and_qemu_do_not_mix(lab: Lab) -> None:
    source, fake = lab.source(), VirtualMachine(backend="fake", incoming=True)
    with fake, pytest.raises(VMMigrationError, match="the fake and a real QEMU"):
        source.migrate(fake)


def test_disks_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    config = VMConfig(backend="fake", cloneable=True, drives=[tmp_path / "disk"])
    with ExitStack() as stack:
        source = stack.enter_context(VirtualMachine(config))
        other = stack.enter_context(VirtualMachine(config, incoming=True))
        with pytest.raises(VMMigrationError, match=r"files that no other machine .*boot=None"):
            source.migrate(other)


@pytest.mark.needs_qemu
def test_a_machine_that_was_booted_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def qmp_boot():
            return lambda vm: vm.wait_for_status("running")

        def test_it(qmp_vm, qmp_vm_factory):
            assert qmp_vm.config.cloneable
            other = qmp_vm_factory(incoming=True)
            qmp_vm.migrate(to=other)
            other.assert_status("running")
        """
    )
    result = pytester.runpytest_subprocess("--qmp-accel=tcg", "--qmp-backend=qemu", "--qmp-require")
    result.assert_outcomes(passed=1)


def test_config() -> None:
    with pytest.raises(VMConfigError, match="hotplug_slots is a number up to 24"):
        VMConfig(hotplug_slots=25)
