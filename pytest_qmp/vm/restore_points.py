"""A machine's snapshots: places in its life that it can go back to."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPError, VMConfigError, VMError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventLog
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import nearest
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.jobs import MachineJobs
from pytest_qmp.vm.ports import MachinePorts
from pytest_qmp.vm.restore_files import new_overlay

if TYPE_CHECKING:
    from pytest_qmp.vm.console_shell import ShellState

__all__ = ["MachineRestorePoints", "forget_since"]

_NODE = "pytest-qmp-vmstate"
_DISK_BYTES = 1024 * 1024
_SETTLE_SECONDS = 1.0
#: From these QEMU goes on only after a reset.
_NEEDS_RESET = frozenset({"internal-error", "shutdown"})
_OURS = frozenset({"JOB_STATUS_CHANGE", "RESET", "RESUME", "STOP"})


@dataclass(frozen=True)
class _Snapshot:
    """A place to go back to.

    Attributes:
        tag: what QEMU calls it.
        running: the guest ran.
        devices: the block nodes that have a part of it.
        consoles: what nobody had read at each console, and what was known of its shell.
        model: on the fake, the copy of its state.
    """

    tag: str
    running: bool
    devices: list[str]
    consoles: dict[str, tuple[str, ShellState | None]]
    model: Any = None


class MachineRestorePoints(MachinePorts, MachineJobs):
    """The snapshots of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._snapshots: dict[str, _Snapshot] = {}
        self._snapshot_file = ""

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The names of the snapshots, the oldest first."""
        return tuple(self._snapshots)

    def save_snapshot(self, name: str = "default", timeout: Timeout = DEFAULT) -> None:
        """Keeps the state of the machine, its memory and its disks, to go back to.

        The disks keep theirs in their images, which have to be qcow2; the memory is kept in a
        file that goes with the machine. The guest runs on.

        Args:
            name: for ``load_snapshot()``; one of that name is replaced.
            timeout: seconds.

        Raises:
            VMConfigError: a disk that is written is not qcow2.
            VMJobError: QEMU can't; with its reason.
            VMError: somebody else started the machine.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        self._check_can("save a snapshot of it")
        if name in self._snapshots:
            self.delete_snapshot(name, timeout=deadline)
        mark = self.events.total
        running = self.status == "running"
        if self._backend.kind == "fake":
            self._snapshots[name] = _Snapshot("", running, [], {}, self.fake.copy_state())
            return
        if running:
            self.qmp.execute("stop", timeout=deadline)
        try:
            consoles = {}
            for console_name, stream in self._oversight.streams.items():
                # What the guest wrote just before may still be on its way.
                stream.settle(Deadline(_SETTLE_SECONDS), until_end=False)
                console = self.consoles[console_name]
                consoles[console_name] = console.buffer, console.shell_state
            devices = [*self._written_nodes(deadline), self._snapshot_node(deadline)]
            tag = f"pytest-qmp-{len(self._snapshots)}-{os.urandom(4).hex()}"
            arguments = {"tag": tag, "vmstate": _NODE, "devices": devices}
            self.run_job("snapshot-save", arguments, timeout=deadline)
            self._snapshots[name] = _Snapshot(tag, running, devices, consoles)
        finally:
            if running:
                self.qmp.execute("cont", timeout=deadline)
            forget_since(self.events, mark, _OURS)

    def load_snapshot(self, name: str = "default", timeout: Timeout = DEFAULT) -> None:
        """Goes back to where ``save_snapshot()`` was called: the guest runs on from there.

        What it wrote to its consoles since stays in their logs; what is left to be read there is
        what was then. Its clock shows the time of then: see ``freshen()``.

        Args:
            name: of the snapshot.
            timeout: seconds.

        Raises:
            VMError: there is no such snapshot; the text names those that there are.
            VMJobError: QEMU can't; with its reason.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        snapshot = self._snapshot(name)
        if snapshot.model is not None:
            self.fake.put_state(snapshot.model)
            return
        mark = self.events.total
        status = self.status
        self.qmp.execute("stop", timeout=deadline)
        if status in _NEEDS_RESET:
            self.qmp.execute("system_reset", timeout=deadline)
        for stream in self._oversight.streams.values():
            stream.settle(Deadline(_SETTLE_SECONDS), until_end=False)
        arguments = {"tag": snapshot.tag, "vmstate": _NODE, "devices": snapshot.devices}
        self.run_job("snapshot-load", arguments, timeout=deadline)
        for console_name, (unread, shell) in snapshot.consoles.items():
            console = self.consoles[console_name]
            console.buffer = unread
            console.shell_state = shell
        if snapshot.running:
            self.qmp.execute("cont", timeout=deadline)
        forget_since(self.events, mark, _OURS)

    def delete_snapshot(self, name: str = "default", timeout: Timeout = DEFAULT) -> None:
        """Lets go of a snapshot.

        Raises:
            VMError: there is no such snapshot.
            VMJobError: QEMU can't; with its reason.
        """
        __tracebackhide__ = True
        snapshot = self._snapshot(name)
        if snapshot.model is None:
            mark = self.events.total
            arguments = {"tag": snapshot.tag, "devices": snapshot.devices}
            self.run_job("snapshot-delete", arguments, timeout=timeout)
            forget_since(self.events, mark, _OURS)
        del self._snapshots[name]

    def _snapshot(self, name: str) -> _Snapshot:
        __tracebackhide__ = True
        self._check_can("go back with it")
        try:
            return self._snapshots[name]
        except KeyError:
            known = ", ".join(map(repr, self._snapshots)) or "none: save_snapshot() makes one"
            raise VMError(
                f"{self} has no snapshot {name!r}{nearest(name, self._snapshots)} (there are: "
                f"{known})"
            ) from None

    def _check_can(self, what: str) -> None:
        __tracebackhide__ = True
        if self._backend.kind == "external":
            raise VMError(f"{self} was started by somebody else, so that we can't {what}")

    def _written_nodes(self, deadline: Deadline) -> list[str]:
        """The nodes of the disks that a snapshot has to cover."""
        __tracebackhide__ = True
        found = []
        for device in self.qmp.execute("query-block", timeout=deadline):
            medium = device.get("inserted")
            if medium is None or medium["ro"]:
                continue
            if medium["drv"] != "qcow2":
                name = device["device"] or device.get("qdev") or medium["node-name"]
                raise VMConfigError(
                    f"the disk {name!r} ({medium['file']}) is {medium['drv']}, and a snapshot "
                    "needs qcow2: lay an overlay over it (Drive(…, overlay=True), or "
                    "VMConfig(cloneable=True) for all), or make it read-only"
                )
            found.append(str(medium["node-name"]))
        return found

    def _snapshot_node(self, deadline: Deadline) -> str:
        """The block node that keeps the memory, in a file without a name."""
        if not self._snapshot_file:
            fd = new_overlay(_DISK_BYTES)
            try:
                added = self.qmp.execute("add-fd", fds=[fd], timeout=deadline)
            finally:
                os.close(fd)
            path = f"/dev/fdset/{added['fdset-id']}"
            file = {"driver": "file", "filename": path}
            node = {"driver": "qcow2", "node-name": _NODE, "file": file}
            try:
                self.qmp.execute("blockdev-add", node, timeout=deadline)
            except QMPError:
                with suppress(QMPError):
                    self.qmp.execute("remove-fd", {"fdset-id": added["fdset-id"]}, timeout=deadline)
                raise
            self._snapshot_file = path
        return _NODE


def forget_since(events: EventLog, mark: int, names: frozenset[str]) -> None:
    """Takes our own doing out of a history, as if it had not come.

    Args:
        events: the history.
        mark: what ``events.total`` was before.
        names: of the events; others stay.
    """
    since = events.total - mark
    kept = [event for event in events[len(events) - since :] if event.name not in names]
    events.rewind(mark)
    for event in kept:
        events.append(event)
