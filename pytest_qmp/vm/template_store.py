"""The templates of a run: each configuration is booted once, for whoever asks first."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pytest_qmp.errors import QMPTimeoutError, VMError
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.host_memory import total_memory
from pytest_qmp.vm.machine import VirtualMachine
from pytest_qmp.vm.memory_ledger import guest_memory
from pytest_qmp.vm.progress import progress
from pytest_qmp.vm.template import Boot, Template
from pytest_qmp.vm.template_cache import TemplateCache
from pytest_qmp.vm.template_exchange import TemplateExchange
from pytest_qmp.vm.template_key import (
    CHANGEABLE,
    UnknownContentError,
    boot_key,
    config_key,
)

__all__ = ["Found", "TemplateStore", "changes_of"]

Start = Callable[[VirtualMachine], object]

#: Of the host's memory: what templates may take of it, all together.
_SHARE = 4
#: A boot of another worker is waited for at most so long, in seconds.
_OTHERS_SECONDS = 900.0


class Found:
    """A template, and where it came from.

    Attributes:
        template: of the configuration.
        origin: ``in an earlier run``; empty if it has booted in this one.
    """

    def __init__(self, template: Template, origin: str) -> None:
        self.template = template
        self.origin = origin


class TemplateStore:
    """Has the template of each configuration that a run uses.

    Args:
        restore: ``auto``, or the way that has to work; see ``Template.boot``.
        exchange: with the other workers of the run; None: there are none.
        cache: of earlier runs; None: there is none.
    """

    def __init__(
        self,
        restore: str = "auto",
        exchange: TemplateExchange | None = None,
        cache: TemplateCache | None = None,
    ) -> None:
        self._restore = restore
        self._exchange = exchange
        self._cache = cache
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._failed: dict[str, str] = {}
        # Of each boot function, which is kept as long as its place in memory is a key.
        self._boots: dict[int, tuple[Boot, str]] = {}
        self._lock = threading.RLock()

    def find(self, config: VMConfig, boot: Boot, start: Start) -> Found:
        """The template of a configuration, made if need be.

        Args:
            config: complete: the binary and the accelerator are set.
            boot: the boot function.
            start: starts a machine, where one has to boot.

        Raises:
            VMError: an earlier test could not boot it, or the way asked for does not work.
            Exception: what starting it, or the boot function, has raised.
        """
        __tracebackhide__ = True
        with self._lock:
            key, shared = self._key(config, boot)
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            if key in self._failed:
                raise VMError(
                    "the machine could not be booted for an earlier test, and is not tried again: "
                    f"{self._failed[key]}"
                )
            try:
                template, origin = self._get(key, config, boot, start, shared=shared)
            except Exception as error:
                # Later tests would only wait for the same; unless this one had too little time.
                if not (limits.bounded and isinstance(error, QMPTimeoutError)):
                    self._failed[key] = str(error)
                raise
            found = self._found[key] = Found(template, origin)
            self._make_room()
            return found

    def _key(self, config: VMConfig, boot: Boot) -> tuple[str, bool]:
        """The key in this run, and whether other workers have the same."""
        if id(boot) not in self._boots:
            try:
                told = boot_key(boot, by_content=False)
            except UnknownContentError:
                told = ""
            self._boots[id(boot)] = boot, told
        of_boot = self._boots[id(boot)][1]
        try:
            of_config = config_key(config, by_content=False)
        except UnknownContentError:
            return f"{config!r} {os.getpid()} {id(boot)}", False
        if not of_boot:
            return f"{of_config} {os.getpid()} {id(boot)}", False
        return of_config[:32] + of_boot[:32], True

    def _get(
        self, key: str, config: VMConfig, boot: Boot, start: Start, *, shared: bool
    ) -> tuple[Template, str]:
        __tracebackhide__ = True
        exchange = self._exchange if shared and config.backend != "fake" else None
        if exchange is None:
            return self._made(config, boot, start)
        with exchange.turn(key, Deadline(_OTHERS_SECONDS)):
            taken = exchange.take(key)
            if taken is not None:
                template = Template.from_parts(config, *taken, boot)
                origin = taken[0]["origin"]
            else:
                template, origin = self._made(config, boot, start)
            manifest = {**template.manifest(), "origin": origin}
            exchange.offer(key, manifest, template.descriptors())
            return template, origin

    def _made(self, config: VMConfig, boot: Boot, start: Start) -> tuple[Template, str]:
        __tracebackhide__ = True
        cache = self._cache if config.backend != "fake" else None
        key = cache.key(config, boot) if cache is not None else None
        if cache is not None and key is not None:
            kept = cache.load(key, config, boot)
            if kept is not None:
                return kept, "in an earlier run"
        with progress(f"booting {config.name or 'the machine of the tests'} once"):
            template = Template.boot(config, boot, restore=self._restore, start=start)
        if cache is not None and key is not None and template.way != "boot":
            cache.save(key, template)
        return template, ""

    def _make_room(self) -> None:
        """Lets go of those that were not used for the longest time, if they are too many."""
        room = total_memory() // _SHARE
        while len(self._found) > 1 and self._memory() > room:
            key, found = self._found.popitem(last=False)
            if self._exchange is not None:
                self._exchange.withdraw(key)
            found.template.close()

    def _memory(self) -> int:
        return sum(guest_memory(one.template.config) for one in self._found.values())

    def close(self) -> None:
        """Lets go of all templates. Idempotent."""
        with self._lock:
            while self._found:
                key, found = self._found.popitem()
                if self._exchange is not None:
                    self._exchange.withdraw(key)
                found.template.close()


def changes_of(config: VMConfig) -> dict[str, Any]:
    """What of a config may differ from its template's."""
    return {name: getattr(config, name) for name in CHANGEABLE}
