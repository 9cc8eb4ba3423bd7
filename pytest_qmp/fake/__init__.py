"""A QMP server that behaves like QEMU, for tests that have no QEMU to talk to."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .monitor import Call
    from .server import FakeQMPServer
    from .stubs import Stub

__all__ = ["Call", "FakeQMPServer", "Stub"]

_HOMES = {"Call": "monitor", "FakeQMPServer": "server", "Stub": "stubs"}


def __getattr__(name: str) -> object:
    # Loaded when first used: the program that takes QEMU's place listens before all is there.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
