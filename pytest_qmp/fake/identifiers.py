"""What QEMU takes for an id."""

from __future__ import annotations

import re

__all__ = ["is_identifier"]


def is_identifier(text: str) -> bool:
    """Whether QEMU takes a text for the id of an object, a device or a netdev."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", text, re.ASCII) is not None
