"""What goes to a guest's keyboards and pointers, no faster than the guest takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_qmp.errors import QMPCommandError, QMPTimeoutError, VMError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands, sooner
from pytest_qmp.vm.config import VMConfig

__all__ = ["InputEvent", "MachineInput", "PS2Room"]

#: As ``input-send-event`` takes it.
InputEvent = Mapping[str, Any]

#: Reading the status register of a PC's keyboard controller changes nothing.
_STATUS_COMMAND = "i /b 0x64"
_STATUS = re.compile(r"=\s*0x([0-9a-f]+)")
_NO_CONTROLLER, _UNREAD = 0xFF, 0x01
#: What a PS/2 keyboard or mouse of QEMU's keeps for the guest, in bytes; the rest is lost.
_ROOM = 16
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.05
_TAKING_INPUT = ("running", "suspended")

_OTHER_KEYBOARDS = re.compile(r"usb-kbd|virtio-keyboard|usb-braille|virtio-input-host")
_REMEDIES = {
    "key": "no keyboard: give it one, as in devices=['virtio-keyboard-pci'], or "
    "devices=['qemu-xhci', 'usb-kbd']",
    "btn": "no mouse and no tablet: give it one, as in devices=['virtio-tablet-pci'], or "
    "devices=['qemu-xhci', 'usb-tablet']",
    "abs": "nothing that points at a place of the screen: give it a tablet, as in "
    "devices=['virtio-tablet-pci'] or devices=['qemu-xhci', 'usb-tablet'] (a mouse only moves "
    "by a way: mouse.move_by())",
    "rel": "nothing that moves by a way: give it a mouse, as in devices=['virtio-mouse-pci'] or "
    "devices=['qemu-xhci', 'usb-mouse'] (a tablet points at a place: mouse.move())",
}


class PS2Room:
    """How much a PS/2 port can still take, counted from when the guest had read all."""

    def __init__(self) -> None:
        self._used = 0

    def fits(self, events: Sequence[InputEvent]) -> bool:
        """Whether these can be sent though the guest may have read nothing yet."""
        return self._used + _bytes_of(events) <= _ROOM

    def add(self, events: Sequence[InputEvent]) -> None:
        """These were sent."""
        self._used += _bytes_of(events)

    def empty(self) -> None:
        """The guest has read all."""
        self._used = 0


def _bytes_of(events: Sequence[InputEvent]) -> int:
    # A key's longest scan codes; a mouse sends one packet for what came together.
    keys = [one["data"]["down"] for one in events if one["type"] == "key"]
    return sum(2 if down else 3 for down in keys) + (4 if len(keys) < len(events) else 0)


class MachineInput(MachineCommands):
    """What keyboard and mouse of ``VirtualMachine`` have in common.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._room = PS2Room()
        self._asks_controller = backend.kind != "fake"
        self._other_keyboard = bool(_OTHER_KEYBOARDS.search(f"{config.devices} {config.args}"))

    def _send_input(self, events: Sequence[InputEvent], what: str, deadline: Deadline) -> None:
        """Sends what happens at once, as soon as the guest has room for it.

        Args:
            events: as ``input-send-event`` takes them.
            what: is being done, for messages.
            deadline: of the whole call.

        Raises:
            VMError: the machine has no such device, or its CPUs don't run.
            QMPTimeoutError: the guest does not read what came before.
        """
        __tracebackhide__ = True
        self._await_room(events, what, deadline)
        try:
            self.qmp.execute("input-send-event", events=list(events), timeout=deadline)
        except QMPCommandError as error:
            raise self._input_refused(error, what) or error from None
        self._room.add(events)

    def _input_refused(self, error: QMPCommandError, what: str) -> VMError | None:
        _, found, kind = error.desc.partition("Input handler not found for event type ")
        if found and kind in _REMEDIES:
            return VMError(f"can't {what}: {self} has {_REMEDIES[kind]}")
        return self._not_running(what) if "VM not running" in error.desc else None

    def _not_running(self, what: str) -> VMError:
        return VMError(
            f"can't {what}: the CPUs of {self} don't run{self._status_now()}; call cont() first"
        )

    def _require_running(self, what: str) -> None:
        __tracebackhide__ = True
        if self.status not in _TAKING_INPUT:
            raise self._not_running(what)

    def _await_room(self, events: Sequence[InputEvent], what: str, deadline: Deadline) -> None:
        __tracebackhide__ = True
        if not self._asks_controller or self._room.fits(events):
            return
        pause = _FIRST_LOOK
        while self._unread(deadline):
            if pause == _FIRST_LOOK:
                self._require_running(what)
            # No event tells that the guest has read a port.
            self._idle(pause, deadline)
            pause = min(2 * pause, _LAST_LOOK)
            if deadline.expired:
                raise QMPTimeoutError(
                    f"waited {deadline.words} to {what}, but the guest of {self} does not read "
                    "what its keyboard or mouse has sent before. Check that it has got so far as "
                    f"to use them.{self._shown_console()}"
                )
        self._room.empty()

    def _unread(self, deadline: Deadline) -> bool:
        """Whether the guest still has something to read from its PS/2 ports."""
        line = {"command-line": _STATUS_COMMAND}
        try:
            reply = self.qmp.execute("human-monitor-command", line, timeout=deadline)
        except QMPCommandError:
            reply = ""  # A QEMU without a human monitor.
        found = _STATUS.search(str(reply))
        status = int(found[1], 16) if found else _NO_CONTROLLER
        if status == _NO_CONTROLLER:
            self._asks_controller = False
            return False
        return bool(status & _UNREAD)

    @property
    def _sees_keys_taken(self) -> bool:
        """Whether the keyboard is one of which can be seen when the guest has read it."""
        return self._backend.kind == "fake" or (
            self._asks_controller and not self._other_keyboard and self._is_pc()
        )

    def _is_pc(self) -> bool:
        if not self.config.arch:
            return True  # Of somebody else's: the controller itself tells.
        return self.config.arch in ("x86_64", "i386")

    def _idle(self, seconds: float, deadline: Deadline) -> None:
        """Lets time pass for the guest; ends at once when something happens to the machine."""
        __tracebackhide__ = True
        pause = sooner(deadline, seconds)
        while not pause.expired:
            self.qmp.wait_for_news(self.qmp.events.total, pause)
