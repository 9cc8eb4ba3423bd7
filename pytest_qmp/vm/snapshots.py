"""A machine's state kept and gone back to, and a second machine from it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import VMConfigError
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.argv import starts_held
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig, check_names
from pytest_qmp.vm.freshness import clock_command, freshening_command
from pytest_qmp.vm.process import QEMUProcess
from pytest_qmp.vm.restore_disks import check_disks, copied
from pytest_qmp.vm.restore_files import memory_file, unnamed_file
from pytest_qmp.vm.restore_points import MachineRestorePoints, forget_since
from pytest_qmp.vm.restore_process import ClonableProcess
from pytest_qmp.vm.restore_saved import SavedConsole, SavedMachine, SavedModel
from pytest_qmp.vm.restore_state import load_state, write_state

if TYPE_CHECKING:
    from pytest_qmp.vm.console import Console
    from pytest_qmp.vm.console_shell import ShellState
    from pytest_qmp.vm.machine import VirtualMachine

__all__ = ["MachineSnapshots", "Saved", "check_changes", "restored"]

Saved = SavedMachine | SavedModel

_LOG_BYTES = 1024 * 1024
_PROMPT_BYTES = 256
_SETTLE_SECONDS = 1.0
_SHELL_SECONDS = 10.0
#: What of a clone's config is nothing to the guest.
_CHANGEABLE = ("name", "timeout", "allow", "console_watch")
#: What saving and going on makes of events.
_OURS = frozenset({"MIGRATION", "RESUME", "STOP"})


class MachineSnapshots(MachineRestorePoints):
    """The snapshots and clones of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.

    Attributes:
        held: True leaves the CPUs stopped at the place where it begins.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._clones: list[VirtualMachine] = []
        self.held = False
        self._is_seeded = False

    def clone(self, *, timeout: Timeout = DEFAULT, **changes: Any) -> VirtualMachine:
        """A second machine that begins where this one is now; this one goes on.

        Neither sees what the other does to its memory and disks from then on. It ends with this
        one, unless it is closed before.

        Args:
            timeout: seconds for the whole of it.
            changes: fields of the config that may differ: ``name``, ``timeout``, ``allow``,
                ``console_watch``; ``paused=True`` leaves the clone stopped.

        Raises:
            VMError: the machine can't be saved, with QEMU's reason; or it is not ours.
            VMConfigError: one of its disks can't be copied, or a change can't be made.
            VMLaunchError: the second QEMU does not start with it.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        saved = self.save(deadline, with_memory=True, goes_on=True)
        try:
            clone = restored(self.config, saved, **changes)
            if "name" not in changes:
                clone.label = f"{self.label} (clone {len(self._clones) + 1})"
            self._clones.append(clone)
            self._releases.append(clone.close)
            return clone.start()
        finally:
            saved.close()

    def release(self, timeout: Timeout = DEFAULT) -> None:
        """Lets a machine run that was held at the place where it begins; another one does already.

        Args:
            timeout: seconds.
        """
        __tracebackhide__ = True
        if self.held:
            self.held = False
            if self._saved is None or not self._saved.paused:
                self._let_go(self.qmp, self._deadline(timeout))

    def know_shells(self) -> None:
        """Has the shells that ``login()`` has found ready for ``run()``, once for all copies."""
        __tracebackhide__ = True
        from pytest_qmp.vm.console_errors import ConsoleTimeoutError

        for console in self._opened_consoles.values():
            # What does not answer as a shell does is left as it is: the test will see it.
            with suppress(ConsoleTimeoutError):
                console.know_shell(_SHELL_SECONDS)

    def freshen_ahead(self, timeout: Timeout = DEFAULT) -> None:
        """Does for a machine that is held what takes its time, so that the clock is left to do.

        Its guest runs meanwhile, and is then held again.

        Args:
            timeout: seconds.

        Raises:
            ConsoleTimeoutError: the shell did not answer.
        """
        __tracebackhide__ = True
        saved = self._saved
        if not self.held or saved is None or saved.paused or self._waiting_shell() is None:
            return
        deadline = self._deadline(timeout)
        mark = self.events.total
        self.release(deadline)
        self.freshen(deadline)
        self.qmp.execute("stop", timeout=deadline)
        forget_since(self.events, mark, _OURS)
        self.held = self._is_seeded = True

    def freshen(self, timeout: Timeout = DEFAULT) -> bool:
        """Sets the guest's clock, and has Linux make new random numbers.

        For a guest that began with another's state, whose time it has, and whose random numbers
        it would draw again. It is done by a shell that waits at a console, if ``login()`` or
        ``run()`` has made it known, or else, for the clock alone, by the guest agent, if somebody
        has spoken with it. A template's machines have it done at their start.

        Args:
            timeout: seconds.

        Returns:
            False if there is neither.

        Raises:
            ConsoleTimeoutError: the shell did not answer.
            QMPTimeoutError: the agent did not answer.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        console = self._waiting_shell()
        if console is not None:
            seeded, self._is_seeded = self._is_seeded, False
            command = clock_command() if seeded else freshening_command(self.config.arch or "")
            console.run(command, timeout=deadline.remaining())
            return True
        if self._agent is None and not (getattr(self._saved, "agent", False)):
            return False
        self.guest.execute("guest-set-time", {"time": time.time_ns()}, timeout=deadline)
        return True

    def _waiting_shell(self) -> Console | None:
        """The first console at which a shell waits that is known."""
        for console in self._opened_consoles.values():
            shell = console.shell_state
            if shell is not None and shell.prompt_end and _waits(console, shell.prompt_end):
                return console
        return None

    def check(self) -> None:
        """Raises what went wrong beside the test's own course, once; with its clones'."""
        __tracebackhide__ = True
        super().check()
        for clone in self._clones:
            clone.check()

    def save(self, deadline: Deadline, *, with_memory: bool, goes_on: bool) -> Saved:
        """What another machine needs to begin where this one is now.

        Args:
            deadline: for the whole of it.
            with_memory: True writes the guest's memory with the state; False only refers to the
                file that has it (``VMConfig.cloneable``), which must not change any more.
            goes_on: True for a machine that is to run on: what it writes to is copied. Otherwise
                it stays stopped.

        Raises:
            VMError: the machine can't be saved, with QEMU's reason.
            VMConfigError: one of its disks can't be copied.
        """
        __tracebackhide__ = True
        self._check_can("save its state")
        if self._backend.kind == "fake":
            paused = self.status != "running"
            return SavedModel(self.fake.copy_state(), paused, self._saved_consoles())
        qmp = self.qmp
        mark = qmp.events.total
        status = str(qmp.execute("query-status", timeout=deadline)["status"])
        if status == "running":
            qmp.execute("stop", timeout=deadline)
        with ExitStack() as undo:
            undo.callback(forget_since, qmp.events, mark, _OURS)
            undo.callback(self._go_on, status, deadline)
            saved = self._save(deadline, with_memory, goes_on, paused=status != "running")
            if not goes_on:
                undo.pop_all()
                forget_since(qmp.events, mark, _OURS)
        return saved

    def go_on(self, saved: Saved, deadline: Deadline) -> None:
        """Runs on after ``save()`` has stopped it, if it ran before."""
        mark = self.qmp.events.total
        self._go_on("paused" if saved.paused else "running", deadline)
        forget_since(self.qmp.events, mark, _OURS)

    @property
    def lends_memory(self) -> bool:
        """Whether the guest's memory is in a file that others can begin with."""
        process = self._backend
        if isinstance(process, ClonableProcess):
            return process.memory is not None
        return process.kind == "fake"

    def _save(
        self, deadline: Deadline, with_memory: bool, goes_on: bool, *, paused: bool
    ) -> SavedMachine:
        process = self._backend
        clonable = process if isinstance(process, ClonableProcess) else None
        drives = process.drives if isinstance(process, QEMUProcess) else []
        layers = clonable.layers if clonable is not None else None
        nodes = [
            node
            for node in self.qmp.execute(
                "query-named-block-nodes", {"flat": True}, timeout=deadline
            )
            if node["file"] != self._snapshot_file
        ]
        check_disks(nodes, drives, layers)
        consoles = self._saved_consoles()
        version = self.qmp.version
        kind = clonable.memory_kind if clonable is not None else "own"
        with ExitStack() as undo:
            state = unnamed_file() if with_memory else memory_file("state")
            saved = SavedMachine(
                version=(version.major, version.minor, version.micro),
                state=state,
                memory_kind="backend" if with_memory and kind == "file" else kind,
                generation_id=clonable is not None and clonable.generation_id,
                paused=paused,
                agent=self._agent is not None,
                consoles=consoles,
            )
            undo.callback(saved.close)
            write_state(self.qmp, state, deadline, ignore_shared=not with_memory)
            if layers is None or goes_on:
                disks = copied(drives, layers)
            else:
                disks = [tuple(one.duplicate() for one in over) for over in layers]
            undo.pop_all()
        memory = None
        if not with_memory and clonable is not None:
            memory = clonable.lend_memory()
        return replace(saved, disks=tuple(disks), memory=memory)

    def _go_on(self, status: str, deadline: Deadline) -> None:
        """Brings the machine back to what it did before it was saved."""
        now = self.qmp.execute("query-status", timeout=deadline)["status"]
        if status == "running" or now == "postmigrate":
            # A guest that was stopped gets no further in between than it takes to stop it.
            commands = ["cont"] if status == "running" else ["cont", "stop"]
            self.qmp.pipeline(commands, timeout=deadline)

    def _saved_consoles(self) -> dict[str, SavedConsole]:
        found = {}
        for name, stream in self._oversight.streams.items():
            # What the guest wrote just before it was stopped may still be on its way.
            stream.settle(Deadline(_SETTLE_SECONDS), until_end=False)
            log = stream.tail(_LOG_BYTES)
            console = self._opened_consoles.get(name)
            read = console._unread.start if console is not None else 0
            shell = console.shell_state if console is not None else None
            found[name] = SavedConsole(
                log, min(len(log), stream.size - read), None if shell is None else asdict(shell)
            )
        return found

    # -- begun with a saved state ----------------------------------------------------------------

    @property
    def _saved(self) -> Saved | None:
        found: Saved | None = getattr(self._backend, "saved", None)
        return found

    def _connect_console(self, name: str, sock: socket.socket) -> None:
        saved = self._saved
        super()._connect_console(name, sock)
        if saved is not None and name in saved.consoles:
            # Before the guest runs: it goes on behind that.
            self._oversight.streams[name].feed(saved.consoles[name].log)

    def _begin(self, qmp: QMPClient, deadline: Deadline) -> None:
        process, saved = self._backend, self._saved
        if saved is None:
            super()._begin(qmp, deadline)
            return
        if isinstance(process, ClonableProcess) and isinstance(saved, SavedMachine):
            load_state(qmp, process.state, deadline, ignore_shared=saved.memory is not None)
        elif self.held and not saved.paused:
            qmp.execute("stop", timeout=deadline)
            qmp.events.forget("STOP")
        for name, one in saved.consoles.items():
            if name in self._sockets and (self.backend == "qemu" or one.log):
                console = self.consoles[name]
                console._unread.skip(len(one.log) - one.unread)
                console.shell_state = None if one.shell is None else _shell_state(one.shell)
        super()._begin(qmp, deadline)
        if not starts_held(self.config):
            self._let_go(qmp, deadline)

    def _let_go(self, qmp: QMPClient, deadline: Deadline) -> None:
        saved = self._saved
        if saved is None or not (saved.paused or self.held):
            super()._let_go(qmp, deadline)


