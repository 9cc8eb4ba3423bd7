"""``pytest-qmp replay``: plays the client's side of a recording on another QEMU."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence

from pytest_qmp.errors import FakeQMPServerError
from pytest_qmp.fake.conformance import Case, FakePeer, Peer
from pytest_qmp.fake.program_peer import ProgramPeer
from pytest_qmp.fake.recording import read_recording
from pytest_qmp.fake.replay_against import compare_replay
from pytest_qmp.fake.versions import DIALECTS

__all__ = ["run"]

_FAKE = "fake:"


def run(args: Sequence[str]) -> int:
    """The subcommand; 0 if all is as recorded, 1 if something differs, 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        prog="pytest-qmp replay",
        description="Plays the client's side of a recording on another QEMU, started with the "
        "same arguments, and prints what differs. Times and ids are not compared.",
    )
    parser.add_argument("file", metavar="FILE", help="what pytest-qmp record wrote")
    parser.add_argument(
        "--against",
        required=True,
        metavar="COMMAND",
        help=f"a QEMU, or {_FAKE}VERSION ({', '.join(DIALECTS)})",
    )
    given = parser.parse_args(args)
    start: Callable[[Case], Peer]
    if given.against.startswith(_FAKE):
        version = given.against.removeprefix(_FAKE)
        if version not in DIALECTS:
            parser.error(f"--against {given.against}: the fake is {', '.join(DIALECTS)}")
        start = lambda case: FakePeer(case, version)  # noqa: E731 - one of two
    else:
        command = shlex.split(given.against)
        if not command or not shutil.which(command[0]):
            parser.error(f"--against {given.against}: there is no such program")
        start = lambda case: ProgramPeer(case, command)  # noqa: E731
    try:
        recording = read_recording(given.file)
    except (OSError, FakeQMPServerError) as error:
        parser.error(str(error))
    differences = 0
    for difference in compare_replay(recording, start):
        differences += 1
        sys.stdout.write(f"{difference}\n")
    if not differences:
        sys.stdout.write("nothing differs\n")
    return 1 if differences else 0
