"""Machines that run: ended at the end of the process, and left alone in a fork of it."""

from __future__ import annotations

import atexit
import os
import weakref
from contextlib import ExitStack
from typing import Protocol

# Before ours is registered: what the process registered first is called last, and the keeper
# would kill what we have quit.
import pytest_qmp.keeper.client  # noqa: F401

__all__ = ["inherited", "started"]


class Machine(Protocol):
    """What can be ended."""

    def close(self) -> None:
        """Ends it. Idempotent."""


_ours: weakref.WeakSet[Machine] = weakref.WeakSet()
_parents: weakref.WeakSet[Machine] = weakref.WeakSet()


def started(machine: Machine) -> None:
    """Has a machine closed when the interpreter ends, unless it was before."""
    _ours.add(machine)


def inherited(machine: Machine) -> bool:
    """True if this process is a fork of the one that started the machine, and has to leave it."""
    return machine in _parents


def _close_all() -> None:
    with ExitStack() as stack:
        for machine in list(_ours):
            stack.callback(machine.close)


def _in_fork() -> None:
    global _ours
    _parents.update(_ours)
    _ours = weakref.WeakSet()


os.register_at_fork(after_in_child=_in_fork)
atexit.register(_close_all)
