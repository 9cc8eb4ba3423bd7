"""What the workers of pytest-xdist share: memory for their machines, and whether KVM works."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.machine import VirtualMachine
    from pytest_qmp.vm.memory_ledger import MemoryLedger
    from pytest_qmp.vm.shared_state import SharedState

__all__ = ["release_ended", "share_probes", "start_with_memory"]

_ledger = pytest.StashKey["MemoryLedger"]()
_shared = pytest.StashKey[bool]()


def share_probes(config: pytest.Config) -> None:
    """Lets one worker probe the accelerator, and the others read what came out."""
    if not config.stash.get(_shared, False):
        config.stash[_shared] = True
        if _worker(config):
            from pytest_qmp.vm.host import share_probes

            share_probes(_state(config, "accelerators"))


def start_with_memory(
    machine: VirtualMachine, item: pytest.Item, settings: QMPSettings
) -> VirtualMachine:
    """Starts a machine as soon as there is memory for it.

    Args:
        machine: a QEMU of ours.
        item: whose it is.
        settings: what the options say.

    Returns:
        the machine.

    Raises:
        VMLaunchError: there never will be so much memory, or the machine did not start.
    """
    __tracebackhide__ = True
    from pytest_qmp.vm.memory_ledger import guest_memory

    worker = _worker(item.config)
    who = f"{machine.label} of {item.nodeid}" + (f" ({worker})" if worker else "")
    reservation = _ledger_of(item.config, settings).reserve(
        guest_memory(machine.config), who, on_wait=lambda text: _tell(item.config, text)
    )
    reservation.is_over = lambda: machine.exit_status is not None
    try:
        return machine.start()
    except BaseException:
        reservation.release()
        raise


def release_ended(config: pytest.Config) -> None:
    """Gives back the memory of those machines that have ended."""
    if _ledger in config.stash:
        config.stash[_ledger].release_ended()


def _ledger_of(config: pytest.Config, settings: QMPSettings) -> MemoryLedger:
    if _ledger not in config.stash:
        from pytest_qmp.vm.config import memory_bytes
        from pytest_qmp.vm.memory_ledger import MemoryLedger

        given = settings.max_memory
        maximum = memory_bytes(given) if given is not None else None
        config.stash[_ledger] = MemoryLedger(_state(config, "memory"), maximum)
    return config.stash[_ledger]


def _worker(config: pytest.Config) -> str:
    return str(getattr(config, "workerinput", {}).get("workerid", ""))


def _state(config: pytest.Config, name: str) -> SharedState:
    from pytest_qmp.vm.shared_state import SharedState

    if not _worker(config):
        return SharedState()
    # Each worker has a folder of its own in one that those of this host have in common.
    common = Path(config._tmp_path_factory.getbasetemp()).parent  # type: ignore[attr-defined]
    run = config.workerinput["testrunuid"]  # type: ignore[attr-defined]
    return SharedState(common / f"qmp-{name}-{run}.json")


def _tell(config: pytest.Config, text: str) -> None:
    """Tells whoever watches the run now: a wait that nobody sees looks like a hang."""
    from contextlib import nullcontext

    capture = config.pluginmanager.getplugin("capturemanager")
    worker = _worker(config)
    line = f"{os.linesep}qmp: {f'{worker} is ' if worker else ''}{text}{os.linesep}"
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        sys.stderr.write(line)
        sys.stderr.flush()
