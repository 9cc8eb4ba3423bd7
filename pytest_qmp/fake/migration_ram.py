"""How much there is to migrate: pages, bytes, and what ``query-migrate`` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .options import Options, parse_keys
from .versions import Dialect

__all__ = ["MachineSize"]

PAGE = 4096
#: The BIOS, its tables and the like, beside the guest's memory.
_FIRMWARE = 130 * PAGE
#: What a page costs beside its contents, and one of zeros at all; and what all cost once.
_PAGE_HEADER, _ZERO_PAGE, _ONCE = 8, 9, 92
_DEFAULT_MEMORY = 128 << 20
_UNITS = {"": 20, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}

#: Pages that hold something, and bytes of devices, of a machine whose guest has not run; by what
#: the name of the machine type begins with.
_FACTS = {
    "7.2": {"pc": (49, 111736), "q35": (51, 80000)},
    "10.0": {"pc": (51, 112011), "q35": (52, 76565)},
    "11.1": {"pc": (49, 109149), "q35": (50, 77161)},
}
#: A machine without anything.
_EMPTY = 1089


@dataclass(frozen=True, slots=True)
class MachineSize:
    """The size of a machine's state.

    Attributes:
        total: bytes of memory.
        normal: pages that are sent as they are.
        devices: bytes of all that is not memory.
    """

    total: int
    normal: int
    devices: int

    @classmethod
    def of(cls, options: Options, dialect: Dialect) -> MachineSize:
        """That of the machine of a command line."""
        if options.machine == "none":
            return cls(0, 0, _EMPTY)
        kind = "q35" if "q35" in options.machine else "pc"
        normal, devices = _FACTS[dialect.name][kind]
        return cls(_memory(options) + _FIRMWARE, normal, devices)

    @property
    def duplicate(self) -> int:
        """Pages that hold nothing but zeros."""
        return self.total // PAGE - self.normal

    @property
    def memory_bytes(self) -> int:
        """What the memory takes in a stream."""
        if not self.total:
            return 0
        return self.normal * (PAGE + _PAGE_HEADER) + self.duplicate * _ZERO_PAGE + _ONCE

    @property
    def stream_bytes(self) -> int:
        """What everything takes in a stream."""
        return self.memory_bytes + self.devices

    def statistics(self, dialect: Dialect, sent: int, syncs: int) -> dict[str, Any]:
        """The member ``ram`` of ``query-migrate``.

        Args:
            dialect: the version that is emulated.
            sent: how many bytes of the stream are out.
            syncs: how often what the guest had written was looked for.
        """
        done = sent >= self.stream_bytes
        share = 1.0 if done or not self.memory_bytes else min(1.0, sent / self.memory_bytes)
        normal, duplicate = int(self.normal * share), int(self.duplicate * share)
        old = dialect.version < (10, 0, 0)
        in_memory = min(sent, self.memory_bytes)
        statistics = {
            "total": self.total,
            "postcopy-requests": 0,
            "dirty-sync-count": syncs,
            "multifd-bytes": 0,
            "pages-per-second": 0,
            "downtime-bytes": in_memory if done else 0,
            "page-size": PAGE,
            "remaining": 0 if done else self.total - (normal + duplicate) * PAGE,
            "postcopy-bytes": 0,
            "mbps": 0,
            "transferred": in_memory if old else sent,
            "dirty-sync-missed-zero-copy": 0,
            "precopy-bytes": 0 if done else in_memory,
            "duplicate": duplicate,
            "dirty-pages-rate": 0,
            "normal-bytes": normal * PAGE,
            "normal": normal,
        }
        if old:
            statistics["skipped"] = 0
        return statistics


def _memory(options: Options) -> int:
    """The bytes of ``-m``."""
    size = _DEFAULT_MEMORY
    for option, value in options.pairs:
        if option == "m":
            text = parse_keys(value).get("size", value.split(",")[0]).strip().lower()
            digits = text.rstrip("bkmgt")
            if digits.isdecimal() and text[len(digits) :] in _UNITS:
                size = int(digits) << _UNITS[text[len(digits) :]]
    return size
