"""The limits of throttle groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .replies import CommandFailed

__all__ = ["changed_limits", "throttle_limits"]

_KINDS = tuple(f"{what}-{way}" for what in ("iops", "bps") for way in ("total", "read", "write"))
_LARGEST = 10**15


def changed_limits(now: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The limits once some were set by ``qom-set``; those that were not given stay.

    Raises:
        CommandFailed: they can't be.
    """
    for name in now:
        if name in given and type(given[name]) is not int:
            raise CommandFailed(f"Invalid parameter type for 'limits.{name}', expected: integer")
    for name in given:
        if name not in now:
            raise CommandFailed(f"Parameter 'limits.{name}' is unexpected")
    return throttle_limits({**now, **given})


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
