"""Commands for the tests of block nodes and jobs, and how they are said to QEMU and the fake."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_qmp.fake import FakeQMPServer
from pytest_qmp.fake.block_images import create_file, create_qcow2

from .test_same_behaviour import BASE, Step, converse

MIB = 1 << 20
PC = ["-M", "pc", "-m", "16", "-S"]
NONE = ["-M", "none", "-S"]


def said(command: str, **arguments: Any) -> Step:
    """A command; ``_`` in names of arguments stands for ``-``, but for one at the end."""
    return command, {name.replace("_", "-"): value for name, value in arguments.items()}


def add(driver: str, name: str, **options: Any) -> Step:
    return said("blockdev-add", driver=driver, node_name=name, **options)


def null(name: str, size: int = MIB) -> Step:
    return add("null-co", name, size=size)


def image(driver: str, name: str, filename: str, **options: Any) -> Step:
    return add(driver, name, file={"driver": "file", "filename": filename}, **options)


def make_images(folder: Path) -> None:
    """The images that the conversations are about."""
    create_file(str(folder / "a.raw"), MIB)
    create_qcow2(str(folder / "d.qcow2"), MIB)
    create_qcow2(str(folder / "e.qcow2"), MIB)
    create_qcow2(str(folder / "o.qcow2"), MIB, backing="d.qcow2", backing_format="qcow2")


def without_generated(lines: list[str]) -> list[str]:
    """The same with names for generated node names that don't differ from run to run."""
    known: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return known.setdefault(match.group(), f"#block{len(known)}")

    return [re.sub(r"#block\d+", name, line) for line in lines]


def both(
    version: str, real: Callable[[list[str]], Any], args: list[str], steps: list[Step]
) -> tuple[list[str], list[str]]:
    """What the fake says and what a real QEMU says, each in a directory with fresh images."""
    make_images(Path.cwd())
    with FakeQMPServer(version, args=[*BASE, *args]) as server:
        fake = converse(server.open_monitor(), steps)
    make_images(Path.cwd())
    return without_generated(fake), without_generated(converse(real(args), steps))
