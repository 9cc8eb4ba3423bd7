"""What objects want of their properties when all have been given."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .qom_tree import Node
from .replies import CommandFailed

__all__ = ["check_secret", "check_thread_pool"]

_LARGEST_INT = 2**31 - 1


def check_secret(given: Mapping[str, Any]) -> None:
    """CommandFailed if a secret can't be had from what it was given."""
    if "file" in given and "data" in given:
        raise CommandFailed("'file' and 'data' are mutually exclusive")
    if "data" in given:
        content = str(given["data"]).encode()
    elif "file" in given:
        path = given["file"]
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CommandFailed(
                f"Unable to read {path}: Failed to open file “{path}”: {error.strerror}"
            ) from error
    else:
        raise CommandFailed("Either 'file' or 'data' must be provided")
    if given.get("format") == "base64":
        try:
            base64.b64decode(content, validate=True)
        except binascii.Error:
            raise CommandFailed("Base64 data contains invalid characters") from None


def check_thread_pool(node: Node) -> None:
    """CommandFailed if an I/O thread can't have as few and as many workers as it was told."""
    least, most = node.value("thread-pool-min"), node.value("thread-pool-max")
    if least is None or most is None:
        return
    if least > most or not most or most > _LARGEST_INT:
        raise CommandFailed("bad thread-pool-min/thread-pool-max values")
