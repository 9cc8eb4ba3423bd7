"""A QMP server that behaves like QEMU, for tests that have no QEMU to talk to."""

from __future__ import annotations

from .monitor import Call
from .server import FakeQMPServer
from .stubs import Stub

__all__ = ["Call", "FakeQMPServer", "Stub"]
