"""What a fake sends of itself to the fake that it migrates to; no QEMU could read it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

__all__ = ["MAGIC", "Incomplete", "Stream", "read_stream", "write_stream"]

#: How any migration stream begins.
MAGIC = b"QEVM"
_START = MAGIC + b"\0\0\0\3" + b"pytest-qmp"
_LENGTHS = struct.Struct(">IQ")


class Incomplete(Exception):  # noqa: N818 - a state of affairs, and no error
    """There is more to come."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What the destination learns.

    Attributes:
        status: the run state that the source was in.
        suspended: the guest slept there.
    """

    status: str
    suspended: bool


def write_stream(stream: Stream, size: int) -> bytes:
    """The bytes of a stream, at least so many: QEMU's would have as many."""
    told = json.dumps({"status": stream.status, "suspended": stream.suspended}).encode()
    head = len(_START) + _LENGTHS.size + len(told)
    padding = max(0, size - head)
    return _START + _LENGTHS.pack(len(told), padding) + told + bytes(padding)


def read_stream(data: bytes | bytearray) -> Stream:
    """What the bytes say.

    Raises:
        Incomplete: they are not all there.
        ValueError: no fake has written them.
    """
    if not data.startswith(_START):
        if _START.startswith(bytes(data)):
            raise Incomplete
        raise ValueError("no fake has written this stream")
    told_at = len(_START) + _LENGTHS.size
    if len(data) < told_at:
        raise Incomplete
    told_length, padding = _LENGTHS.unpack_from(data, len(_START))
    if len(data) < told_at + told_length + padding:
        raise Incomplete
    told = json.loads(data[told_at : told_at + told_length])
    return Stream(told["status"], told["suspended"])
