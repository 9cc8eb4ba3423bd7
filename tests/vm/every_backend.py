"""The fake and each QEMU that is here, for tests that hold on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_qmp import VMConfig
from pytest_qmp.vm.host import find_qemu

__all__ = ["EVERY_BACKEND", "EVERY_QEMU", "config_of"]

UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "qemu"

EVERY_QEMU = [
    pytest.param(name, marks=pytest.mark.needs_qemu, id=f"qemu-{name}")
    for name in ("installed", "10.0", "11.1")
]
EVERY_BACKEND = [
    *(pytest.param(name, id=name) for name in ("fake-7.2", "fake-11.1")),
    *EVERY_QEMU,
]


def config_of(name: str) -> VMConfig:
    """A machine on one of them; skips the test where it is not here."""
    config = VMConfig(accel="tcg", timeout=20, memory="64M")
    if name.startswith("fake-"):
        return config.replace(backend="fake", emulate=name.removeprefix("fake-"))
    if name == "installed":
        return config.replace(qemu=find_qemu("x86_64"))
    place = UNPACKED / name
    if not (place / ".complete").exists():
        pytest.skip(f"QEMU {name} is not unpacked here: run scripts/unpack-qemu")
    return config.replace(qemu=place / "usr" / "bin" / "qemu-system-x86_64")
