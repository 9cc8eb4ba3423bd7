"""Image files of the host: what a qcow2 header says, and writing an empty image."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from typing import Any

from .replies import CommandFailed

__all__ = [
    "Qcow2Header",
    "change_backing",
    "create_file",
    "create_qcow2",
    "file_size",
    "full_backing_name",
    "open_error",
    "read_qcow2",
]

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_BACKING_FORMAT = 0xE2792ACA
_SNAPSHOT = struct.Struct(">QIHHIIQII")
SECTOR = 512


@dataclass
class Qcow2Header:
    """What the header of a qcow2 image says."""

    version: int
    size: int
    cluster_size: int
    backing: str = ""
    backing_format: str = ""
    lazy_refcounts: bool = False
    dirty: bool = False
    corrupt: bool = False
    extended_l2: bool = False
    refcount_bits: int = 16
    compression: str = "zlib"
    snapshots: list[dict[str, Any]] = field(default_factory=list)

    @property
    def specific(self) -> dict[str, Any]:
        """What an image's information has of the format."""
        if self.version < 3:
            return {"compat": "0.10", "compression-type": "zlib", "refcount-bits": 16}
        return {
            "compat": "1.1",
            "compression-type": self.compression,
            "lazy-refcounts": self.lazy_refcounts,
            "refcount-bits": self.refcount_bits,
            "corrupt": self.corrupt,
            "extended-l2": self.extended_l2,
        }


def open_error(filename: str, error: OSError, *, creating: bool = False) -> CommandFailed:
    """The error for a file that can't be opened."""
    verb = "create" if creating else "open"
    return CommandFailed(f"Could not {verb} '{filename}': {os.strerror(error.errno or 0)}")


