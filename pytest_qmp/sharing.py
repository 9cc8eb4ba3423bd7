"""What the workers of pytest-xdist share: memory for their machines, and whether KVM works."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.machine import VirtualMachine
    from pytest_qmp.vm.memory_ledger import MemoryLedger, Reservation
    from pytest_qmp.vm.shared_state import SharedState
    from pytest_qmp.vm.template_exchange import TemplateExchange

__all__ = [
    "release_ended",
    "share_probes",
    "start_if_there_is_memory",
    "start_with_memory",
    "template_exchange",
]

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
    machine: VirtualMachine,
    item: pytest.Item,
    settings: QMPSettings,
    make_room: Callable[[], None] | None = None,
) -> VirtualMachine:
    """Starts a machine as soon as there is memory for it.

    Args:
        machine: a QEMU of ours.
        item: whose it is.
        settings: what the options say.
        make_room: gives back what nobody needs now; called if there is no memory at once.

    Returns:
        the machine.

    Raises:
        VMLaunchError: there never will be so much memory, or the machine did not start.
    """
    __tracebackhide__ = True
    from pytest_qmp.vm.memory_ledger import MemoryWantingError, guest_memory

    size, who = guest_memory(machine.config), _who(f"{machine.label} of {item.nodeid}", item.config)
    ledger = _ledger_of(item.config, settings)
    if make_room is not None:
        try:
            return _start_in(ledger.reserve(size, who, timeout=0), machine)
        except MemoryWantingError:
            make_room()
    return _start_in(
        ledger.reserve(size, who, on_wait=lambda text: _tell(item.config, text)), machine
    )


def start_if_there_is_memory(
    machine: VirtualMachine, config: pytest.Config, settings: QMPSettings
) -> VirtualMachine:
    """Starts a machine that no test waits for yet.

    Args:
        machine: a QEMU of ours.
        config: of the run.
        settings: what the options say.

    Returns:
        the machine.

    Raises:
        VMLaunchError: there is no memory for it now, or the machine did not start.
    """
    from pytest_qmp.vm.memory_ledger import guest_memory

    who = _who("a machine for the next test", config)
    ledger = _ledger_of(config, settings)
    return _start_in(ledger.reserve(guest_memory(machine.config), who, timeout=0), machine)


def _start_in(reservation: Reservation, machine: VirtualMachine) -> VirtualMachine:
    __tracebackhide__ = True
    try:
        machine.start()
    except BaseException:
        reservation.release()
        raise
    # Not before: another thread may look, and half a process is none that could be asked.
    reservation.is_over = lambda: machine.exit_status is not None
    return machine


def template_exchange(config: pytest.Config) -> TemplateExchange | None:
    """With the other workers of the run; None where there are none."""
    if not _worker(config):
        return None
    from pytest_qmp.vm.template_exchange import TemplateExchange

    run = config.workerinput["testrunuid"]  # type: ignore[attr-defined]
    folder = _common_folder(config) / f"qmp-templates-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return TemplateExchange(folder)


def _who(what: str, config: pytest.Config) -> str:
    worker = _worker(config)
    return f"{what} ({worker})" if worker else what


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
    run = config.workerinput["testrunuid"]  # type: ignore[attr-defined]
    return SharedState(_common_folder(config) / f"qmp-{name}-{run}.json")


def _common_folder(config: pytest.Config) -> Path:
    # Each worker has a folder of its own in one that those of this host have in common.
    return Path(config._tmp_path_factory.getbasetemp()).parent  # type: ignore[attr-defined]


def _tell(config: pytest.Config, text: str) -> None:
    """Tells whoever watches the run now: a wait that nobody sees looks like a hang."""
    from contextlib import nullcontext

    capture = config.pluginmanager.getplugin("capturemanager")
    worker = _worker(config)
    line = f"{os.linesep}qmp: {f'{worker} is ' if worker else ''}{text}{os.linesep}"
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        sys.stderr.write(line)
        sys.stderr.flush()
