"""A machine's disks as layers: the user's image below, which nobody writes, and overlays above."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_qmp.errors import VMConfigError
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.drive import Drive, disk_bytes
from pytest_qmp.vm.restore_files import (
    copy_of,
    disk_size,
    new_overlay,
    opened_anew,
    path_of,
    unnamed_file,
)

__all__ = [
    "Layer",
    "LayeredDrive",
    "Layers",
    "check_disks",
    "check_overlays",
    "copied",
    "layered",
    "plain_drives",
    "with_overlay",
]

#: Drivers of what lies below all formats, and that keeps what is written to it.
_STORES = frozenset(
    {"file", "ftp", "gluster", "host_device", "iscsi", "nbd", "nfs", "nvme", "rbd", "ssh", "vvfat"}
)


@dataclass(frozen=True)
class Layer:
    """An image of which only the descriptor is known.

    Attributes:
        fd: of the file.
        format: ``qcow2`` or ``raw``.
        whole: True if it needs no image below it.
    """

    fd: int
    format: str = "qcow2"
    whole: bool = False

    def duplicate(self) -> Layer:
        """The same file by another descriptor."""
        return Layer(opened_anew(self.fd), self.format, self.whole)


#: What lies over the image of one drive, the lowest first.
Layers = tuple[Layer, ...]


@dataclass(frozen=True)
class LayeredDrive(Drive):
    """A drive whose image has overlays over it, of which only the last is written."""

    layers: Layers = field(default=())

    def __post_init__(self) -> None:
        """Its fields were looked at when the drive was made that it stands for."""

    @property
    def made_at_start(self) -> bool:
        """Nothing more has to be made."""
        return False

    def top_options(self) -> dict[str, object]:
        """What ``-drive`` is told of the images."""
        top = self.layers[-1]
        options: dict[str, object] = {"format": top.format, "file": path_of(top.fd)}
        if top.whole:
            return options
        prefix = ""
        for layer in reversed(self.layers[:-1]):
            prefix += "backing."
            options[f"{prefix}driver"] = layer.format
            options[f"{prefix}file.driver"] = "file"
            options[f"{prefix}file.filename"] = path_of(layer.fd)
            if layer.whole:
                return options
        prefix += "backing."
        options[f"{prefix}driver"] = self.image_format()
        options[f"{prefix}file.filename"] = os.path.abspath(self.path)
        return options


def plain_drives(config: VMConfig) -> list[Drive]:
    """The drives of a machine, as objects."""
    return [one if isinstance(one, Drive) else Drive(one) for one in config.drives]


def with_overlay(drive: Drive, layers: Layers = ()) -> Layers:
    """Those layers and an empty one on top; none for a drive that is not written.

    Raises:
        VMConfigError: the image's format is none that can have an overlay.
    """
    if drive.read_only:
        return ()
    size = _size_of(drive)
    below = [layer.duplicate() for layer in layers]
    # An empty disk lies over nothing.
    return (*below, Layer(new_overlay(size), whole=not (below or os.fspath(drive.path))))


def _size_of(drive: Drive) -> int:
    if drive.size is not None:
        return disk_bytes(drive.size)
    return disk_size(os.path.abspath(drive.path), drive.image_format())


def check_overlays(config: VMConfig) -> None:
    """Makes sure that each drive that is written can have an overlay.

    Raises:
        VMConfigError: the format of one is none that can.
    """
    __tracebackhide__ = True
    for drive in plain_drives(config):
        if not drive.read_only:
            _size_of(drive)


def layered(drives: Sequence[Drive], layers: Sequence[Layers]) -> list[Drive]:
    """The drives as the command line has them: each with its layers."""
    names = {one.name for one in fields(Drive)} - {"snapshot", "overlay"}
    return [
        LayeredDrive(**{name: getattr(drive, name) for name in names}, layers=over)
        if over
        else drive
        for drive, over in zip(drives, layers, strict=True)
    ]


def copied(drives: Iterable[Drive], layers: Sequence[Layers] | None) -> list[Layers]:
    """The disks of a machine that goes on, as they are now: what it writes to is copied.

    Args:
        drives: of the machine, which has written all that it had to write.
        layers: what lies over them; None if the machine writes to the images themselves.

    Raises:
        VMConfigError: one can't be copied.
    """
    found: list[Layers] = []
    for number, drive in enumerate(drives):
        if drive.read_only:
            found.append(())
        elif layers is not None:
            *below, top = layers[number]
            copy = Layer(copy_of(top.fd, unnamed_file()), top.format, top.whole)
            found.append((*(layer.duplicate() for layer in below), copy))
        else:
            found.append((_copy_of_image(drive),))
    return found


def check_disks(
    nodes: Iterable[Mapping[str, Any]],
    drives: Iterable[Drive],
    layers: Sequence[Layers] | None,
) -> None:
    """Makes sure that all that is written to is one of the drives.

    Args:
        nodes: what ``query-named-block-nodes`` tells.
        drives: of the machine.
        layers: what lies over them; None if the machine writes to the images themselves.

    Raises:
        VMConfigError: something else is, whose content would be lost.
    """
    __tracebackhide__ = True
    if layers is None:
        known = set()
        for drive in drives:
            path = os.path.abspath(drive.path)
            if drive.snapshot and not drive.read_only:
                raise VMConfigError(
                    f"the drive {path} has snapshot=True, and QEMU alone knows where it keeps what "
                    "the guest has written: use Drive(…, overlay=True)"
                )
            known.add(path)
    else:
        known = {path_of(layer.fd) for over in layers for layer in over}
    for node in nodes:
        if node["drv"] in _STORES and not node["ro"] and node["file"] not in known:
            raise VMConfigError(
                f"the disk {node['file']} is written to and not one of VMConfig.drives, so that "
                "its content can't be kept: make it one of them, or read-only"
            )


def _copy_of_image(drive: Drive) -> Layer:
    path = os.path.abspath(drive.path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise VMConfigError(f"can't read the drive {path}: {error.strerror}") from error
    try:
        return Layer(copy_of(fd, unnamed_file()), drive.image_format(), whole=True)
    except OSError as error:
        raise VMConfigError(f"can't copy the drive {path}: {error}") from error
    finally:
        os.close(fd)
