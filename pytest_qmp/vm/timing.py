"""What makes a run repeatable: the guest's clock, counted instructions, seeded random numbers."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import VMConfigError

if TYPE_CHECKING:
    from pytest_qmp.vm.config import VMConfig

__all__ = ["checked_timing", "timing_argv", "wanted_accelerator"]

_CLOCKS = ("host", "rt", "vm")
_BASES = ("utc", "localtime")
# 8 ns for an instruction: about what TCG takes, so that the guest's time goes about as ours does.
_SHIFT = 3
_LARGEST_SHIFT = 10
_LARGEST_SEED = 2**64 - 1
_SHIFT_TEXT = re.compile(r"(?:shift=)?(auto|\d+)(?:,.*)?")


def checked_timing(config: VMConfig) -> dict[str, Any]:
    """The fields ``rtc`` and ``icount`` in one form.

    Raises:
        VMConfigError: one of the fields of time can't be.
    """
    clock = config.rtc_clock
    if clock not in (None, *_CLOCKS):
        raise VMConfigError(
            "VMConfig.rtc_clock is 'host' (goes on with this host's clock), 'rt' (with this host's "
            f"time, however its clock is set) or 'vm' (stands while the guest does), not {clock!r}"
        )
    seed = config.seed
    if seed is not None and not (_is_number(seed) and 0 <= seed <= _LARGEST_SEED):
        raise VMConfigError(f"VMConfig.seed is a number from 0 to 2**64-1, not {seed!r}")
    icount = _checked_icount(config.icount)
    if icount is not None:
        _check_accelerator(config.accel)
    return {"rtc": _checked_rtc(config.rtc), "icount": icount}


def _check_accelerator(accel: str | None) -> None:
    name, _, rest = (accel or "auto").partition(",")
    if name not in ("auto", "tcg"):
        raise VMConfigError(
            f"VMConfig.icount counts the guest's instructions, which only TCG does, and not {name}:"
            " use accel='tcg', or leave it to accel='auto'"
        )
    if "thread=multi" in rest.split(","):
        raise VMConfigError(
            "VMConfig.icount needs TCG to run all CPUs in one thread: leave out thread=multi"
        )


def wanted_accelerator(config: VMConfig) -> str:
    """The accelerator to choose from what is there: ``auto``, or a certain one."""
    accel = config.accel or "auto"
    return "tcg" if config.icount is not None and accel == "auto" else accel


def timing_argv(config: VMConfig) -> list[str]:
    """The arguments that set the guest's time and random numbers."""
    argv = []
    # What the guest sees of the time must not depend on how busy the host is.
    clock = config.rtc_clock or ("vm" if config.icount is not None else None)
    values = {"base": config.rtc, "clock": clock}
    given = ",".join(f"{name}={value}" for name, value in values.items() if value is not None)
    if given:
        argv += ["-rtc", given]
    if config.icount is not None:
        argv += ["-icount", str(config.icount)]
    if config.seed is not None:
        argv += ["-seed", str(config.seed)]
    return argv


def _checked_rtc(rtc: object) -> str | None:
    if rtc is None or (isinstance(rtc, str) and rtc in _BASES):
        return rtc
    if isinstance(rtc, str):
        with suppress(ValueError):
            # Python 3.10 knows no Z.
            rtc = datetime.fromisoformat(rtc[:-1] + "+00:00" if rtc.endswith("Z") else rtc)
    if isinstance(rtc, datetime):
        if rtc.tzinfo is not None:
            rtc = rtc.astimezone(timezone.utc).replace(tzinfo=None)
        return rtc.replace(microsecond=0).isoformat()
    if isinstance(rtc, date):
        return f"{rtc.isoformat()}T00:00:00"
    raise VMConfigError(
        "VMConfig.rtc is the date at which the guest's clock begins, as '2026-01-01T00:00:00' or a "
        f"datetime, or 'utc' or 'localtime' for this host's: not {rtc!r}"
    )


def _checked_icount(icount: object) -> str | None:
    if icount is None or icount is False:
        return None
    if icount is True:
        icount = _SHIFT
    if _is_number(icount):
        # Idle time that goes by with the host's clock could not be repeated.
        icount = f"shift={icount},sleep=off"
    if isinstance(icount, str):
        found = _SHIFT_TEXT.fullmatch(icount)
        shift = found[1] if found else ""
        if shift == "auto" or (shift and int(shift) <= _LARGEST_SHIFT):
            return icount
    raise VMConfigError(
        f"VMConfig.icount is True, a shift from 0 to {_LARGEST_SHIFT} (an instruction takes the "
        "guest 2**shift nanoseconds), or QEMU's text, as 'shift=3,sleep=off': not "
        f"{icount!r}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
