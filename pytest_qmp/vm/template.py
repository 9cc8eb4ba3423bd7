"""A booted machine kept as a template, from which any number of fresh ones start."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPError, VMConfigError, VMError, VMLaunchError
from pytest_qmp.qmp.deadline import limits
from pytest_qmp.text import nearest
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.freshness import is_repeatable
from pytest_qmp.vm.machine import VirtualMachine
from pytest_qmp.vm.restore_disks import check_overlays
from pytest_qmp.vm.restore_files import copy_of, memory_file, seal, sealed
from pytest_qmp.vm.restore_process import ClonableProcess
from pytest_qmp.vm.restore_saved import SavedMachine, SavedModel
from pytest_qmp.vm.restore_state import blockers
from pytest_qmp.vm.snapshots import Saved, check_changes, restored
from pytest_qmp.vm.template_ways import WAYS, Way

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["WAYS", "Boot", "Template", "Way"]

Boot = Callable[[VirtualMachine], object]

#: For saving and for the proof, in seconds; a boot has the time that the config gives it.
_SECONDS = 60.0

# Seen with QEMU 7.2: a Linux that sleeps in a clone never wakes.
_LOST_TIMERS = "QEMU does not restore the timers of a RISC-V machine, and its guest would hang"


class Template:
    """What fresh machines begin with; ``Template.boot()`` and ``Template.capture()`` make it.

    It never changes, whatever its machines do. As a context manager it is closed at the end.

    Attributes:
        config: of the machines.
        way: how they come to be: ``clone`` (the memory is shared until it is written to),
            ``state`` (the memory is read from a file), or ``boot`` (each one boots).
        reasons: why each better way does not serve, by way.
    """

    def __init__(
        self,
        config: VMConfig,
        way: Way,
        reasons: Mapping[str, str],
        saved: Saved | None,
        boot: Boot | None,
    ) -> None:
        self.config = config
        self.way = way
        self.reasons = dict(reasons)
        self._saved = saved
        self._boot = boot

    @classmethod
    def boot(
        cls,
        config: VMConfig,
        boot: Boot,
        *,
        restore: str = "auto",
        start: Callable[[VirtualMachine], object] = VirtualMachine.start,
    ) -> Self:
        """Boots a machine, and keeps it as a template by the best way that is proven to work.

        Args:
            config: of the machines.
            boot: brings a started machine to where the others are to begin: it waits for a
                prompt, logs in, …. It is called again for each machine where nothing but booting
                works.
            restore: ``auto``, or one of ``WAYS``, which then has to work.
            start: starts a machine; for who keeps account of them.

        Raises:
            VMError: the way that was asked for does not work; with the reason.
            VMLaunchError, VMConfigError: the machine does not start, in any way.
            Exception: what ``boot`` raised; the machine was closed.
        """
        __tracebackhide__ = True
        ways = _ways(restore)
        reasons: dict[str, str] = {}
        if restore == "auto" and config.backend != "fake" and _loses_timers(config):
            # It would start, and answer, and wait for ever a while later: no proof shows it.
            reasons, ways = dict.fromkeys(("clone", "state"), _LOST_TIMERS), ["boot"]
        if "clone" in ways or "state" in ways:
            machine = _started(config, ways, reasons, start)
            with machine:
                boot(machine)
                machine.know_shells()
                template = cls._kept(machine, ways, reasons, boot)
                machine.kill()
            if template is not None:
                template._freeze()
                return template
        if "boot" not in ways:
            raise _failure(restore, reasons)
        return cls(config.replace(cloneable=False), "boot", reasons, None, boot)

    @classmethod
    def capture(cls, vm: VirtualMachine, *, restore: str = "auto") -> Self:
        """Makes a running machine a template, by which it ends.

        A machine that was started with ``VMConfig(cloneable=True)`` can be cloned; one that was
        not has its state saved in a file.

        Args:
            vm: the machine.
            restore: ``auto``, ``clone`` or ``state``.

        Raises:
            VMError: it can't be saved; with the reason. It runs on then, as it was.
        """
        __tracebackhide__ = True
        ways = [way for way in _ways(restore) if way != "boot"]
        reasons: dict[str, str] = {}
        template = cls._kept(vm, ways, reasons, None)
        if template is None:
            raise _failure(restore, reasons)
        vm.kill()
        vm.close()
        template._freeze()
        return template

    @classmethod
    def _kept(
        cls,
        vm: VirtualMachine,
        ways: Sequence[Way],
        reasons: dict[str, str],
        boot: Boot | None,
    ) -> Self | None:
        """A template of a machine that is where it is to be, proven; None, with the reasons."""
        ways = [way for way in ways if way != "boot"]
        blocked = "; ".join(blockers(vm.qmp, limits.deadline(_SECONDS)))
        if blocked:
            reasons.update(dict.fromkeys(ways, blocked))
            return None
        for way in ways:
            if way == "clone" and not vm.lends_memory:
                reasons.setdefault(way, f"{vm} was not started with VMConfig(cloneable=True)")
                continue
            deadline = limits.deadline(_SECONDS)
            try:
                saved = vm.save(deadline, with_memory=way == "state", goes_on=False)
            except QMPError as error:
                reasons[way] = str(error)
                continue
            template = cls(vm.config, way, reasons, saved, boot)
            try:
                with template.start():
                    return template
            except QMPError as error:
                reasons[way] = f"the first machine from it failed: {error}"
            saved.close()
            vm.go_on(saved, deadline)
        return None

    def _freeze(self) -> None:
        """Makes sure that nothing can change what the machines begin with."""
        if isinstance(self._saved, SavedMachine) and self._saved.memory is not None:
            seal(self._saved.memory)

    # -- machines from it ------------------------------------------------------------------------

    def start(self, **changes: Any) -> VirtualMachine:
        """A fresh machine, at the place where the first one was kept.

        Args:
            changes: fields of the config that may differ: ``name``, ``timeout``, ``allow``,
                ``console_watch``; ``paused=True`` leaves it stopped at that place.

        Returns:
            The machine, started. It is the caller's to close.

        Raises:
            VMLaunchError: QEMU does not start with it.
            VMConfigError: a change would not fit the state.
            VMError: the template is closed.
        """
        __tracebackhide__ = True
        machine = self.machine(**changes)
        machine.start()
        try:
            self.bring_up(machine)
        except BaseException:
            machine.close()
            raise
        return machine

    def machine(self, **changes: Any) -> VirtualMachine:
        """The same, not started yet: once it is, it needs ``bring_up()``."""
        __tracebackhide__ = True
        if self._saved is not None:
            return restored(self.config, self._saved, **changes)
        if self._boot is None:
            raise VMError("the template is closed: no machine can start from it")
        paused = changes.pop("paused", False)
        machine = _on_overlays(check_changes(self.config, changes), {})
        machine.held = paused
        return machine

    def bring_up(self, machine: VirtualMachine) -> None:
        """What a started machine of ``machine()`` needs before a test can have it.

        Raises:
            Exception: what the boot function raised, where it has to boot.
        """
        __tracebackhide__ = True
        if self._saved is not None:
            if not (machine.held or self._saved.paused or is_repeatable(self.config)):
                machine.freshen()
            return
        if self._boot is not None:
            self._boot(machine)
            if machine.held:
                machine.stop()

    def make_ready(self, machine: VirtualMachine) -> None:
        """Does for a started machine that is held what bring_up() needs not do then any more."""
        __tracebackhide__ = True
        if self._saved is not None and not is_repeatable(self.config):
            machine.freshen_ahead()

    # -- elsewhere -------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """All but the files, as JSON can have it."""
        if isinstance(self._saved, SavedModel):
            reason = "the state of a fake stays in the process that it runs in"
            return {"way": "boot", "reasons": {"clone": reason}, "saved": None}
        return {
            "way": self.way,
            "reasons": self.reasons,
            "saved": None if self._saved is None else self._saved.manifest(),
        }

    def descriptors(self) -> dict[str, int]:
        """The files, by name: ``memory``, ``state``, ``disk0.0``, …. They stay the template's."""
        return self._saved.descriptors() if isinstance(self._saved, SavedMachine) else {}

    @classmethod
    def from_parts(
        cls,
        config: VMConfig,
        manifest: Mapping[str, Any],
        fds: Mapping[str, int],
        boot: Boot | None = None,
    ) -> Self:
        """A template from what ``manifest()`` and ``descriptors()`` gave in another process.

        Args:
            config: the same.
            manifest: as it was.
            fds: descriptors of the same files or of copies, by name; the template's from now on.
            boot: the same boot function.

        Raises:
            VMError: something is missing, or is not what it was.
        """
        __tracebackhide__ = True
        fds = dict(fds)
        try:
            saved = None
            if manifest["saved"] is not None:
                if "memory" in fds and not sealed(fds["memory"]):
                    fds["memory"] = _sealed_copy(fds["memory"])
                saved = SavedMachine.from_parts(manifest["saved"], fds)
            way, reasons = manifest["way"], manifest["reasons"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise VMError(f"this is no template, or not all of one: {error!r}") from error
        return cls(config, way, reasons, saved, boot)

    def close(self) -> None:
        """Lets go of the files. Its machines run on. Idempotent."""
        saved, self._saved, self._boot = self._saved, None, None
        if saved is not None:
            saved.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Template of {self.config.name or self.config.arch or 'a machine'}: {self.way}>"


def _ways(restore: str) -> list[Way]:
    if restore == "auto":
        return list(WAYS)
    for way in WAYS:
        if way == restore:
            return [way]
    known = ["auto", *WAYS]
    raise VMConfigError(
        f"there is no way {restore!r} to restore{nearest(restore, known)}; it is one of "
        f"{', '.join(known)}"
    )


def _loses_timers(config: VMConfig) -> bool:
    return (config.arch or "").startswith("riscv")


def _failure(restore: str, reasons: Mapping[str, str]) -> VMError:
    told = "\n".join(f"  {way}: {reason}" for way, reason in reasons.items())
    asked = "" if restore == "auto" else f" (restore={restore!r})"
    return VMError(f"no template can be made of this machine{asked}:\n{told}")


def _started(
    config: VMConfig,
    ways: Sequence[Way],
    reasons: dict[str, str],
    start: Callable[[VirtualMachine], object],
) -> VirtualMachine:
    """The machine that is to become the template: one that can be cloned, if it starts so."""
    if "clone" in ways:
        try:
            machine = VirtualMachine(config.replace(cloneable=True))
            start(machine)
        except (VMLaunchError, VMConfigError) as error:
            reasons["clone"] = str(error)
        else:
            return machine
    machine = _on_overlays(config, reasons)
    start(machine)
    return machine


def _on_overlays(config: VMConfig, reasons: dict[str, str]) -> VirtualMachine:
    """A machine that leaves the images of its drives as they are, if they can have overlays."""
    machine = VirtualMachine(config.replace(cloneable=False))
    if machine.backend != "qemu":
        return machine
    try:
        check_overlays(machine.config)
    except VMConfigError as error:
        reasons.setdefault("clone", str(error))
        return machine
    return VirtualMachine.run_by(machine.config, ClonableProcess(machine.config, own_memory=True))


def _sealed_copy(fd: int) -> int:
    """The memory in a file that nobody can change, also no balloon of a guest's."""
    copy = memory_file("memory")
    copy_of(fd, copy)
    seal(copy)
    os.close(fd)
    return copy
