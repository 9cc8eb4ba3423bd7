"""Measures, prints the tables and writes them as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from benchmarks.client.clients import CLIENTS, left_out, versions
from benchmarks.client.sections import SECTIONS
from benchmarks.client.servers import RealQEMU
from benchmarks.client.timing import Section


def main() -> None:
    """Reads the options, and runs what they ask for."""
    options = _parser().parse_args()
    qemu = RealQEMU.version()
    if not qemu:
        raise SystemExit("qemu-system-x86_64 is not installed: there is nothing to measure against")
    machine = {
        "qemu": qemu,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "packages": versions(),
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    lacking = left_out()
    for client in lacking:
        print(f"Left out, {client.package} is not installed: {client.name}")
    sections = []
    for section in _sections(options.only or list(SECTIONS), options.quick):
        print("\n" + section.as_markdown(), flush=True)
        sections.append(section.as_json())
    if options.json:
        report = {
            "machine": machine,
            "quick": options.quick,
            "left_out": [client.name for client in lacking],
            "sections": sections,
        }
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _sections(names: list[str], quick: bool) -> Iterator[Section]:
    clients = [client() for client in CLIENTS if client not in left_out()]
    for name in names:
        found = SECTIONS[name](clients, quick)
        yield from [found] if isinstance(found, Section) else found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.client",
        description="Measures QMP clients against one real QEMU, in turns.",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes what was measured there")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="only this table; may be repeated"
    )
    return parser


if __name__ == "__main__":
    main()
