"""What is left after many launches, and after programs that were killed at random moments.

``launches``: counts of this process before and after. ``kills``: starts a program that launches
machines without end, sends it a signal at a random moment of its start, and counts what is left.

Usage, from the top of the repository:
``python -m benchmarks.nothing_left launches [1000]``, or
``python -m benchmarks.nothing_left kills [200] [SIGKILL] [SEED]``
"""

from __future__ import annotations

import collections
import gc
import random
import select
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from pytest_qmp import VirtualMachine
from tests.leftovers import Run, running

_PROGRAM = """
from pytest_qmp import VirtualMachine
from pytest_qmp.fake import FakeQMPServer

while True:
    with FakeQMPServer() as server, VirtualMachine(machine="none", accel="tcg") as vm:
        server.address
        VirtualMachine(machine="none", accel="tcg").start()
"""
# The program takes a third of this until its first machine is there.
_LONGEST_SECONDS = 0.9


def _counts() -> dict[str, int]:
    gc.collect()
    me = psutil.Process()
    children = me.children()
    zombies = sum(one.status() == psutil.STATUS_ZOMBIE for one in children)
    return {
        "descriptors": me.num_fds(),
        "threads": threading.active_count(),
        "children": len(children),
        "zombies": zombies,
    }


def launches(number: int) -> None:
    """Launches and ends that many machines, every second one by SIGKILL."""

    def launch(kill: bool) -> None:
        with VirtualMachine(machine="none", accel="tcg") as vm:
            if kill:
                vm.kill()

    launch(False)
    before, started = _counts(), time.monotonic()
    for one in range(number):
        launch(one % 2 == 1)
    rate = number / (time.monotonic() - started)
    after = _counts()
    for name, count in before.items():
        print(f"{name:12} {count:4} before, {after[name]:4} after {number} launches")
    print(f"{rate:.1f} launches a second")


def kills(number: int, name: str, seed: int) -> None:
    """Sends that many programs a signal at a random moment."""
    chance = random.Random(seed)
    left: collections.Counter[str] = collections.Counter(processes=0, files=0, sockets=0)
    busy = 0
    for _ in range(number):
        with (
            tempfile.TemporaryDirectory() as folder,
            Run(Path(folder), [sys.executable, "-c", _PROGRAM]) as run,
        ):
            select.select([], [], [], chance.uniform(0.1, _LONGEST_SECONDS))
            busy += run.left().counts["processes"] > 1
            run.process.send_signal(signal.Signals[name])
            run.process.wait(30)
            left.update(run.left_in_the_end(10).counts)
            for pid in running(run.value):
                print("left:", psutil.Process(pid).cmdline())
            for path in run.temporary.rglob("*"):
                print("left:", path.name, path.read_bytes() if path.is_file() else "")
    print(f"{number} programs got {name} (seed {seed}); {busy} of them had started something")
    for kind, count in left.items():
        print(f"{kind:12} {count:4} left")


def main() -> None:
    """Does what the command line says."""
    what, *rest = sys.argv[1:]
    if what == "launches":
        launches(int(rest[0]) if rest else 1000)
    else:
        number, name, seed = [*rest, *["200", "SIGKILL", "0"][len(rest) :]]
        kills(int(number), name, int(seed))


if __name__ == "__main__":
    main()
