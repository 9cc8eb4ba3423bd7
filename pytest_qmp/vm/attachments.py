"""What is kept of a machine beside its logs: pictures, or whatever a test wants to keep."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands
from pytest_qmp.vm.config import VMConfig

__all__ = ["MachineAttachments"]


class MachineAttachments(MachineCommands):
    """What ``VirtualMachine`` adds to the artifacts of a test that fails.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._attachments: dict[str, bytes] = {}

    @property
    def attachments(self) -> Mapping[str, bytes]:
        """What was attached so far, by name."""
        return MappingProxyType(self._attachments)

    def attach_artifact(self, name: str, data: bytes) -> None:
        """Keeps a file for the artifacts of the test, beside the machine's logs.

        Args:
            name: of the file; one of the same name is replaced.
            data: what it holds.
        """
        self._attachments[name] = bytes(data)
