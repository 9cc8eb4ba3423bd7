"""Clones of a booted Linux: each writes memory, files and disk, and none sees another's traces.

``PYTEST_QMP_CLONES=300`` runs so many of them, on each QEMU and machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import linux_guest
import pytest

from pytest_qmp import Drive, VirtualMachine, VMConfig, VMVerdictError
from pytest_qmp.vm.template import Template
from tests.guests import debian
from tests.vm.test_snapshots import QEMUS, binary
from tests.vm.test_template import digest

ROUNDS = int(os.environ.get("PYTEST_QMP_CLONES") or 8)
EVERYWHERE = [(version, machine) for version in QEMUS for machine in ("q35", "pc")]
SOME = [("installed", "q35")]

pytestmark = pytest.mark.needs_qemu

TRACES = """\
ls /tmp
cat /dev/shm/* 2>/dev/null
head -c 8 /dev/vda
cat /sys/class/net/eth0/ifalias 2>/dev/null
"""


def boot(vm: VirtualMachine) -> None:
    vm.console.expect_exact(linux_guest.PROMPT)
    vm.console.run("mkdir -p /dev/shm; mount -t tmpfs none /dev/shm")
    vm.console.run("mkdir -p /var/log /var/run; qemu-ga -d -m virtio-serial -p /dev/vport*p1")
    vm.guest.ping()


@pytest.fixture(
    scope="module", params=EVERYWHERE if ROUNDS > 8 else SOME, ids=lambda one: "-".join(one)
)
def template(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Template]:
    """A Linux with a disk, a network card, the guest agent and four CPUs."""
    version, machine = request.param
    try:
        guest = debian.linux_with("qemu-guest-agent")
    except debian.GuestBuildError as error:
        pytest.skip(str(error))
    disk = tmp_path_factory.mktemp("disk") / "disk.raw"
    disk.write_bytes(b"pristine" * (1 << 17))
    config = VMConfig(
        qemu=binary(version),
        machine=machine,
        accel="tcg",
        memory="256M",
        smp=4,
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        drives=[Drive(disk, format="raw")],
        network=True,
        guest_agent=True,
        timeout=120,
    )
    with Template.boot(config, boot, restore="clone") as template:
        before = {name: digest(fd) for name, fd in template.descriptors().items()}
        yield template
        assert {name: digest(fd) for name, fd in template.descriptors().items()} == before
    assert disk.read_bytes() == b"pristine" * (1 << 17)


@pytest.mark.timeout(120 + 4 * ROUNDS)
def test_no_clone_sees_another(template: Template) -> None:
    seen: set[str] = set()

    def one(number: int) -> str:
        with template.start() as vm:
            found = vm.console.run(TRACES).output
            assert found.split() == ["pristine"], found
            vm.console.run(
                f"echo trace{number} >/tmp/file; echo trace{number} >/dev/shm/memory; "
                f"printf trace%03d {number} | dd of=/dev/vda conv=fsync 2>/dev/null",
                check=True,
            )
            assert vm.console.run("head -c 8 /dev/vda").output == f"trace{number:03}"
            return vm.console.run("cat /proc/sys/kernel/random/uuid").output

    with ThreadPoolExecutor(2) as pool:
        for drawn in pool.map(one, range(ROUNDS)):
            assert drawn not in seen
            seen.add(drawn)


def test_time_goes_on(template: Template) -> None:
    with template.start() as vm:
        now = int(vm.console.run("date +%s").output)
        assert abs(now - time.time()) < 20
        begin = float(vm.console.run("cut -d' ' -f1 /proc/uptime").output)
        vm.console.run("sleep 0.3", check=True)
        assert float(vm.console.run("cut -d' ' -f1 /proc/uptime").output) >= begin + 0.3


def test_one_that_was_made_ready_ahead_is_as_fresh(template: Template) -> None:
    drawn = set()
    for _ in range(2):
        with template.start(paused=True) as vm:
            vm.freshen_ahead()
            assert vm.status == "paused"
            assert {event.name for event in vm.events}.isdisjoint({"RESUME", "STOP"})
            vm.release()
            # What is left to do is the clock: it has stood while nobody needed the machine.
            vm.console.run("date -s @1000", check=True)
            template.bring_up(vm)
            assert abs(int(vm.console.run("date +%s").output) - time.time()) < 20
            assert vm.console.run("ls -A /tmp").output == ""
            drawn.add(vm.console.run("cat /proc/sys/kernel/random/uuid").output)
    assert len(drawn) == 2


def test_the_agent_answers_in_a_clone(template: Template) -> None:
    with template.start() as vm:
        vm.guest.ping()
        assert len(vm.execute("query-cpus-fast")) == 4
        assert vm.console.run("nproc").output == "4\n"


def test_the_network_works_in_a_clone(template: Template) -> None:
    with template.start() as vm:
        vm.console.run("ip link set eth0 up && udhcpc -n -q -i eth0 -s /bin/true", check=True)
        vm.forward_port(22)


def test_a_crash_in_a_clone_leaves_the_template_good(template: Template) -> None:
    with template.start() as vm:
        vm.console.sendline("echo c >/proc/sysrq-trigger")
        with pytest.raises(VMVerdictError):
            vm.console.expect("what never comes")
    with template.start() as vm:
        assert vm.console.run("echo good").output == "good\n"


def test_a_clone_of_a_clone_and_back(template: Template) -> None:
    with template.start() as vm:
        vm.console.run("echo first >/tmp/first; echo first | dd of=/dev/vda 2>/dev/null")
        vm.save_snapshot()
        second = vm.clone()
        second.freshen()
        second.console.run("echo second >/tmp/second; echo second | dd of=/dev/vda 2>/dev/null")
        assert vm.console.run("ls /tmp; head -c 5 /dev/vda").output == "first\nfirst"
        assert second.console.run("ls /tmp").output.split() == ["first", "second"]
        vm.console.run("rm /tmp/first; echo third | dd of=/dev/vda 2>/dev/null; sync")
        vm.load_snapshot()
        shown = vm.console.run("ls /tmp; head -c 5 /dev/vda; cat /proc/sys/kernel/random/uuid")
        assert shown.output.startswith("first\nfirst")
