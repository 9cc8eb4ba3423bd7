"""How soon a booted Linux guest answers a command, by each way to have one, and what that costs.

    python -m benchmarks.restore [--rounds 9] [--cold 3] [--only ways|memory|suite]
                                 [--tests 200] [--workers 1,2,8]

*ways*: all ways take turns; times are from nothing to the answer of the first command, medians in
milliseconds; ratios are medians of those within a round. *memory*: of one clone and of eight at
once. *suite*: a suite of tests with a guest each, run by pytest in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from pytest_qmp import VirtualMachine, VMConfig
from pytest_qmp.vm import snapshots
from pytest_qmp.vm.host import qemu_version
from pytest_qmp.vm.restore_state import load_state
from pytest_qmp.vm.template import Template
from pytest_qmp.vm.template_pool import ClonePool

if TYPE_CHECKING:
    from linux_guest import LinuxGuest

    from pytest_qmp.vm.console_shell import ShellState

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SECONDS = 120.0
PARTS = ("ways", "memory", "suite")

SUITE = """
import pytest

@pytest.fixture
def qmp_vm_config(qmp_vm_config):
    return qmp_vm_config.replace(
        machine="pc", memory="256M", kernel={kernel!r}, initrd={initrd!r}, append={append!r},
        timeout=120,
    )

@pytest.fixture(scope="session")
def qmp_boot():
    def boot(vm):
        vm.console.expect_exact({prompt!r})
        vm.console.run("true")
    return boot

@pytest.mark.parametrize("number", range({tests}))
def test_fresh(qmp_vm, number):
    command = f"ls /tmp; echo {{number}} > /tmp/trace; cat /tmp/trace"
    assert qmp_vm.console.run(command).output == f"{{number}}\\n"
"""


def answer(vm: VirtualMachine) -> None:
    """The first command of a test."""
    output = vm.console.run("echo $((6 * 7))").output
    if output != "42\n":
        raise SystemExit(f"the guest answered {output!r}")


class Times:
    """Milliseconds that things took, by name, in the order in which they were met first."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Adds what the block takes."""
        started = time.perf_counter()
        yield
        self.add(name, 1000 * (time.perf_counter() - started))

    def add(self, name: str, milliseconds: float) -> None:
        """Adds one that was measured otherwise."""
        self._taken[name].append(milliseconds)

    def rows(self, floor: str, cold: str) -> Iterator[tuple[str, float, float, float]]:
        """Each name, its median, its median ratio to the floor, and a cold boot's to it."""
        for name, taken in self._taken.items():
            floors = self._taken[floor]
            share = statistics.median(one / by for one, by in zip(taken, floors, strict=False))
            boot = statistics.median(self._taken[cold]) / statistics.median(taken)
            yield name, statistics.median(taken), share, boot

    def medians(self) -> Iterator[tuple[str, float, float]]:
        """Each name, its median and its least."""
        for name, taken in self._taken.items():
            yield name, statistics.median(taken), min(taken)


