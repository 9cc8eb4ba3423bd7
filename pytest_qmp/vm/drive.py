"""A disk of a machine: an image, an overlay over one, or an empty disk of its own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_qmp.errors import VMConfigError

__all__ = ["Drive", "PathLike", "disk_bytes", "format_of_image"]

PathLike = str | os.PathLike[str]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgtpe]?)(?:i?b)?", re.IGNORECASE)
_UNITS = "bkmgtpe"
_SECTOR = 512


@dataclass(frozen=True)
class Drive:
    """A disk with a file behind it.

    Attributes:
        path: of the image.
        format: ``raw``, ``qcow2`` and so on; None looks at the file: qcow2 or raw.
        interface: QEMU's ``if=``: ``virtio``, ``ide``, ``scsi``, ``floppy``, ``pflash``, ``none``.
        read_only: True refuses the guest's writes.
        snapshot: True keeps the guest's writes in a temporary file of QEMU's, so that the image is
            never changed.
        id: the drive's id, for a device that names it.
        overlay: True keeps the guest's writes in a qcow2 image of the machine's own, which is
            made anew at each start and laid over this one, so that this one is never changed. It
            has a name, unlike what ``snapshot`` makes: block jobs and snapshots work with it.
        size: of the disk that the guest sees, such as ``"10G"``, or in bytes: of an overlay, which
            may be larger than its image, or of an empty disk (see ``empty``).

    Raises:
        VMConfigError: the fields contradict each other.
    """

    path: PathLike = ""
    format: str | None = None
    interface: str = "virtio"
    read_only: bool = False
    snapshot: bool = False
    id: str | None = None
    overlay: bool = False
    size: int | str | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            disk_bytes(self.size)
        if not os.fspath(self.path):
            if self.size is None:
                raise VMConfigError(
                    "a Drive has the path of an image, or a size: Drive('disk.qcow2'), "
                    "Drive.empty('1G')"
                )
            if self.overlay:
                raise VMConfigError("an overlay lies over an image: Drive(PATH, overlay=True)")
        elif self.size is not None and not self.overlay:
            raise VMConfigError(
                f"the drive {os.fspath(self.path)!r} has the size of its image: with overlay=True "
                "the guest sees it as large as you say, and the image stays as it is"
            )
        if self.overlay and (self.snapshot or self.read_only):
            other = "snapshot" if self.snapshot else "read_only"
            raise VMConfigError(
                f"the drive {os.fspath(self.path)!r} has overlay=True and {other}=True: either "
                "keeps the image as it is, so choose one"
            )

    @classmethod
    def empty(cls, size: int | str, **fields: Any) -> Drive:
        """An empty disk, made anew at each start, and removed with the machine.

        Args:
            size: such as ``"1G"``, or in bytes.
            fields: those of the class; ``format`` is qcow2 unless it says ``raw``.

        Raises:
            VMConfigError: it is no size.

        >>> Drive.empty("1G", interface="none", id="data").size
        '1G'
        """
        return cls(size=size, **fields)

    @property
    def made_at_start(self) -> bool:
        """True if the file that QEMU opens is made when the machine starts."""
        return self.overlay or not os.fspath(self.path)

    def image_format(self) -> str:
        """The format, looked up in the file if it was not given.

        Raises:
            VMConfigError: if the file can't be read.
        """
        if self.format is not None:
            return self.format
        return format_of_image(self.path) if os.fspath(self.path) else "qcow2"


def format_of_image(path: PathLike) -> str:
    """``qcow2`` if the file begins as one does, else ``raw``.

    Raises:
        VMConfigError: it can't be read.
    """
    try:
        with Path(path).open("rb") as image:
            return "qcow2" if image.read(4) == b"QFI\xfb" else "raw"
    except OSError as error:
        raise VMConfigError(f"can't read the drive {os.fspath(path)}: {error.strerror}") from error


def disk_bytes(size: int | str) -> int:
    """Bytes of a disk's size, up to a whole sector; a bare number counts bytes, as for qemu-img.

    Raises:
        VMConfigError: if it is no size.

    >>> disk_bytes("1G") == disk_bytes(1 << 30) == 1 << 30
    True
    """
    match = _SIZE.fullmatch(str(size).strip()) if isinstance(size, (int, str)) else None
    count = 0
    if match is not None and not isinstance(size, bool):
        count = int(float(match[1]) * 1024 ** _UNITS.index((match[2] or "b").lower()))
    if count < 1:
        raise VMConfigError(
            f"a disk's size is written like '512M' or '10G', or is a number of bytes: not {size!r}"
        )
    return -(-count // _SECTOR) * _SECTOR
