"""``pytest-qmp fake``: a program that takes the place of a qemu-system binary."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["DEFAULT_EMULATION", "EMULATE_VARIABLE", "run", "run_as"]

DEFAULT_EMULATION = "11.1"
EMULATE_VARIABLE = "PYTEST_QMP_EMULATE"
_NAME = "qemu-system-x86_64"
_USAGE = f"""\
usage: pytest-qmp fake [--emulate 7.2|10.0|11.1] [--as NAME] QEMU-ARGUMENT...

Does what {_NAME} with these arguments would do, as far as software around it can see.

  --emulate VERSION  the QEMU to be (default: ${EMULATE_VARIABLE}, or {DEFAULT_EMULATION})
  --as NAME          the name that messages begin with (default: {_NAME})

A link to the command pytest-qmp whose name begins with qemu-system- is this subcommand itself.
"""


def run(args: Sequence[str]) -> int:
    """The subcommand; returns QEMU's exit status, 2 for what is wrong with our own options."""
    given = list(args)
    own = {"--emulate": "", "--as": _NAME}
    while given and given[0].partition("=")[0] in own:
        option, equals, value = given.pop(0).partition("=")
        if not equals:
            if not given:
                sys.stderr.write(f"pytest-qmp fake: {option} needs a value\n{_USAGE}")
                return 2
            value = given.pop(0)
        own[option] = value
    if not given and len(args) == 0:
        sys.stderr.write(_USAGE)
        return 2
    return run_as(own["--as"], given, own["--emulate"])


def run_as(name: str, args: Sequence[str], emulate: str = "") -> int:
    """Is the program of that name; returns its exit status.

    Args:
        name: what messages begin with.
        args: QEMU's arguments.
        emulate: the version; "" takes it from the environment.
    """
    from pytest_qmp.errors import FakeQMPServerError
    from pytest_qmp.fake.program import run_program
    from pytest_qmp.fake.versions import find_dialect

    version = emulate or os.environ.get(EMULATE_VARIABLE) or DEFAULT_EMULATION
    try:
        find_dialect(version)
    except FakeQMPServerError as error:
        sys.stderr.write(f"pytest-qmp fake: {error}\n")
        return 2
    return run_program(args, version, name)
