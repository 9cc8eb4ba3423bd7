"""``pytest-qmp doctor``: what this host has for virtual machines, and what to install."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

from pytest_qmp.text import printable

__all__ = ["run"]

_REQUIRED = ("pytest", "pexpect")
_USEFUL = {
    "pytest-timeout": "each wait then ends a moment before its test's own deadline",
    "pytest-xdist": "runs tests side by side",
}


def run(args: Sequence[str]) -> int:
    """The subcommand; returns 0 if a QEMU can be used and all that was found works, else 1."""
    parser = argparse.ArgumentParser(
        prog="pytest-qmp doctor",
        description="Show what this host has for virtual machines, and what to install. "
        "The exit status is 0 if there is a QEMU that works and nothing is broken, else 1.",
    )
    parser.add_argument(
        "--qemu", metavar="PATH", action="append", default=[], help="look at this binary as well"
    )
    given = parser.parse_args(args)
    report = _Report()
    report.line(f"pytest-qmp {_version('pytest-qmp')} on {platform.platform()}")
    _show_python(report)
    _show_qemu(report, given.qemu)
    _show_memory(report)
    return report.finish()


class _Report:
    """What was found, as it is printed, and what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.hints: list[str] = []
        self.usable = False

    def line(self, text: str = "") -> None:
        sys.stdout.write(f"{printable(text)}\n")

    def head(self, text: str) -> None:
        self.line()
        self.line(text)

    def finish(self) -> int:
        if self.problems:
            self.head("What is wrong")
        for text in self.problems:
            self.line(f"  {text}")
        if self.hints:
            self.head("What could be better")
        for text in self.hints:
            self.line(f"  {text}")
        self.line()
        self.line(
            "Tests can run on QEMU here."
            if self.usable
            else "Tests can't run on QEMU here; they can on the fake (--qmp-backend=fake)."
        )
        return 1 if self.problems else 0


def _show_python(report: _Report) -> None:
    report.head("Python")
    report.line(f"  Python {platform.python_version()} ({sys.executable})")
    for name in _REQUIRED:
        report.line(f"  {name} {_version(name) or 'is missing'}")
        if not _version(name):
            report.problems.append(f"{name} is missing: pip install {name}")
    for name, use in _USEFUL.items():
        report.line(f"  {name} {_version(name) or 'is not installed'}")
        if not _version(name):
            report.hints.append(f"{name} {use}: pip install {name}")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _show_qemu(report: _Report, given: Sequence[str]) -> None:
    from pytest_qmp.vm.argv import default_machine
    from pytest_qmp.vm.host import choose_accelerator, host_arch
    from pytest_qmp.vm.survey import (
        describe_kvm_device,
        find_binaries,
        install_hint,
        survey_binary,
        version_of_program,
    )

    report.head("QEMU")
    binaries = [survey_binary(path) for path in find_binaries(given)]
    for one in binaries:
        if one.trouble:
            report.line(f"  {one.arch:12} {one.path}: broken")
            report.problems.append(f"{one.path}: {one.trouble}")
            continue
        ours = default_machine(one.arch) or "that"
        report.line(
            f"  {one.arch:12} {one.version:9} {one.path}: {len(one.machines)} machine types, "
            f"default {one.default_machine or 'none'}, ours {ours}; {', '.join(one.accelerators)}"
        )
    working = [one for one in binaries if not one.trouble]
    report.usable = bool(working)
    name = f"qemu-system-{host_arch()}"
    if not working:
        report.line("  none")
        report.problems.append(
            f"there is no QEMU on the PATH ({os.environ.get('PATH', '')}). {install_hint(name)}"
        )
    elif not any(one.arch == host_arch() for one in working):
        report.hints.append(f"{name} is for guests like this host. {install_hint(name)}")
    tool = version_of_program("qemu-img")
    report.line(f"  qemu-img     {f'{tool[1]:9} {tool[0]}' if tool else 'is not on the PATH'}")
    if tool is None:
        report.hints.append(f"qemu-img makes disk images. {install_hint('qemu-img')}")

    report.head("Accelerators")
    report.line(f"  {describe_kvm_device()}")
    chosen: dict[str, list[str]] = {}
    for one in working:
        found = choose_accelerator("auto", one.path, one.arch)
        chosen.setdefault(str(found), []).append(one.path)
    for accelerator, paths in chosen.items():
        whose = paths[0] if len(paths) == 1 else f"{len(paths)} of these QEMUs"
        report.line(f"  --qmp-accel=auto takes {accelerator} for {whose}")


def _show_memory(report: _Report) -> None:
    from pytest_qmp.vm.host_memory import available_memory, format_memory, total_memory

    report.head("Memory")
    report.line(
        f"  {format_memory(total_memory())}, of which {format_memory(available_memory())} are to "
        "spare (--qmp-max-memory sets another limit for the machines of a run)"
    )