class Ways:
    """The ways to have a guest that has booted; each method measures one of them, once."""

    COLD = "cold boot"
    FLOOR = "clone"

    def __init__(self, guest: LinuxGuest, prompt: str, folder: Path, undo: ExitStack) -> None:
        self.config = VMConfig(
            machine="pc",
            accel="tcg",
            memory="256M",
            kernel=guest.kernel,
            initrd=guest.initrd,
            append=guest.append,
            timeout=SECONDS,
        )
        self._prompt = prompt
        self.times, self.split = Times(), Times()
        self.clones = undo.enter_context(Template.boot(self.config, self.boot, restore="clone"))
        self._states = undo.enter_context(Template.boot(self.config, self.boot, restore="state"))
        self._pool = ClonePool(1)
        undo.callback(self._pool.close)
        self._image, self._copy = folder / "saved.qcow2", folder / "copy.qcow2"
        self._shell = self._save_image()
        self._runner = undo.enter_context(VirtualMachine(self.config))
        self.boot(self._runner)
        self._runner.save_snapshot()

    def boot(self, vm: VirtualMachine) -> None:
        """Until the shell waits, and is known."""
        vm.console.expect_exact(self._prompt)
        vm.console.run("true")

    def _with_image(self, image: Path, *args: str) -> VMConfig:
        drive = f"if=none,id=saved,format=qcow2,file={image}"
        return self.config.replace(args=("-drive", drive, *args))

    def _save_image(self) -> ShellState | None:
        """Has QEMU keep a guest's state in a qcow2 image, by its own means."""
        create = ["qemu-img", "create", "-q", "-f", "qcow2", str(self._image), "1M"]
        subprocess.run(create, check=True)
        with VirtualMachine(self._with_image(self._image)) as vm:
            self.boot(vm)
            said = vm.execute("human-monitor-command", {"command-line": "savevm booted"})
            if said:
                raise SystemExit(f"savevm: {said}")
            return vm.console.shell_state

    def cold(self) -> None:
        with ExitStack() as ends, self.times.of(self.COLD):
            vm = ends.enter_context(VirtualMachine(self.config))
            self.boot(vm)
            answer(vm)

    def launch(self) -> None:
        with ExitStack() as ends, self.times.of("launch alone, nothing runs"):
            ends.enter_context(VirtualMachine(self.config.replace(paused=True)))

    def clone(self) -> None:
        with ExitStack() as ends, self.times.of(self.FLOOR):
            answer(ends.enter_context(self.clones.start()))

    def stale_clone(self) -> None:
        with ExitStack() as ends, self.times.of("clone, clock and random numbers left"):
            vm = ends.enter_context(self.clones.start(paused=True))
            vm.release()
            answer(vm)

    def pool(self) -> None:
        self._pool.prepare(self.clones, {}, VirtualMachine.start)
        filling = self._pool._thread
        if filling is not None:
            filling.join(SECONDS)
        with ExitStack() as ends, self.times.of("clone from the pool"):
            with self.split.of("pool: take"):
                vm = self._pool.take(self.clones, {})
            if vm is None:
                raise SystemExit("the pool did not get a machine ready")
            ends.callback(vm.close)
            with self.split.of("pool: release (cont)"):
                vm.release()
            with self.split.of("pool: freshen (clock, random numbers)"):
                self.clones.bring_up(vm)
            with self.split.of("pool: first command"):
                answer(vm)

    def stale_pool(self) -> None:
        vm = self.clones.start(paused=True)
        with vm, self.times.of("clone from the pool, clock and random numbers left"):
            vm.release()
            answer(vm)

    def state(self) -> None:
        with ExitStack() as ends, self.times.of("state file"):
            answer(ends.enter_context(self._states.start()))

    def loadvm(self) -> None:
        with ExitStack() as ends, self.times.of("-loadvm at the start, image copied"):
            shutil.copyfile(self._image, self._copy)
            config = self._with_image(self._copy, "-loadvm", "booted")
            vm = ends.enter_context(VirtualMachine(config))
            vm.console.shell_state = self._shell
            answer(vm)

    def snapshot(self) -> None:
        with self.times.of("load_snapshot() in the running QEMU"):
            self._runner.load_snapshot()
            answer(self._runner)

    def steps(self) -> None:
        """A clone, step by step."""
        split = self.split
        restored: list[float] = []

        def timed(*args: Any, **how: Any) -> None:
            started = time.perf_counter()
            load_state(*args, **how)
            restored.append(1000 * (time.perf_counter() - started))

        with mock.patch.object(snapshots, "load_state", timed):
            started = time.perf_counter()
            vm = self.clones.machine(paused=True)
            vm.start()
        with vm:
            split.add("launch", 1000 * (time.perf_counter() - started) - restored[0])
            split.add("restore", restored[0])
            with split.of("cont"):
                vm.release()
            with split.of("clock and random numbers"):
                self.clones.bring_up(vm)
            with split.of("first command"):
                answer(vm)
            with split.of("second command"):
                answer(vm)
            started = time.perf_counter()
        split.add("end", 1000 * (time.perf_counter() - started))


def show_ways(ways: Ways, rounds: int, cold: int) -> None:
    """Measures and prints."""
    plain: list[Callable[[], None]] = [
        *(ways.launch, ways.clone, ways.stale_clone, ways.pool, ways.stale_pool),
        *(ways.state, ways.loadvm, ways.snapshot, ways.steps),
    ]
    for number in range(rounds):
        for way in [ways.cold] * (number < cold) + plain:
            way()
    table(
        "Until the guest answers a command",
        ["ms", "÷ clone", "of a cold boot"],
        [
            (name, f"{middle:.0f}", f"{share:.2f}", f"1/{boot:.1f}")
            for name, middle, share, boot in ways.times.rows(Ways.FLOOR, Ways.COLD)
        ],
    )
    table(
        "A clone, step by step",
        ["median, ms", "least, ms"],
        [(name, f"{middle:.1f}", f"{least:.1f}") for name, middle, least in ways.split.medians()],
    )


# -- memory --------------------------------------------------------------------------------------


