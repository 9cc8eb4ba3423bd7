"""The QEMU versions that the fake knows, and in what their dialects differ."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qmp.errors import FakeQMPServerError

if TYPE_CHECKING:
    from pytest_qmp.qmp.schema import Schema

__all__ = ["DIALECTS", "Dialect", "find_dialect", "load_schema"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One emulated version of QEMU.

    Attributes:
        name: as given to ``emulate``, for example ``"7.2"``.
        version: major, minor, micro.
        package: the package string of the build that was recorded.
        incremental_parser: errors are found as the bytes come and have ``line:column``; older
            ones parse a whole bracketed expression at once.
        has_singlestep: query-status says ``singlestep``.
        stops_while_suspended: ``stop`` acts on a suspended guest, and ``cont`` goes back to it.
        first_descriptor: the lowest one that QEMU has not open, with one monitor connected.
        removes_descriptors_late: ``remove-fd`` closes nothing before the guest runs.
    """

    name: str
    version: tuple[int, int, int]
    package: str
    incremental_parser: bool
    has_singlestep: bool
    stops_while_suspended: bool
    first_descriptor: int
    removes_descriptors_late: bool


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("7.2", (7, 2, 22), "Debian 1:7.2+dfsg-7+deb12u18+b3", False, True, False, 11, True),
        Dialect(
            "10.0", (10, 0, 13), "Debian 1:10.0.13+ds-0+deb13u1", False, False, True, 11, False
        ),
        Dialect("11.1", (11, 1, 3), "Debian 1:11.1.3+ds-1~bpo13+1", True, False, True, 14, False),
    )
}


def find_dialect(name: str) -> Dialect:
    """The dialect of that version; FakeQMPServerError, naming the choices, if there is none."""
    dialect = DIALECTS.get(name)
    if dialect is None:
        choices = ", ".join(repr(known) for known in DIALECTS)
        raise FakeQMPServerError(f"cannot emulate QEMU {name!r}: choose one of {choices}")
    return dialect


@functools.cache
def load_schema(name: str) -> Schema:
    """The schema of an emulated version, read once in the life of the process."""
    import gzip
    import json

    from pytest_qmp.qmp.schema import Schema

    path = Path(__file__).with_name("schemas") / f"{name}.json.gz"
    return Schema(json.loads(gzip.decompress(path.read_bytes())))
