"""Machines launched, waited for, killed, stopped, panicked and closed at random: nothing is wrong.

``PYTEST_QMP_CHAOS=SECONDS`` makes it longer, ``PYTEST_QMP_CHAOS_SEED=NUMBER`` repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_qmp import QMPTimeoutError, VirtualMachine, VMVerdictError
from tests import guests

_SECONDS = 6.0
_LIMIT = 20.0
_AT_ONCE = 4

#: What a guest does by itself once it runs, and the kind of verdict that it brings.
_BEHAVIOURS = {"spin": None, "panic": "panic", "reset": "reset", "poweroff": "shutdown"}


class Chaos:
    """A few machines, and what is known to have happened to each."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.machines: list[tuple[VirtualMachine, str | None]] = []
        self.pids: list[int] = []
        self.history: list[str] = []

    def step(self) -> None:
        """Does something that can be done."""
        actions: list[Callable[[], None]] = [self.launch]
        if self.machines:
            actions += [self.close, self.strike, self.terminate, self.freeze, self.meet, self.allow]
        if len(self.machines) >= _AT_ONCE:
            actions = [self.close]
        action = self.random.choice(actions)
        self.history.append(action.__name__)
        action()

    def launch(self) -> None:
        """One more, which begins to do what it does; or nothing yet."""
        behaviour = self.random.choice(list(_BEHAVIOURS))
        backend = self.random.choice(["qemu", "qemu", "fake"])
        self.history[-1] += f" {behaviour} on {backend}"
        if backend == "fake":
            vm = VirtualMachine(backend="fake", timeout=_LIMIT).start()
            if behaviour != "spin":
                getattr(vm.fake.guest, behaviour)()
        else:
            fields = guests.overrides(behaviour, self.folder, banner="alive")
            vm = VirtualMachine(accel="tcg", timeout=_LIMIT, **fields).start()
            self.pids.append(vm.pid or 0)
        self.machines.append((vm, _BEHAVIOURS[behaviour]))

    def take(self) -> tuple[VirtualMachine, str | None]:
        """One of them, which is done with."""
        return self.machines.pop(self.random.randrange(len(self.machines)))

    def close(self) -> None:
        """Ends one, whatever it does; what nobody has waited for is told."""
        vm, kind = self.take()
        if kind is not None:
            # It is bound to come, but may not have yet.
            with pytest.raises(VMVerdictError) as caught:
                vm.wait_for_event("DEVICE_DELETED")
            assert caught.value.kind == kind
        vm.close()
        vm.check()

    def meet(self) -> None:
        """A wait of one ends with its verdict at once, or runs into its own timeout."""
        vm, kind = self.take()
        began = time.monotonic()
        if kind is None:
            with pytest.raises(QMPTimeoutError):
                vm.wait_for_event("DEVICE_DELETED", timeout=0.05)
        else:
            with pytest.raises(VMVerdictError) as caught:
                vm.wait_for_event("DEVICE_DELETED")
            assert caught.value.kind == kind
            assert time.monotonic() - began < _LIMIT / 2
        vm.close()
        vm.check()

    def allow(self) -> None:
        """What one does is allowed by a wait for it."""
        vm, kind = self.take()
        events = {"panic": "GUEST_PANICKED", "reset": "RESET", "shutdown": "SHUTDOWN"}
        if kind in events:
            vm.wait_for_event(events[kind])
        vm.close()
        if kind != "reset":  # which does it again and again
            vm.check()

    def strike(self) -> None:
        """One that does nothing by itself is killed, while it is waited for or not."""
        vm, kind = self.take()
        number = self.random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
        if kind is None and vm.pid is not None:
            pid = vm.pid
            threading.Timer(self.random.uniform(0, 0.02), lambda: os.kill(pid, number)).start()
            with pytest.raises(VMVerdictError, match=number.name) as caught:
                vm.wait_for_event("DEVICE_DELETED")
            assert caught.value.kind == "exit"
        vm.close()

    def terminate(self) -> None:
        """One is ended by its own handle, in one of the ways."""
        vm, kind = self.take()
        if kind is None:
            how = self.random.choice([vm.quit, vm.kill])
            assert how() in (0, -signal.SIGKILL)
        vm.close()
        if kind is None:
            vm.check()

    def freeze(self) -> None:
        """One is stopped from outside, and ended all the same."""
        vm, kind = self.take()
        if vm.pid is not None and kind is None:
            os.kill(vm.pid, signal.SIGSTOP)
        vm.close()

    def assert_nothing_left(self) -> None:
        """No process of any that was closed is there any more."""
        running = {vm.pid for vm, _ in self.machines}
        left = [pid for pid in self.pids if pid not in running and psutil.pid_exists(pid)]
        assert not left, f"left: {left}"


def _held() -> tuple[int, int]:
    process = psutil.Process()
    return process.num_fds(), threading.active_count()


@pytest.mark.needs_qemu
def test_chaos(tmp_path: Path) -> None:
    limit = float(os.environ.get("PYTEST_QMP_CHAOS", _SECONDS))
    seed = int(os.environ.get("PYTEST_QMP_CHAOS_SEED", random.randrange(10**6)))
    chaos = Chaos(seed, tmp_path)
    # What is made once a process (the keeper's socket) is there before the count.
    chaos.history.append("first")
    with VirtualMachine(accel="tcg", machine="none"):
        pass
    before = _held()
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            chaos.step()
            chaos.assert_nothing_left()
        while chaos.machines:
            vm, _ = chaos.take()
            vm.close()
        chaos.assert_nothing_left()
        assert _held() == before
    finally:
        print(f"seed {seed}; {len(chaos.history)} steps, the last: {chaos.history[-6:]}")  # noqa: T201
        for vm, _ in chaos.machines:
            vm.close()