def memory_of(machines: list[VirtualMachine]) -> tuple[str, ...]:
    """MB of each, on average: its share of all, its own, its own that it has written to."""
    found: dict[str, list[int]] = defaultdict(list)
    for vm in machines:
        text = Path(f"/proc/{vm.pid}/smaps_rollup").read_text()
        sizes = {name: int(size) for name, size in re.findall(r"(?m)^(\w+): +(\d+) kB", text)}
        found["pss"].append(sizes["Pss"])
        found["uss"].append(sizes["Private_Clean"] + sizes["Private_Dirty"])
        found["dirty"].append(sizes["Private_Dirty"])
        found["shared"].append(sizes["Shared_Clean"] + sizes["Shared_Dirty"])
    return tuple(f"{statistics.mean(sizes) / 1024:.0f}" for sizes in found.values())


def show_memory(ways: Ways) -> None:
    """Measures and prints."""
    rows = []
    with VirtualMachine(ways.config) as vm:
        ways.boot(vm)
        answer(vm)
        rows.append(("booted by itself", *memory_of([vm])))
    for number in (1, 8):
        with ExitStack() as ends:
            machines = [ends.enter_context(ways.clones.start()) for _ in range(number)]
            for vm in machines:
                answer(vm)
            rows.append(
                (
                    f"each of {number} clones" if number > 1 else "one clone alone",
                    *memory_of(machines),
                )
            )
    kept = os.fstat(ways.clones.descriptors()["memory"]).st_blocks * 512
    table("Memory", ["PSS, MB", "private, MB", "of it written, MB", "shared, MB"], rows)
    print(f"\nThe template itself keeps {kept / 2**20:.0f} MB.")


# -- a suite -------------------------------------------------------------------------------------


def run_suite(folder: Path, tests: int, *options: str) -> float:
    """Seconds that pytest takes for the suite."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    argv += ["--qmp-backend=qemu", "--qmp-accel=tcg", "--qmp-timeout-scale=4", str(folder)]
    started = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    taken = time.perf_counter() - started
    print(f"{tests} tests in {taken:.1f} s: {' '.join(options)}", file=sys.stderr)
    if done.returncode or f"{tests} passed" not in done.stdout:
        raise SystemExit(f"the suite failed:\n{done.stdout[-4000:]}")
    return taken


def show_suite(guest: LinuxGuest, prompt: str, folder: Path, tests: int, workers: str) -> None:
    """Measures and prints."""
    few = max(1, min(tests, 5))

    def write(number: int) -> Path:
        place = folder / f"suite{number}"
        place.mkdir()
        named = {"kernel": str(guest.kernel), "initrd": str(guest.initrd)}
        text = SUITE.format(**named, append=guest.append, prompt=prompt, tests=number)
        (place / "test_fresh.py").write_text(text)
        return place

    rows = []
    booting = run_suite(write(few), few, "--qmp-restore=boot")
    rows.append((f"each boots, 1 worker, {few} tests", booting, few))
    place = write(tests)
    for count in map(int, workers.split(",")):
        options = ["-n", str(count)] if count > 1 else ["-p", "no:xdist"]
        taken = run_suite(place, tests, *options)
        rows.append((f"qmp_boot, {count} worker{'s' * (count > 1)}, {tests} tests", taken, tests))
    table(
        "A suite",
        ["s", "ms a test", "of booting each"],
        [
            (
                name,
                f"{taken:.1f}",
                f"{1000 * taken / number:.0f}",
                f"1/{booting / few / (taken / number):.1f}",
            )
            for name, taken, number in rows
        ],
    )


# -- all of it -----------------------------------------------------------------------------------


def table(title: str, columns: list[str], rows: list[tuple[str, ...]]) -> None:
    """Prints one, as Markdown."""
    lines = [(title, *columns), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns) + 1)]

    def shown(line: tuple[str, ...]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    print("", shown(lines[0]), f"| {' | '.join(rule)} |", *map(shown, rows), sep="\n", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore")
    parser.add_argument("--rounds", type=int, default=9, help="of all ways but the cold boot")
    parser.add_argument("--cold", type=int, default=3, help="in how many rounds a guest boots")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--tests", type=int, default=200, help="in the suite")
    parser.add_argument("--workers", default="1,2,8", help="of pytest-xdist")
    options = parser.parse_args()
    parts = options.only or PARTS
    sys.path.append(str(EXAMPLES))
    from linux_guest import PROMPT, build

    guest = build()
    qemu = VirtualMachine().argv[0]
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"QEMU {qemu_version(qemu)} (tcg), {os.cpu_count()} cores, load before: {load}")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as undo:
        if "ways" in parts or "memory" in parts:
            ways = Ways(guest, PROMPT, Path(scratch), undo)
            if "ways" in parts:
                show_ways(ways, options.rounds, options.cold)
            if "memory" in parts:
                show_memory(ways)
        if "suite" in parts:
            show_suite(guest, PROMPT, Path(scratch), options.tests, options.workers)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\nload after: {load}")


if __name__ == "__main__":
    main()
