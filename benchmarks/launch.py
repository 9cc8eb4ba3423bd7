"""What a machine costs from start to gone, beside starting the same QEMU bare.

Bare: Popen over a socket pair, greeting, qmp_capabilities, kill, wait. Ours: VirtualMachine, from
its construction to the end of close(), which asks QEMU to quit; and the same with kill(). The
rounds are interleaved; medians in milliseconds, and ratios to bare.

Usage: ``python benchmarks/launch.py [ROUNDS]``
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from pytest_qmp import VirtualMachine
from pytest_qmp.vm.argv import build_argv


def bare() -> None:
    """The floor: the same command line, by hand."""
    ours, theirs = socket.socketpair()
    console, serial = socket.socketpair()
    machine = VirtualMachine(accel="tcg")
    argv = build_argv(
        machine.config,
        machine.argv[0],
        "tcg",
        {"qmp": theirs.fileno()},
        {"serial0": serial.fileno()},
    )
    with ours, console:
        with theirs, serial:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno(), serial.fileno()]
            )
        ours.recv(65536)
        ours.sendall(b'{"execute":"qmp_capabilities"}')
        ours.recv(65536)
        process.kill()
        process.wait()


def quitting() -> None:
    """A VirtualMachine, ended as a test ends it."""
    with VirtualMachine(accel="tcg"):
        pass


def killed() -> None:
    """A VirtualMachine, killed."""
    with VirtualMachine(accel="tcg") as vm:
        vm.kill()


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    rivals: dict[str, Callable[[], None]] = {"bare": bare, "quit": quitting, "kill": killed}
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    floor = statistics.median(times["bare"])
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name:6} {middle * 1000:7.1f} ms  {middle / floor:5.2f} x bare")


if __name__ == "__main__":
    main()
