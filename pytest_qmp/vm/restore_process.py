"""A QEMU process whose memory and disks others can begin with, or that begins with another's."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pytest_qmp.errors import VMConfigError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.argv import default_machine, option
from pytest_qmp.vm.backend import Wires
from pytest_qmp.vm.config import ARCHITECTURES, VMConfig, memory_bytes
from pytest_qmp.vm.freshness import is_repeatable
from pytest_qmp.vm.process import QEMUProcess
from pytest_qmp.vm.restore_disks import Layers, layered, plain_drives, with_overlay
from pytest_qmp.vm.restore_files import memory_file, opened_anew, path_of, supported
from pytest_qmp.vm.restore_saved import MemoryKind, SavedMachine

__all__ = ["ClonableProcess", "why_not_clonable"]

MEMORY = "pytest-qmp-memory"
#: QEMU's default on the machines that are known here.
_DEFAULT_MEMORY = "128M"
#: Since when memory can be written though its file can't.
_READ_ONLY_FILES = (8, 2)
#: The machine types whose firmware tells a guest of it, by which it knows that it is a clone.
_HAVE_GENERATION_ID = ("pc", "q35")


class ClonableProcess(QEMUProcess):
    """Runs a machine on overlays, with its memory in a file.

    Args:
        config: what to start; its ``arch`` is set.
        saved: what it begins with; None boots it.
        own_memory: True leaves the memory to QEMU, for a machine that has it so, or can't have it
            in a file.

    Attributes:
        layers: what lies over each drive, by its place.
        memory: the file with the guest's memory, if it is shared with us.
        saved: what it begins with.
        state: the number of the saved state's descriptor in QEMU.

    Raises:
        QEMUNotFoundError: there is no such binary.
        VMConfigError: the memory of such a machine can't be in a file.
    """

    def __init__(
        self, config: VMConfig, saved: SavedMachine | None = None, *, own_memory: bool = False
    ) -> None:
        if saved is None and not own_memory:
            reason = why_not_clonable(config)
            if reason:
                raise VMConfigError(f"VMConfig.cloneable: {reason}")
        self._asked = config
        self._own_memory = own_memory
        self.saved = saved
        self.state = -1
        self.layers: list[Layers] = []
        self.memory: int | None = None
        super().__init__(config)

    def configure(self, config: VMConfig) -> None:
        """Takes another config for the same binary, before the start."""
        super().configure(config)
        self._asked = config

    def start(self, consoles: Sequence[str], deadline: Deadline) -> Wires:
        """Starts QEMU with the files that it inherits.

        Raises:
            VMLaunchError: the binary can't be executed.
            VMConfigError: a drive can't have an overlay.
        """
        try:
            return super().start(consoles, deadline)
        finally:
            if self.state >= 0:
                os.close(self.state)

    def _prepare(self, deadline: Deadline) -> None:
        __tracebackhide__ = True
        config, saved = self._asked, self.saved
        drives = plain_drives(config)
        for number, drive in enumerate(drives):
            below = saved.disks[number] if saved is not None else ()
            self.layers.append(with_overlay(drive, below))
        self._config = config.replace(drives=layered(drives, self.layers))
        super()._prepare(deadline)
        config = self._config
        fds = [layer.fd for layers in self.layers for layer in layers]
        args = list(config.args)
        if self.generation_id:
            args += ["-device", "vmgenid,guid=auto"]
        args += self._memory_arguments(fds)
        if saved is not None:
            self.state = opened_anew(saved.state)
            fds.append(self.state)
            args += ["-incoming", "defer"]
        machine = config.machine or default_machine(config.arch or "")
        if self.memory_kind != "own":
            machine = f"{machine},memory-backend={MEMORY}"
        self._config = config.replace(machine=machine, args=args, pass_fds=[*config.pass_fds, *fds])

    def _memory_arguments(self, fds: list[int]) -> list[str]:
        """What is said of the guest's memory; the descriptors that it needs are added."""
        size = memory_bytes(self._asked.memory or _DEFAULT_MEMORY)
        if self.memory_kind == "own":
            return []
        if self.memory_kind == "backend":
            return ["-object", option("memory-backend-ram", id=MEMORY, size=size)]
        more: dict[str, object] = {"share": True}
        if self.saved is None or self.saved.memory is None:
            fd = self.memory = memory_file("memory", size)
        else:
            fd = self.saved.memory
            more = {"share": False}
            if self.saved.version >= _READ_ONLY_FILES:
                more |= {"readonly": True, "rom": False}
        fds.append(fd)
        backend = option("memory-backend-file", id=MEMORY, size=size, mem_path=path_of(fd), **more)
        return ["-object", backend]

    def lend_memory(self) -> int | None:
        """Another descriptor of the file with the guest's memory; None if it is not shared."""
        return None if self.memory is None else os.dup(self.memory)

    @property
    def memory_kind(self) -> MemoryKind:
        """How QEMU has the guest's memory."""
        if self.saved is not None:
            return self.saved.memory_kind
        return "own" if self._own_memory else "file"

    @property
    def generation_id(self) -> bool:
        """Whether the machine has a generation ID of ours."""
        if self.saved is not None:
            return self.saved.generation_id
        return not self._own_memory and _can_have_generation_id(self._asked)

    def close(self) -> None:
        """Ends the process if it still runs, and closes all descriptors. Idempotent."""
        super().close()
        for layers in self.layers:
            for layer in layers:
                os.close(layer.fd)
        self.layers = []
        if self.memory is not None:
            os.close(self.memory)
            self.memory = None


def _can_have_generation_id(config: VMConfig) -> bool:
    kind = (config.machine or default_machine(config.arch or "") or "").partition(",")[0]
    known = kind in _HAVE_GENERATION_ID or kind.startswith(("pc-i440fx", "pc-q35"))
    given = f"{config.devices} {config.args}"
    if is_repeatable(config) or "vmgenid" in given:
        return False
    return known and config.arch in ("x86_64", "i386")


def why_not_clonable(config: VMConfig) -> str:
    """Why a machine's memory can't be in a file; empty if nothing is known against it."""
    if not supported():
        return "this system has no files in memory"
    if config.arch not in (*ARCHITECTURES, "i386"):
        return f"how {config.arch} has its memory is not known here"
    for argument in config.args:
        name = argument.lstrip("-") if argument.startswith("-") else ""
        if name in ("m", "numa", "mem-path", "loadvm", "incoming", "preconfig"):
            return f"VMConfig.args says {argument}, which says something else of the memory"
    if "memory-backend" in f"{config.machine} {' '.join(config.args)}":
        return "the machine has a memory backend of its own"
    return ""
