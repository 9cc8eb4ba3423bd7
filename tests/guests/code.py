"""Machine code with labels: listings of bytes whose jumps find their targets by name."""

from __future__ import annotations

from collections.abc import Callable

# Given the address of the referring bytes and that of the label: the finished bytes.
Encoder = Callable[[int, int], bytes]


class Code:
    """Bytes laid out from *origin*, with references to labels filled in by :meth:`link`."""

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._references: list[tuple[int, int, str, Encoder]] = []

    @property
    def here(self) -> int:
        return self.origin + len(self._bytes)

    def label(self, name: str) -> None:
        if name in self._labels:
            raise ValueError(f"label {name!r} is defined twice")
        self._labels[name] = self.here

    def data(self, data: bytes) -> None:
        self._bytes += data

    def reference(self, label: str, size: int, encode: Encoder) -> None:
        """Leave room for *size* bytes that depend on where *label* ends up."""
        self._references.append((len(self._bytes), size, label, encode))
        self._bytes += bytes(size)

    def pad(self, address: int, fill: bytes = b"\0") -> None:
        if address < self.here:
            raise ValueError(f"the code reaches {self.here:#x}, past {address:#x}")
        self._bytes += fill * (address - self.here)

    def link(self) -> bytes:
        linked = bytearray(self._bytes)
        for offset, size, label, encode in self._references:
            if label not in self._labels:
                raise ValueError(f"label {label!r} is used but not defined")
            encoded = encode(self.origin + offset, self._labels[label])
            if len(encoded) != size:
                raise ValueError(f"reference to {label!r}: {len(encoded)} bytes, room for {size}")
            linked[offset : offset + size] = encoded
        return bytes(linked)
