"""What the tests and the examples share."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers of this repository's own tests."""
    config.addinivalue_line(
        "markers", "needs_qemu: runs a real QEMU; deselected where the suite runs without one"
    )
