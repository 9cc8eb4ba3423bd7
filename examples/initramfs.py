"""Write an initramfs: what the Linux kernel unpacks into memory as its first root."""

from __future__ import annotations

import io
import lzma
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["CpioArchive", "add_modules"]


class CpioArchive:
    """A cpio archive in the ``newc`` format, as the kernel wants it.

    Written here because an unprivileged user can't make the device node that it must hold.
    """

    def __init__(self) -> None:
        self._data = io.BytesIO()
        self._inode = 0
        self._directories = {"."}

    def directory(self, name: str) -> None:
        if name not in self._directories:
            self.directory(str(PurePosixPath(name).parent))
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        self.directory(str(PurePosixPath(name).parent))
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, major=major, minor=minor)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return self._data.getvalue()

    def _entry(
        self, name: str, mode: int, data: bytes = b"", *, major: int = 0, minor: int = 0
    ) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), node (2), name size, checksum
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._write(data)

    def _write(self, data: bytes) -> None:
        """Append *data*, filled up to a multiple of four."""
        self._data.write(data + bytes(-len(data) % 4))


@dataclass(frozen=True)
class Module:
    data: bytes
    depends: list[str]
    aliases: list[str]  # patterns of the devices that the module drives


def add_modules(archive: CpioArchive, names: Iterable[str], root: Path) -> None:
    """Put in kernel modules, what they depend on, and the two indices that modprobe reads.

    Args:
        archive: to put them in.
        names: of the modules; those that the kernel has no file for are left out: it has them
            built in, or not at all.
        root: where the kernel's package was unpacked.
    """
    # Debian has merged /usr into /; where the modules lie depends on the package's age.
    (folder,) = [*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*")]
    paths = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    modules: dict[str, Module] = {}
    pending = [name for name in names if name in paths]
    while pending:
        name = pending.pop()
        if name not in modules:
            modules[name] = _read_module(paths[name])
            pending += modules[name].depends

    target = f"lib/modules/{folder.name}"
    dependencies = aliases = ""
    for name, module in sorted(modules.items()):
        archive.file(f"{target}/{name}.ko", module.data)
        needed = " ".join(f"{other}.ko" for other in _all_dependencies(name, modules))
        dependencies += f"{name}.ko: {needed}\n"
        aliases += "".join(f"alias {alias} {name}\n" for alias in module.aliases)
    archive.file(f"{target}/modules.dep", dependencies.encode())
    archive.file(f"{target}/modules.alias", aliases.encode())


def _read_module(path: Path) -> Module:
    """A module, and what it says about itself: NUL-separated ``key=value`` strings within it."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)

    def values(key: bytes) -> list[str]:
        return [value.decode() for value in re.findall(rb"\0" + key + rb"=([^\0]+)", data)]

    depends = [name.replace("-", "_") for value in values(b"depends") for name in value.split(",")]
    return Module(data, depends, values(b"alias"))


def _all_dependencies(name: str, modules: dict[str, Module]) -> list[str]:
    """Everything that *name* needs loaded, each after what needs it: modprobe goes backwards."""
    ordered: list[str] = []
    for direct in modules[name].depends:
        for needed in (direct, *_all_dependencies(direct, modules)):
            if needed in ordered:
                ordered.remove(needed)
            ordered.append(needed)
    return ordered
