"""The examples' Linux guest with more of Debian's packages in it.

The kernel unpacks one archive after the other, so the packages are an archive of their own behind
the plain initramfs. No package is installed or configured: their files are there, that is all.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import linux_guest
from debian_packages import DebianError, DebianPackages
from initramfs import CpioArchive
from linux_guest import GuestBuildError, LinuxGuest

__all__ = ["GuestBuildError", "linux_with"]

#: What programs need; documentation stays out, and so do tables of character sets.
FOLDERS = ("bin", "sbin", "lib", "lib64", "etc")
LEFT_OUT = "gconv"


def linux_with(*packages: str, arch: str = "x86_64") -> LinuxGuest:
    """The plain guest and those packages, with the libraries that they depend on.

    Raises:
        GuestBuildError: says what is lacking here.
    """
    plain = linux_guest.build(arch=arch)
    key = hashlib.sha256(Path(__file__).read_bytes() + plain.initrd.read_bytes())
    key.update(" ".join(packages).encode())
    whole = plain.initrd.with_name(f"initrd-{'-'.join(packages)}-{key.hexdigest()[:16]}.gz")
    try:
        if not whole.exists():
            with tempfile.TemporaryDirectory(dir=whole.parent) as scratch:
                half = Path(scratch) / whole.name
                archive = _archive(packages, linux_guest.debian_packages(Path(scratch), arch))
                half.write_bytes(plain.initrd.read_bytes() + gzip.compress(archive, 1, mtime=0))
                half.replace(whole)  # nobody sees half of it, and building it twice harms nobody
    except (OSError, DebianError) as error:
        raise GuestBuildError(f"building a Linux guest in {whole.parent}: {error}") from error
    return replace(plain, initrd=whole)


def _archive(packages: tuple[str, ...], debian: DebianPackages) -> bytes:
    unpacked = debian.unpack(*_with_libraries(packages, debian))
    cpio = CpioArchive()
    for path in sorted(unpacked.rglob("*")):
        # Debian has merged /usr into /; where a library lies in the package depends on its age.
        name = path.relative_to(unpacked).as_posix().removeprefix("usr/")
        target = _target(path, unpacked)
        if name.split("/")[0] in FOLDERS and LEFT_OUT not in name and target.is_file():
            executable = bool(target.stat().st_mode & 0o111)
            cpio.file(name, target.read_bytes(), executable=executable)
    return cpio.finish()


def _with_libraries(packages: tuple[str, ...], debian: DebianPackages) -> list[str]:
    found: set[str] = set()
    pending = set(packages)
    while pending:
        found |= pending
        needed = debian.dependencies(*sorted(pending))
        pending = {name for name in needed if name.startswith("lib")} - found
    return sorted(found)


def _target(path: Path, root: Path) -> Path:
    """The file behind a link of the guest, whose absolute links begin at its own root."""
    for _ in range(10):
        if not path.is_symlink():
            break
        link = os.readlink(path)
        path = root / link.lstrip("/") if link.startswith("/") else path.parent / link
    return path
