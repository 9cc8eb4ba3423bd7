"""What the tests and the examples share."""

from __future__ import annotations

import shutil

import pytest

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers of this repository's own tests."""
    config.addinivalue_line(
        "markers", "needs_qemu: runs a real QEMU; deselected where the suite runs without one"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what runs a real QEMU where there is none."""
    if item.get_closest_marker("needs_qemu") and not shutil.which("qemu-system-x86_64"):
        pytest.skip("there is no qemu-system-x86_64 on the PATH")
