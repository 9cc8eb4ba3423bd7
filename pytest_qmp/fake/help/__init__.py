"""What QEMU prints when it is asked what it is and what it has."""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..command_line import Argument
from ..versions import Dialect

__all__ = ["device_models", "help_text", "machine_types"]

_YEARS = {"7.2": 2022, "10.0": 2025, "11.1": 2026}
_TOPICS = {"M": "machine"}


def help_text(arguments: Sequence[Argument], dialect: Dialect, name: str) -> str | None:
    """What QEMU prints, instead of running a machine; None if it is to run one.

    Args:
        arguments: the command line.
        dialect: the version.
        name: of the program.
    """
    for argument in arguments:
        if argument.option == "version":
            return _version(dialect)
        if argument.option in ("h", "help"):
            return (
                f"{_version(dialect)}usage: {name} [options] [disk_image]\n\n"
                "'disk_image' is a raw hard disk image for IDE hard disk 0\n"
            )
    for argument in arguments:
        if argument.value in ("help", "?"):
            text = _lists(dialect.name).get(_TOPICS.get(argument.option, argument.option))
            if text is not None:
                return text
    return None


@functools.cache
def machine_types(version: str) -> frozenset[str]:
    """The machine types that an emulated version has."""
    lines = _lists(version)["machine"].splitlines()[1:]
    return frozenset(line.split()[0] for line in lines if line.strip())


@functools.cache
def device_models(version: str) -> frozenset[str]:
    """The names and aliases of devices that an emulated version lists."""
    return frozenset(re.findall(r'(?:^name|alias) "([^"]+)"', _lists(version)["device"], re.M))


def _version(dialect: Dialect) -> str:
    version = ".".join(str(part) for part in dialect.version)
    return (
        f"QEMU emulator version {version} ({dialect.package})\n"
        f"Copyright (c) 2003-{_YEARS[dialect.name]} Fabrice Bellard and the QEMU Project "
        "developers\n"
    )


@functools.cache
def _lists(version: str) -> dict[str, str]:
    path = Path(__file__).with_name(f"{version}.json.gz")
    found: dict[str, str] = json.loads(gzip.decompress(path.read_bytes()))
    return found
