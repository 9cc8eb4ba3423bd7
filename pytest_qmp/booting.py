"""Machines that are booted once, and fresh for every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_qmp.launch import adopt, checks_of, machines_of
from pytest_qmp.sharing import start_if_there_is_memory, start_with_memory, template_exchange

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.machine import VirtualMachine
    from pytest_qmp.vm.template_cache import TemplateCache
    from pytest_qmp.vm.template_store import Found

__all__ = ["launch_booted", "notes_of"]

_CORES_A_WORKER = 2


class _Boots:
    """What a run keeps of machines that have booted."""

    def __init__(self, config: pytest.Config, settings: QMPSettings) -> None:
        from pytest_qmp.vm.template_pool import ClonePool
        from pytest_qmp.vm.template_store import TemplateStore

        self.complaints: list[str] = []
        cache = _cache(config, settings, self.complaints.append)
        self.store = TemplateStore(settings.restore, template_exchange(config), cache)
        prefetch = settings.prefetch
        self.pool = ClonePool(_default_prefetch() if prefetch is None else prefetch)

    def close(self) -> None:
        self.pool.close()
        self.store.close()


_boots = pytest.StashKey[_Boots]()
_notes = pytest.StashKey[list[str]]()


def launch_booted(
    item: pytest.Item,
    config: VMConfig,
    settings: QMPSettings,
    boot: Callable[[VirtualMachine], object],
) -> VirtualMachine:
    """Starts a machine for a test where the boot function leaves it, booting it if nobody has yet.

    Args:
        item: the test.
        config: from ``complete``.
        settings: what the options say.
        boot: the boot function.

    Raises:
        VMLaunchError, VMConfigError, VMError: it can't be started.
        Exception: what the boot function has raised.
    """
    __tracebackhide__ = True
    if not callable(boot):
        raise pytest.UsageError(
            f"the fixture qmp_boot returns a function that takes the machine, not {boot!r}"
        )
    if settings.connect is not None and config.backend == "qemu":
        raise pytest.UsageError(
            "qmp_boot boots machines, and the one of --qmp-connect runs already: have qmp_boot "
            "return None for it"
        )
    boots = item.config.stash.get(_boots, None)
    if boots is None:
        boots = item.config.stash[_boots] = _Boots(item.config, settings)
        item.config.add_cleanup(boots.close)
    try:
        return _launch(boots, item, config, settings, boot)
    finally:
        notes = item.stash.setdefault(_notes, [])
        notes += [one for one in boots.complaints if one not in notes]


def _launch(
    boots: _Boots,
    item: pytest.Item,
    config: VMConfig,
    settings: QMPSettings,
    boot: Callable[[VirtualMachine], object],
) -> VirtualMachine:
    __tracebackhide__ = True
    from pytest_qmp.vm.template_store import changes_of

    def start(machine: VirtualMachine) -> VirtualMachine:
        if machine.backend != "qemu":
            return machine.start()
        return start_with_memory(machine, item, settings, boots.pool.drop)

    def start_first(machine: VirtualMachine) -> None:
        adopt(item, machine, settings)
        start(machine)

    def start_ahead(machine: VirtualMachine) -> None:
        start_if_there_is_memory(machine, item.config, settings)

    paused, changes = config.paused, changes_of(config)
    config = _resolved(config).replace(paused=False)
    known = list(machines_of(item)), list(checks_of(item))
    found = boots.store.find(config, boot, start_first)
    # Those that were booted to be kept are no machines of the test's.
    for booted in machines_of(item)[len(known[0]) :]:
        booted.drop_logs()
    machines_of(item)[:], checks_of(item)[:] = known
    item.stash.setdefault(_notes, []).append(_told(found))
    template = found.template
    ready = None if paused else boots.pool.take(template, changes)
    machine = ready or template.machine(**changes, paused=paused)
    adopt(item, machine, settings)
    try:
        if ready is None:
            start(machine)
        else:
            machine.release()
        template.bring_up(machine)
    except BaseException:
        machine.close()
        raise
    boots.pool.prepare(template, changes, start_ahead)
    return machine


def _resolved(config: VMConfig) -> VMConfig:
    """With what is found out at the start, of which the template depends."""
    if config.backend == "fake":
        return config
    from pytest_qmp.vm.host import choose_accelerator, find_qemu

    arch = config.arch or "x86_64"
    qemu = find_qemu(arch, config.qemu)
    return config.replace(qemu=qemu, accel=choose_accelerator(config.accel, qemu, arch).name)


def notes_of(item: pytest.Item) -> list[str]:
    """What the run's last lines say of how a test's machines came to be."""
    return list(item.stash.get(_notes, ()))


def _told(found: Found) -> str:
    template = found.template
    config = template.config
    parts = config.arch, config.machine, config.memory
    what = config.name or " ".join(str(one) for one in parts if one is not None)
    ways = {
        "clone": "a clone of one that has booted",
        "state": "from the saved state of one that has booted",
        "boot": "booted itself",
    }
    text = f"{what}: each test's machine is {ways[template.way]}"
    if template.way != "boot" and found.origin:
        text += f" {found.origin}"
    return "; ".join([text, *(f"no {way}: {_short(why)}" for way, why in template.reasons.items())])


def _short(reason: str) -> str:
    return reason.strip().partition("\n")[0]


def _cache(
    config: pytest.Config, settings: QMPSettings, complain: Callable[[str], None]
) -> TemplateCache | None:
    if settings.template_cache is None:
        return None
    from pytest_qmp.vm.template_cache import TemplateCache

    if settings.template_cache:
        return TemplateCache(config.rootpath / settings.template_cache, complain)
    cache: Any = getattr(config, "cache", None)
    if cache is None:
        raise pytest.UsageError(
            "--qmp-template-cache keeps machines in pytest's cache, and -p no:cacheprovider was "
            "given: name a folder, as in --qmp-template-cache=DIR"
        )
    return TemplateCache(Path(cache.mkdir("qmp-templates")), complain)


def _default_prefetch() -> int:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return int((os.cpu_count() or 1) >= _CORES_A_WORKER * workers)
