"""A QEMU that somebody else started: we connect to it, and leave it running."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_qmp.errors import VMError
from pytest_qmp.qmp.address import AddressLike, parse_address
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.transport import connect_socket
from pytest_qmp.vm.backend import Wires
from pytest_qmp.vm.config import VMConfig

__all__ = ["ExternalMachine"]


class ExternalMachine:
    """Connects to the QMP monitor of a running QEMU.

    Args:
        address: of its monitor.

    Raises:
        QMPAddressError: it is no address.
    """

    kind = "external"
    argv: tuple[str, ...] = ()
    pid: int | None = None

    def __init__(self, address: AddressLike) -> None:
        self.address = parse_address(address)

    @property
    def description(self) -> str:
        """Such as ``the QEMU at unix:/run/qmp.sock``."""
        return f"the QEMU at {self.address}"

    def configure(self, config: VMConfig) -> None:
        """How it was started is not ours to say."""

    def start(self, consoles: Sequence[str], deadline: Deadline) -> Wires:
        """Connects.

        Raises:
            QMPConnectError: nobody is there.
        """
        return Wires(connect_socket(self.address, deadline))

    def wait(self, deadline: Deadline) -> int | None:
        """Its exit status is known to whoever started it, not to us."""
        return None

    def stderr(self) -> str:
        """What it wrote is not ours to read."""
        return ""

    def terminate(self) -> None:
        """Refused: it is not ours.

        Raises:
            VMError: always.
        """
        __tracebackhide__ = True
        raise VMError(f"{self.description} was started by somebody else, who also has to end it")

    def kill(self) -> None:
        """Refused: it is not ours.

        Raises:
            VMError: always.
        """
        __tracebackhide__ = True
        self.terminate()

    def close(self) -> None:
        """Nothing is held for it but the monitor's socket, which is the client's."""
