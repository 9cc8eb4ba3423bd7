"""Tiny guests that the tests assemble themselves: bytes, from Python, with no tools.

Each prints its banner on the first serial port, then does what its name says. They run in
tens of milliseconds: :func:`overrides` writes one and says how a machine is configured for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pytest_qmp import Drive

from . import aarch64, riscv64, x86

__all__ = ["ARCHITECTURES", "BEHAVIOURS", "Form", "overrides"]

ARCHITECTURES = ("x86_64", "aarch64", "riscv64")
BEHAVIOURS = tuple(x86.BODIES)  # the others have all of these but "panic"

# How an x86 guest is started: as the machine's firmware, or by SeaBIOS from a drive.
Form = Literal["firmware", "boot-sector"]

# SeaBIOS reads disks by cylinder; it finds nothing on one that is smaller than a cylinder.
_DISK_SIZE = 1 << 20


def overrides(
    behaviour: str,
    directory: Path,
    *,
    arch: str = "x86_64",
    form: Form = "firmware",
    banner: str = "ready",
) -> dict[str, Any]:
    """Write a guest into *directory* and return the ``VMConfig`` fields that run it.

    *form* is for x86 alone, where both run on ``pc`` and ``q35``; firmware is the quicker.
    """
    path = directory / f"{arch}-{behaviour}.img"
    if arch == "aarch64":
        path.write_bytes(aarch64.kernel(aarch64.BODIES[behaviour], banner))
        return {"arch": arch, "kernel": path}
    if arch == "riscv64":
        path.write_bytes(riscv64.kernel(riscv64.BODIES[behaviour], banner))
        return {"arch": arch, "kernel": path, "firmware": "none"}

    body = x86.BODIES[behaviour]
    fields: dict[str, Any] = {"arch": arch}
    if behaviour == "panic":
        fields["devices"] = ("pvpanic",)
    if form == "firmware":
        path.write_bytes(x86.firmware(body, banner))
        fields["firmware"] = path
    else:
        with path.open("wb") as disk:
            disk.write(x86.boot_sector(body, banner))
            disk.truncate(_DISK_SIZE)  # a hole: it takes no space
        fields["drives"] = (Drive(path, format="raw", snapshot=True),)
    return fields
