"""A machine at one moment: what another one needs to begin there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_qmp.vm.restore_disks import Layer, Layers

if TYPE_CHECKING:
    from pytest_qmp.fake.copies import MachineCopy

__all__ = ["MemoryKind", "SavedConsole", "SavedMachine", "SavedModel"]

#: How QEMU has the guest's memory: its own way, in a backend of ours, or in a file of ours.
MemoryKind = Literal["own", "backend", "file"]


@dataclass(frozen=True)
class SavedConsole:
    """What a guest has written to a console, and who has read how much of it.

    Attributes:
        log: the text, or its last part.
        unread: how many of its last bytes nobody has read.
        shell: what the console knows of the shell behind it; None: nothing.
    """

    log: bytes = b""
    unread: int = 0
    shell: Any = None


@dataclass(frozen=True)
class SavedMachine:
    """The state, the memory and the disks of a machine. It owns its descriptors.

    Attributes:
        version: of the QEMU that wrote it.
        state: a file with the devices, and the memory unless ``memory`` has it.
        memory: a sealed file with the guest's memory; None if ``state`` has it.
        memory_kind: how QEMU had it.
        generation_id: True if we gave the machine a generation ID (``vmgenid``).
        paused: the guest did not run.
        agent: somebody has spoken with the guest agent.
        disks: what lies over each drive.
        consoles: the serial ports, by name.
    """

    version: tuple[int, int, int]
    state: int
    memory: int | None = None
    memory_kind: MemoryKind = "own"
    generation_id: bool = False
    paused: bool = False
    agent: bool = False
    disks: tuple[Layers, ...] = ()
    consoles: Mapping[str, SavedConsole] = field(default_factory=dict)

    def descriptors(self) -> dict[str, int]:
        """All files, by name, for whoever hands them to another process."""
        found = {"state": self.state}
        if self.memory is not None:
            found["memory"] = self.memory
        for number, layers in enumerate(self.disks):
            for height, layer in enumerate(layers):
                found[f"disk{number}.{height}"] = layer.fd
        return found

    def manifest(self) -> dict[str, Any]:
        """All but the files, as JSON can have it."""
        return {
            "version": list(self.version),
            "memory": self.memory is not None,
            "memory_kind": self.memory_kind,
            "generation_id": self.generation_id,
            "paused": self.paused,
            "agent": self.agent,
            "disks": [
                [{"format": layer.format, "whole": layer.whole} for layer in layers]
                for layers in self.disks
            ],
            "consoles": {
                name: {
                    "log": one.log.decode("latin-1"),
                    "unread": one.unread,
                    "shell": one.shell,
                }
                for name, one in self.consoles.items()
            },
        }

    @classmethod
    def from_parts(cls, manifest: Mapping[str, Any], fds: Mapping[str, int]) -> SavedMachine:
        """From what ``manifest()`` and ``descriptors()`` gave, here or elsewhere.

        Args:
            manifest: as it was.
            fds: descriptors of the same files, by name; they are owned from now on.

        Raises:
            KeyError, TypeError, ValueError: something is missing, or is not what it was.
        """
        major, minor, micro = manifest["version"]
        return cls(
            version=(int(major), int(minor), int(micro)),
            state=fds["state"],
            memory=fds["memory"] if manifest["memory"] else None,
            memory_kind=manifest["memory_kind"],
            generation_id=bool(manifest["generation_id"]),
            paused=bool(manifest["paused"]),
            agent=bool(manifest["agent"]),
            disks=tuple(
                tuple(
                    Layer(fds[f"disk{number}.{height}"], layer["format"], layer["whole"])
                    for height, layer in enumerate(layers)
                )
                for number, layers in enumerate(manifest["disks"])
            ),
            consoles={
                name: SavedConsole(one["log"].encode("latin-1"), int(one["unread"]), one["shell"])
                for name, one in manifest["consoles"].items()
            },
        )

    def close(self) -> None:
        """Closes the files; machines that were started from it run on. Not to be called twice."""
        with ExitStack() as stack:
            for fd in self.descriptors().values():
                stack.callback(os.close, fd)


@dataclass(frozen=True)
class SavedModel:
    """The same of a fake's machine, which nobody but its own process can begin with.

    Attributes:
        model: the copy of its state.
        paused: the guest did not run.
        consoles: the serial ports, by name.
    """

    model: MachineCopy
    paused: bool = False
    consoles: Mapping[str, SavedConsole] = field(default_factory=dict)

    def close(self) -> None:
        """Nothing is held but memory."""
