"""How soon a wait ends once something has happened to the machine: a hundred times, each kind.

    python -m benchmarks.verdict_latency [ROUNDS]

The floor is what a bare ``poll()`` on the process (or a bare monitor's socket) takes to wake, in
the same run; the host's own hiccups are in both.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from pytest_qmp import VirtualMachine, VMVerdictError


def killed(wait: Callable[[VirtualMachine], object]) -> float:
    """Seconds from SIGKILL to the end of a wait."""
    with VirtualMachine(accel="tcg", machine="none", timeout=20) as vm:
        struck: list[float] = []

        def strike() -> None:
            struck.append(time.perf_counter())
            os.kill(vm.pid or 0, signal.SIGKILL)

        threading.Timer(0.02, strike).start()
        try:
            wait(vm)
        except VMVerdictError:
            return time.perf_counter() - struck[0]
    raise SystemExit("the wait did not end with a verdict")


def floor() -> float:
    """The same for a process of ours that we wait for by hand."""
    process = subprocess.Popen(["sleep", "60"])
    pidfd = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.perf_counter())
        process.kill()

    threading.Timer(0.02, strike).start()
    poll.poll()
    taken = time.perf_counter() - struck[0]
    process.wait()
    os.close(pidfd)
    return taken


def told(wait: Callable[[VirtualMachine], object]) -> float:
    """Seconds from the guest's panic, on the fake, to the end of a wait."""
    with VirtualMachine(backend="fake", args=("-action", "panic=pause"), timeout=20) as vm:
        struck: list[float] = []

        def strike() -> None:
            struck.append(time.perf_counter())
            vm.fake.guest.panic()

        threading.Timer(0.02, strike).start()
        try:
            wait(vm)
        except VMVerdictError:
            return time.perf_counter() - struck[0]
    raise SystemExit("the wait did not end with a verdict")


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100

    def event(vm: VirtualMachine) -> object:
        return vm.wait_for_event("DEVICE_DELETED")

    def console(vm: VirtualMachine) -> object:
        if vm.backend == "fake":
            vm.fake.guest.write_console(b".")
        return vm.console.expect("login:")

    rivals: dict[str, Callable[[], float]] = {
        "floor: a bare poll on a process": floor,
        "QEMU killed, waiting for an event": lambda: killed(event),
        "QEMU killed, waiting at the console": lambda: killed(console),
        "guest panics, waiting for an event": lambda: told(event),
        "guest panics, waiting at the console": lambda: told(console),
    }
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, rival in rivals.items():
            times[name].append(1000 * rival())
    print(f"{rounds} rounds; ms")
    for name, found in times.items():
        print(f"{name:40} median {statistics.median(found):6.1f}  worst {max(found):6.1f}")


if __name__ == "__main__":
    main()