def restored(
    config: VMConfig, saved: Saved, *, paused: bool = False, **changes: Any
) -> VirtualMachine:
    """A machine, not started yet, that begins with a saved state.

    Args:
        config: of the machine that was saved.
        saved: its state, which has to be there until the machine has started.
        paused: True leaves the CPUs stopped.
        changes: fields of the config that may differ.

    Raises:
        VMConfigError: a change would not fit the state.
    """
    __tracebackhide__ = True
    from pytest_qmp.vm.machine import VirtualMachine

    config = check_changes(config, changes)
    if isinstance(saved, SavedModel):
        from pytest_qmp.vm.fake_machine import FakeMachine

        machine = VirtualMachine.run_by(config, FakeMachine(config, saved))
    else:
        machine = VirtualMachine.run_by(config, ClonableProcess(config, saved))
    machine.held = paused
    return machine


def check_changes(config: VMConfig, changes: Mapping[str, Any]) -> VMConfig:
    """The config with those fields changed.

    Raises:
        VMConfigError: a change would not fit the state.
    """
    __tracebackhide__ = True
    check_names(changes, "a clone")
    for name in changes:
        if name not in _CHANGEABLE:
            raise VMConfigError(
                f"a clone has the {name} of the machine whose state it begins with; what may "
                f"differ: {', '.join(_CHANGEABLE)}, paused"
            )
    return config.replace(**changes)


def _waits(console: Console, prompt_end: str) -> bool:
    """Whether the last that came at a console is the end of a shell's prompt."""
    return console._stream.tail(_PROMPT_BYTES).endswith(prompt_end.encode())


def _shell_state(members: dict[str, Any]) -> ShellState:
    from pytest_qmp.vm.console_shell import ShellState

    return ShellState(**members)
