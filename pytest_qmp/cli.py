"""The command ``pytest-qmp``: finds the subcommand, and loads no more than that."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["main"]

#: Each subcommand has a module of its name in ``pytest_qmp.subcommands``.
SUBCOMMANDS = {
    "fake": "take the place of a qemu-system binary",
    "record": "write down what a client and a real QEMU say",
    "replay": "play the client's side of a recording on another QEMU",
    "conformance": "hold a program against recordings of real QEMUs",
    "doctor": "show what this host has for virtual machines, and what to install",
}
#: What a link to this command is called that is a QEMU to those who start it.
_QEMU_NAMES = ("qemu-system-", "qemu-kvm")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the name of the program and its arguments; None for those of this process.

    Returns:
        the exit status.
    """
    program, *args = sys.argv if argv is None else argv
    name = os.path.basename(program)
    if name.startswith(_QEMU_NAMES):
        from pytest_qmp.subcommands.fake import run_as

        return run_as(name, args)
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0 if args else 2
    if args[0] == "--version":
        from pytest_qmp import __version__

        sys.stdout.write(f"pytest-qmp {__version__}\n")
        return 0
    if args[0] not in SUBCOMMANDS:
        sys.stderr.write(f"pytest-qmp: there is no subcommand {args[0]!r}\n\n{_usage()}")
        return 2
    status: int = import_module(f"pytest_qmp.subcommands.{args[0]}").run(args[1:])
    return status


def _usage() -> str:
    lines = "".join(f"  {name:12} {what}\n" for name, what in SUBCOMMANDS.items())
    return (
        "usage: pytest-qmp SUBCOMMAND ...\n\n"
        f"{lines}\n"
        "pytest-qmp SUBCOMMAND --help tells more (but for fake, whose --help is QEMU's).\n"
    )