def file_size(
    filename: str, driver: str, *, read_only: bool, descriptor: int | None = None
) -> tuple[int, tuple[int, int]]:
    """Opens a file as a block driver does; its size in bytes and what tells it from others.

    With a ``descriptor`` the file is already open there.

    Raises:
        CommandFailed: it is not there, or not to be opened, or of the wrong kind.
    """
    try:
        if descriptor is not None:
            found = os.dup(descriptor)
        else:
            found = os.open(filename, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NONBLOCK)
    except OSError as error:
        raise open_error(filename, error) from None
    try:
        about = os.fstat(found)
        regular = stat.S_ISREG(about.st_mode)
        if driver == "file" and not regular:
            raise CommandFailed(f"'file' driver requires '{filename}' to be a regular file")
        if driver != "file" and regular:
            raise CommandFailed(
                f"'{driver}' driver requires '{filename}' to be either a character or block device"
            )
        size = about.st_size if regular else os.lseek(found, 0, os.SEEK_END)
        return -(-size // SECTOR) * SECTOR, (about.st_dev, about.st_ino)
    finally:
        os.close(found)


def read_qcow2(data_path: str | None) -> Qcow2Header | None:
    """The header of a qcow2 image, None if the file has none."""
    if data_path is None:
        return None
    with open(data_path, "rb") as image:
        start = image.read(4096)
        if not start.startswith(_MAGIC) or len(start) < 72:
            return None
        values = _HEADER.unpack(start[: _HEADER.size].ljust(_HEADER.size, b"\0"))
        _, version, backing_at, backing_length, cluster_bits, size = values[:6]
        header = Qcow2Header(version, size, 1 << cluster_bits)
        if backing_at:
            image.seek(backing_at)
            header.backing = os.fsdecode(image.read(backing_length))
        extensions_at = 72
        if version >= 3:
            incompatible, compatible = values[13], values[14]
            header.dirty = bool(incompatible & 1)
            header.corrupt = bool(incompatible & 2)
            header.extended_l2 = bool(incompatible & 16)
            header.lazy_refcounts = bool(compatible & 1)
            header.refcount_bits = 1 << values[16]
            extensions_at = values[17]
            if incompatible & 8 and extensions_at > 104 and start[104]:
                header.compression = "zstd"
        header.backing_format = _backing_format(start, extensions_at)
        image.seek(values[12])
        header.snapshots = _snapshots(image.read(1 << 16), values[11])
        return header


def full_backing_name(header: Qcow2Header, path: str) -> str:
    """The backing file of an image, as seen from where QEMU is."""
    return os.path.join(os.path.dirname(path), header.backing)


def _backing_format(start: bytes, at: int) -> str:
    while at + 8 <= len(start):
        kind, length = struct.unpack_from(">II", start, at)
        if kind == 0:
            break
        if kind == _BACKING_FORMAT:
            return start[at + 8 : at + 8 + length].decode()
        at += 8 + (length + 7) // 8 * 8
    return ""


def _snapshots(table: bytes, count: int) -> list[dict[str, Any]]:
    found = []
    at = 0
    for _ in range(count):
        values = _SNAPSHOT.unpack_from(table, at)
        _, _, id_length, name_length, seconds, nanoseconds, clock, state, extra = values
        at += _SNAPSHOT.size + extra
        ident = table[at : at + id_length].decode()
        name = table[at + id_length : at + id_length + name_length].decode()
        at = (at + id_length + name_length + 7) // 8 * 8
        found.append(snapshot_info(ident, name, state, seconds, nanoseconds, clock))
    return found


def snapshot_info(
    ident: str, name: str, state_size: int, seconds: int, nanoseconds: int, clock: int
) -> dict[str, Any]:
    """What queries say about an internal snapshot; ``clock`` is in nanoseconds."""
    return {
        "id": ident,
        "name": name,
        "vm-state-size": state_size,
        "date-sec": seconds,
        "date-nsec": nanoseconds,
        "vm-clock-sec": clock // 10**9,
        "vm-clock-nsec": clock % 10**9,
        "icount": -1,
    }


def create_file(filename: str, size: int) -> None:
    """Makes an empty file of a size; CommandFailed if that can't be."""
    try:
        with open(filename, "wb") as image:
            image.truncate(size)
    except OSError as error:
        raise open_error(filename, error, creating=True) from None


def create_qcow2(
    filename: str, size: int, *, backing: str = "", backing_format: str = "", version: int = 3
) -> None:
    """Writes an empty qcow2 image of a virtual size; CommandFailed if that can't be."""
    cluster = 1 << 16
    tables = -(-size // (cluster * (cluster // 8)))
    extensions = _extensions(backing_format)
    length = 112 if version >= 3 else 72
    name = os.fsencode(backing)
    header = _HEADER.pack(
        *(_MAGIC, version, length + len(extensions) if name else 0, len(name), 16, size, 0),
        *(tables, 3 * cluster, cluster, 1, 0, 0, 0, 0, 0, 4, 112),
    )[: min(length, _HEADER.size)].ljust(length, b"\0")
    # The clusters: header, refcount table, its one block, L1 table.
    refcounts = struct.pack(">4H", 1, 1, 1, 1)
    try:
        with open(filename, "wb") as image:
            # As QEMU does, without holes.
            for part in (header + extensions + name, struct.pack(">Q", 2 * cluster), refcounts):
                image.write(part.ljust(cluster, b"\0"))
            image.write(bytes(8 * max(1, tables)))
    except OSError as error:
        raise open_error(filename, error, creating=True) from None


def change_backing(filename: str, header: Qcow2Header) -> None:
    """Writes what a header says of the backing file into the image; other extensions go.

    Raises:
        OSError: the image can't be written.
    """
    with open(filename, "r+b") as image:
        start = image.read(header.cluster_size)
        length = struct.unpack_from(">I", start, 100)[0] if header.version >= 3 else 72
        extensions = _extensions(header.backing_format)
        name = os.fsencode(header.backing)
        at = length + len(extensions) if name else 0
        fields = start[:8] + struct.pack(">QI", at, len(name)) + start[20:length]
        image.seek(0)
        image.write((fields + extensions + name).ljust(min(header.cluster_size, 4096), b"\0"))


def _extensions(backing_format: str) -> bytes:
    """The header's extensions: the format of the backing file, and the end of them."""
    if not backing_format:
        return bytes(8)
    kind = backing_format.encode()
    padded = kind.ljust((len(kind) + 7) // 8 * 8, b"\0")
    return struct.pack(">II", _BACKING_FORMAT, len(kind)) + padded + bytes(8)
