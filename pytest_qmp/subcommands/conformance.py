"""``pytest-qmp conformance``: holds a program against recordings of real QEMUs."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_qmp.fake.conformance import Case, FakePeer, Peer
from pytest_qmp.fake.conformance_report import Report, play_corpus, read_corpus, version_of
from pytest_qmp.fake.program_peer import ProgramPeer
from pytest_qmp.fake.versions import DIALECTS

__all__ = ["run"]


def run(args: Sequence[str]) -> int:
    """The subcommand; 0 if all is as recorded, 1 if something differs, 2 for bad arguments."""
    parser = _parser()
    given = parser.parse_args(args)
    if given.against and not shutil.which(shlex.split(given.against)[0]):
        parser.error(f"--against {given.against}: there is no such program")
    report = Report()
    for path in given.corpus:
        try:
            cases = read_corpus(path)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        version = version_of(cases)
        emulate = given.emulate or version
        if not given.against and emulate not in DIALECTS:
            parser.error(
                f"{path} is of QEMU {version or 'of no known version'}, which the fake is not: "
                f"give --emulate {', '.join(DIALECTS)}, or --against a program"
            )
        wanted = [case for case in cases if _is_wanted(case, given.only)]
        for result in play_corpus(
            wanted,
            version,
            _starter(given, emulate),
            unstable=given.unstable,
            guests=not (given.against or given.drop_in),
        ):
            report.add(result)
            if given.verbose and result.outcome == "differs":
                sys.stderr.write(f"{version} {result.name}: {result.detail}\n")
    if given.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=1) + "\n")
    else:
        sys.stdout.write(report.table(markdown=given.markdown))
    return 1 if report.differing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-qmp conformance",
        description="Plays recorded conversations with a QEMU against a program that takes QEMU's "
        "arguments, and prints how many came out the same, by category and version.",
    )
    parser.add_argument("corpus", nargs="+", type=Path, metavar="CORPUS.jsonl[.xz]")
    parser.add_argument(
        "--against", metavar="COMMAND", help="a program, with arguments of its own if need be"
    )
    parser.add_argument(
        "--emulate",
        choices=tuple(DIALECTS),
        help="be this version (default: the recorded one); without --against the fake in process",
    )
    parser.add_argument(
        "--drop-in",
        action="store_true",
        help="start the fake as a program of its own for each case",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a category, or a case's name"
    )
    parser.add_argument(
        "--unstable",
        action="store_true",
        help="also the cases of which two recordings differ",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="what differs, case by case")
    parser.add_argument("--json", action="store_true", help="print all results as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser


def _is_wanted(case: Case, only: Sequence[str]) -> bool:
    return not only or case.category in only or case.name in only


def _starter(given: argparse.Namespace, emulate: str) -> Callable[[Case], Peer]:
    if given.against:
        command = shlex.split(given.against)
        return lambda case: ProgramPeer(case, command)
    if given.drop_in:
        program = [sys.executable, "-m", "pytest_qmp", "fake", "--emulate", emulate]
        return lambda case: ProgramPeer(case, program, takes_time=False)
    return lambda case: FakePeer(case, emulate)
