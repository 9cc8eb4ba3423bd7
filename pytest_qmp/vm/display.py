"""A machine's display: pictures of it, and the mouse that points at it."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import TYPE_CHECKING, Any, Literal

from pytest_qmp.errors import QMPCommandError, VMError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.config import PathLike
from pytest_qmp.vm.input import MachineInput
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
        try:
            picture = Screenshot(self._dump_screen("png", device, head, deadline))
        except QMPCommandError as error:
            # A QEMU that was built without libpng says so; one before 7.1 knows no format.
            if "PNG" not in error.desc and "'format'" not in error.desc:
                raise
            picture = Screenshot.from_ppm(self._dump_screen("ppm", device, head, deadline))
        if path is not None:
            picture.save(path)
        return picture

    @property
    def mouse(self) -> Mouse:
        """The mouse or tablet."""
        from pytest_qmp.vm.mouse import Mouse

        return Mouse(
            lambda events, what: self._send_input(events, what, self._deadline(DEFAULT)),
            lambda: size_of_ppm(self._dump_screen("ppm", None, None, self._deadline(DEFAULT))),
        )

    def _dump_screen(
        self, form: Literal["png", "ppm"], device: str | None, head: int | None, deadline: Deadline
    ) -> bytes:
        """The bytes of a picture that QEMU writes."""
        __tracebackhide__ = True
        arguments: dict[str, Any] = {}
        # Before 7.1 there was no such argument, and this format.
        if form != "ppm":
            arguments["format"] = form
        if device is not None:
            arguments["device"] = device
        if head is not None:
            arguments["head"] = head
        try:
            if self._passes_descriptors():
                return self._dump_to_descriptor(arguments, deadline)
            return self._dump_to_file(arguments, deadline)
        except QMPCommandError as error:
            if "no console to take a screendump" not in error.desc:
                raise
            raise VMError(
                f"{self} has no display to take a picture of: give it one, with "
                "VMConfig(display=True), or a device of your choice, as in devices=['VGA'] or "
                "devices=['virtio-gpu-pci']"
            ) from None

    def _passes_descriptors(self) -> bool:
        with socket.socket(fileno=os.dup(self.qmp.fileno())) as monitor:
            return monitor.family == socket.AF_UNIX

    def _dump_to_descriptor(self, arguments: dict[str, Any], deadline: Deadline) -> bytes:
        """Into a file without a name, which nobody else finds and nothing leaves behind."""
        __tracebackhide__ = True
        with tempfile.TemporaryFile() as file:
            # QEMU takes a descriptor of a set only for what it was opened for.
            writable = os.open(f"/dev/fd/{file.fileno()}", os.O_WRONLY)
            try:
                added = self.qmp.execute("add-fd", fds=[writable], timeout=deadline)
            finally:
                os.close(writable)
            number = added["fdset-id"]
            try:
                name = f"/dev/fdset/{number}"
                self.qmp.execute("screendump", {"filename": name, **arguments}, timeout=deadline)
            finally:
                self.qmp.execute("remove-fd", {"fdset-id": number})
            file.seek(0)
            return file.read()

    def _dump_to_file(self, arguments: dict[str, Any], deadline: Deadline) -> bytes:
        """Into a file of a private folder, where no descriptor can be passed (TCP)."""
        __tracebackhide__ = True
        with tempfile.TemporaryDirectory(prefix="pytest-qmp-") as folder:
            path = os.path.join(folder, "screen")
            self.qmp.execute("screendump", {"filename": path, **arguments}, timeout=deadline)
            try:
                with open(path, "rb") as file:
                    return file.read()
            except FileNotFoundError:
                raise VMError(
                    f"{self} has written the picture of its screen to {path!r}, where there is no "
                    "file: it runs on another host. Connect to a unix socket of its monitor "
                    "(ssh -L forwards one)"
                ) from None
