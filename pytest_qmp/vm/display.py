"""A machine's display: pictures of it, and the mouse that points at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPCommandError, VMError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.config import PathLike
from pytest_qmp.vm.input import MachineInput
from pytest_qmp.vm.screen_file import ScreenFile, screen_file
from pytest_qmp.vm.screenshot import Screenshot, size_of_ppm

if TYPE_CHECKING:
    from pytest_qmp.vm.mouse import Mouse

__all__ = ["MachineDisplay"]


class MachineDisplay(MachineInput):
    """The display of ``VirtualMachine``."""

    def screenshot(
        self,
        path: PathLike | None = None,
        *,
        device: str | None = None,
        head: int | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Screenshot:
        """Takes a picture of the screen.

        Args:
            path: where to write it, too, as a PNG.
            device: the id of the display device; None: the first.
            head: which of its screens.
            timeout: seconds for the whole call.

        Returns:
            The bytes of a PNG, with ``size``, ``image`` (of Pillow) and ``save(path)``.

        Raises:
            VMError: the machine has no display.
            QMPCommandError: there is no such device or head.
            OSError: the file can't be written.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        picture = Screenshot.from_ppm(self._dump_screen(device, head, deadline))
        if path is not None:
            picture.save(path)
        return picture

    @property
    def mouse(self) -> Mouse:
        """The mouse or tablet."""
        from pytest_qmp.vm.mouse import Mouse

        return Mouse(
            lambda events, what: self._send_input(events, what, self._deadline(DEFAULT)),
            lambda: size_of_ppm(self._dump_screen(None, None, self._deadline(DEFAULT))),
        )

    def _dump_screen(self, device: str | None, head: int | None, deadline: Deadline) -> bytes:
        """The screen as a portable pixmap."""
        __tracebackhide__ = True
        with screen_file(self.qmp, deadline) as file:
            return self._dump_into(file, device, head, deadline)

    def _dump_into(
        self, file: ScreenFile, device: str | None, head: int | None, deadline: Deadline
    ) -> bytes:
        __tracebackhide__ = True
        arguments: dict[str, Any] = {"filename": file.name}
        if device is not None:
            arguments["device"] = device
        if head is not None:
            arguments["head"] = head
        file.clear()
        try:
            # Every QEMU writes this form; PNG, from 7.1 on, only where it was built so, and then
            # it forgets to take the descriptor back out of its set.
            self.qmp.execute("screendump", arguments, timeout=deadline)
        except QMPCommandError as error:
            if "no console to take a screendump" not in error.desc:
                raise
            raise VMError(
                f"{self} has no display to take a picture of: give it one, with "
                "VMConfig(display=True), or a device of your choice, as in devices=['VGA'] or "
                "devices=['virtio-gpu-pci']"
            ) from None
        return file.read()
