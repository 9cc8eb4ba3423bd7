"""How a machine is had anew for each test."""

from __future__ import annotations

from typing import Literal

__all__ = ["RESTORES", "WAYS", "Way"]

Way = Literal["clone", "state", "boot"]

#: The quickest first.
WAYS: tuple[Way, ...] = ("clone", "state", "boot")

#: What may be asked for, and what is meant: what keeps a machine from being saved in a file keeps
#: it from an internal snapshot too, so that the two are one.
RESTORES = {"auto": "auto", "clone": "clone", "state": "state", "snapshot": "state", "boot": "boot"}
