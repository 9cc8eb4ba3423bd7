"""Folders of the host that a guest can mount, by 9p or by virtiofs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pytest_qmp.errors import VMConfigError
from pytest_qmp.vm.drive import PathLike

__all__ = ["Share", "ShareKind", "checked_shares"]

ShareKind = Literal["9p", "virtiofs"]
SecurityModel = Literal["none", "mapped-xattr", "mapped-file", "passthrough"]

# Bytes of a tag, by what QEMU takes.
_LONGEST_TAG = {"9p": 31, "virtiofs": 36}


@dataclass(frozen=True)
class Share:
    """A folder of the host that the guest can mount.

    In a Linux guest: ``mount -t 9p -o trans=virtio host /mnt``, or
    ``mount -t virtiofs host /mnt``.

    Attributes:
        path: of the folder.
        tag: by which the guest names it.
        read_only: True refuses the guest's writes.
        kind: ``9p``, which is in QEMU itself; or ``virtiofs``, which is quicker, and needs the
            program virtiofsd.
        security_model: of 9p: ``none`` gives files the modes and, as far as QEMU may, the owners
            that the guest asks for; ``mapped-xattr`` and ``mapped-file`` keep those to themselves;
            ``passthrough`` fails where QEMU may not.

    Raises:
        VMConfigError: one of them can't be.
    """

    path: PathLike
    tag: str = "host"
    read_only: bool = False
    kind: ShareKind = "9p"
    security_model: SecurityModel = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not os.fspath(self.path):
            raise VMConfigError(f"a Share has the path of a folder, not {self.path!r}")
        if self.kind not in get_args(ShareKind):
            raise VMConfigError(f"a Share's kind is '9p' or 'virtiofs', not {self.kind!r}")
        longest = _LONGEST_TAG[self.kind]
        if not isinstance(self.tag, str) or not 0 < len(self.tag.encode()) <= longest:
            raise VMConfigError(
                f"a Share's tag is a name of 1 to {longest} bytes, such as 'host', not {self.tag!r}"
            )
        if self.security_model not in get_args(SecurityModel):
            known = ", ".join(get_args(SecurityModel))
            raise VMConfigError(
                f"a Share's security_model is one of {known}, not {self.security_model!r}"
            )


def checked_shares(shares: Sequence[Share | PathLike]) -> tuple[Share, ...]:
    """The shares of a VMConfig, as objects.

    Raises:
        VMConfigError: one is none, or two have one tag.
    """
    found = []
    for one in shares:
        if isinstance(one, Mapping) or not isinstance(one, (Share, str, os.PathLike)):
            raise VMConfigError(
                f"VMConfig.shares holds Share objects, or paths of folders: not {one!r}"
            )
        found.append(one if isinstance(one, Share) else Share(one))
    tags = [one.tag for one in found]
    for one in found:
        if tags.count(one.tag) > 1:
            raise VMConfigError(
                f"VMConfig.shares has the tag {one.tag!r} more than once, and a guest names a "
                "share by it: Share(path, tag='other')"
            )
    return tuple(found)
