"""pytest-timeout's deadline: each wait ends a moment before it, and what is known is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.supervisor import Reminder

__all__ = ["apply_scale", "begin", "end"]

_limit = pytest.StashKey[tuple[float, str]]()
_reminder: pytest.StashKey[Reminder] = pytest.StashKey()

# What is left after a wait has given up: for the message, the bundle, and the machines' end.
_SHARE_OF_GRACE = 0.1
_LEAST_GRACE_SECONDS = 0.5
_MOST_GRACE_SECONDS = 5.0
_MOST_SHARE_OF_GRACE = 0.25


def begin(item: pytest.Item, timeout: float | None, write: Callable[[str], object]) -> None:
    """From now on no wait of the test goes beyond its time.

    Args:
        item: the test.
        timeout: seconds that pytest-timeout gives it from now on; None or 0: no limit.
        write: writes what is known, with the reason; called in the background, shortly before
            the end, if the test still runs by then.
    """
    end(item)
    if not timeout:
        return
    from pytest_qmp.qmp.deadline import limits, seconds
    from pytest_qmp.vm.supervisor import remind

    grace = min(max(_SHARE_OF_GRACE * timeout, _LEAST_GRACE_SECONDS), _MOST_GRACE_SECONDS)
    grace = min(grace, _MOST_SHARE_OF_GRACE * timeout)
    now = time.monotonic()
    note = f" (what was left of the test's own timeout of {seconds(timeout)})"
    item.stash[_limit] = limits.end_waits_by(now + timeout - grace, note)
    reason = f"the test's timeout of {seconds(timeout)} is about to end it"
    item.stash[_reminder] = remind(now + timeout - grace / 2, lambda: write(reason))


def end(item: pytest.Item) -> None:
    """The test's time is no limit any more. Idempotent."""
    reminder = item.stash.get(_reminder, None)
    if reminder is not None:
        del item.stash[_reminder]
        reminder.cancel()
    limit = item.stash.get(_limit, None)
    if limit is not None:
        from pytest_qmp.qmp.deadline import limits

        del item.stash[_limit]
        limits.lift(limit)


def apply_scale(settings: QMPSettings) -> None:
    """Stretches every wait of this process as ``--qmp-timeout-scale`` says."""
    from pytest_qmp.qmp.deadline import limits

    limits.scale = settings.timeout_scale
