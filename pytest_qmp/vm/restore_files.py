"""Files without a name for what a machine is made of: its memory, its state, its disks.

Nobody else sees them, and the kernel removes them with the last process that has them open,
however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import tempfile
from contextlib import suppress

from pytest_qmp.errors import VMConfigError

__all__ = [
    "copy_of",
    "image_size",
    "memory_file",
    "new_overlay",
    "opened_anew",
    "path_of",
    "seal",
    "sealed",
    "supported",
    "unnamed_file",
]

_SECTOR = 512
# Of the system call FICLONE, which Python does not name.
_FICLONE = 0x40049409
_PIECE = 64 * 1024 * 1024
# F_SEAL_SEAL, SHRINK, GROW and WRITE: neither guest nor QEMU can change it any more.
_SEALS = 0x1 | 0x2 | 0x4 | 0x8
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034

_QCOW2_MAGIC = b"QFI\xfb"
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_HEADER_LENGTH = 104
# What one cluster of each table can tell of.
_L2_COVERS = _CLUSTER // 8 * _CLUSTER
_REFCOUNTS = _CLUSTER // 2


def supported() -> bool:
    """Whether this system has such files."""
    return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


def memory_file(name: str, size: int = 0) -> int:
    """A file in memory, of so many bytes, which are 0; it can be sealed."""
    fd = os.memfd_create(f"pytest-qmp-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


def unnamed_file() -> int:
    """A file on disk, in the folder of temporary files."""
    folder = tempfile.gettempdir()
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        # The file system has none: for a moment it has a name.
        fd, path = tempfile.mkstemp(prefix="pytest-qmp-", dir=folder)
        os.unlink(path)
        return fd


def path_of(fd: int) -> str:
    """How a process that inherits the descriptor opens the same file anew."""
    return f"/proc/self/fd/{fd}"


def opened_anew(fd: int, flags: int = os.O_RDONLY) -> int:
    """Another descriptor of the same file, with a position of its own."""
    return os.open(path_of(fd), flags | os.O_CLOEXEC)


def seal(fd: int) -> None:
    """Makes a file in memory one that nobody can change, for ever.

    Raises:
        OSError: somebody still has it mapped for writing.
    """
    fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)


def sealed(fd: int) -> bool:
    """Whether nobody can change it."""
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False  # Not a file in memory.


def copy_of(source: int, target: int) -> int:
    """Copies a whole file, by reference where the file system can, and leaves its holes.

    Args:
        source: it is not moved.
        target: an empty file.

    Returns:
        ``target``.

    Raises:
        OSError: one can't be read, or the other is full.
    """
    size = image_size(source)
    with suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return target
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
            position = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # A hole up to the end.
            if error.errno != errno.EINVAL:
                raise
            start, position = position, size  # It does not tell its holes.
        _copy_range(source, target, start, position)
    return target


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        copied = os.sendfile(target, source, start, min(_PIECE, end - start))
        if not copied:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        start += copied


def image_size(fd: int) -> int:
    """Bytes in a file or block device."""
    with open(path_of(fd), "rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)


def disk_size(path: str, image_format: str) -> int:
    """Bytes of the disk that an image holds.

    Raises:
        VMConfigError: it can't be read, or the format is neither raw nor qcow2.
    """
    try:
        with open(path, "rb") as image:
            if image_format == "raw":
                size = image.seek(0, os.SEEK_END)
                return -(-size // _SECTOR) * _SECTOR
            header = image.read(32)
    except OSError as error:
        raise VMConfigError(f"can't read the drive {path}: {error.strerror}") from error
    if image_format != "qcow2" or header[:4] != _QCOW2_MAGIC or len(header) < 32:
        raise VMConfigError(
            f"the drive {path} is {image_format}, and an overlay is only made over raw and qcow2: "
            "convert it with qemu-img"
        )
    return int(struct.unpack_from(">Q", header, 24)[0])


def new_overlay(size: int) -> int:
    """An empty qcow2 image in an unnamed file; what it is laid over is said on the command line.

    Args:
        size: bytes of the disk.
    """
    l1_entries = max(1, -(-size // _L2_COVERS))
    l1_clusters = -(-l1_entries * 8 // _CLUSTER)
    clusters = 3 + l1_clusters
    if clusters > _REFCOUNTS:
        raise VMConfigError(f"a disk of {size} bytes is too large for an overlay")
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(_QCOW2_MAGIC, 3),
        *(0, 0),  # the image below
        _CLUSTER_BITS,
        size,
        0,  # no encryption
        *(l1_entries, 3 * _CLUSTER),
        *(_CLUSTER, 1),  # the table of reference counts
        *(0, 0),  # no snapshots
        *(0, 0, 0),  # no features
        4,  # reference counts of 16 bits
        _HEADER_LENGTH,
    )
    fd = unnamed_file()
    os.ftruncate(fd, clusters * _CLUSTER)
    os.pwrite(fd, header, 0)
    os.pwrite(fd, struct.pack(">Q", 2 * _CLUSTER), _CLUSTER)
    os.pwrite(fd, struct.pack(">H", 1) * clusters, 2 * _CLUSTER)
    return fd
