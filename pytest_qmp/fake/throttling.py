"""The limits of throttle groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .replies import CommandFailed

__all__ = ["throttle_limits"]

_KINDS = tuple(f"{what}-{way}" for what in ("iops", "bps") for way in ("total", "read", "write"))
_LARGEST = 10**15


def throttle_limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """All limits of a throttle group, those that were not given at their defaults.

    Raises:
        CommandFailed: they can't be.
    """
    limits: dict[str, Any] = {"iops-size": 0}
    for kind in _KINDS:
        limits |= {kind: 0, f"{kind}-max": 0, f"{kind}-max-length": 1}
    limits |= given
    for what in ("bps", "iops"):
        for end in ("", "-max"):
            parts = (limits[f"{what}-read{end}"], limits[f"{what}-write{end}"])
            if limits[f"{what}-total{end}"] and any(parts):
                raise CommandFailed(
                    "bps/iops/max total values and read/write values cannot be used at the "
                    "same time"
                )
    for kind in _KINDS:
        average, most, length = (limits[kind + end] for end in ("", "-max", "-max-length"))
        if not (0 <= average <= _LARGEST and 0 <= most <= _LARGEST):
            raise CommandFailed(f"bps/iops/max values must be within [0, {_LARGEST}]")
        if not length:
            raise CommandFailed("the burst length cannot be 0")
        if length > 1 and not most:
            raise CommandFailed("burst length set without burst rate")
        if most and not average:
            raise CommandFailed("bps_max/iops_max require corresponding bps/iops values")
        if most and most < average:
            raise CommandFailed("bps_max/iops_max cannot be lower than bps/iops")
    return limits
