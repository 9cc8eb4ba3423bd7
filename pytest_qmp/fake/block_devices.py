"""Which devices of the guest have a block backend, and how they use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .block import BlockLayer
from .replies import CommandFailed

__all__ = ["attach_device", "property_owner"]


@dataclass(frozen=True)
class _Use:
    """How a type of device uses its drive.

    Attributes:
        part: the part of the device that has it, as a path below the device.
        owner: the type that the property belongs to, in errors.
        removable: its medium can be changed.
        tray: it has a tray.
        reads_only: it never writes.
        allows_read_only: it takes a node that can't be written.
        grows: it doesn't mind if its node is resized.
    """

    part: str = ""
    owner: str = ""
    removable: bool = False
    tray: bool = False
    reads_only: bool = False
    allows_read_only: bool = True
    grows: bool = True


_VIRTIO = _Use("/virtio-backend", "virtio-blk-device")
_CD = _Use(removable=True, tray=True, reads_only=True, grows=False)
_USES = {
    "virtio-blk-pci": _VIRTIO,
    "virtio-blk-pci-non-transitional": _VIRTIO,
    "virtio-blk-pci-transitional": _VIRTIO,
    "virtio-blk-device": _Use(),
    "scsi-hd": _Use(),
    "scsi-block": _Use(),
    "scsi-cd": _CD,
    "ide-hd": _Use(allows_read_only=False),
    "ide-cd": _CD,
    "nvme": _Use(),
    "floppy": _Use(removable=True, grows=False),
    "usb-storage": _Use(),
}


def property_owner(driver: str) -> str | None:
    """The type that a device's property ``drive`` belongs to; None for a type of no disks."""
    use = _USES.get(driver)
    return None if use is None else use.owner or driver


def attach_device(
    block: BlockLayer, driver: str, path: str, device_id: str | None, values: Mapping[str, Any]
) -> None:
    """A device of any type is there: if it has a block backend, that is made.

    Args:
        block: the machine's block layer.
        driver: the type of the device.
        path: its path in QOM.
        device_id: its id, if it has one.
        values: its properties as they were given.

    Raises:
        CommandFailed: it can't have the drive that it was given, or has none and needs one.
    """
    use = _USES.get(driver)
    if use is None:
        return
    drive = values.get("drive") or None
    if drive is None and not use.removable:
        raise CommandFailed("drive property not set")
    block.attach(
        drive,
        None if use.part else device_id,
        path + use.part,
        property_name=f"{use.owner or driver}.drive",
        owner_path=path if use.part else None,
        removable=use.removable,
        tray=use.tray,
        reads_only=use.reads_only,
        allows_read_only=use.allows_read_only,
        shares_write=values.get("share-rw") in (True, "on", "true", "yes", "y"),
        grows=use.grows,
        rerror=str(values.get("rerror", "auto")),
        werror=str(values.get("werror", "auto")),
    )
