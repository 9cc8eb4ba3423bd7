"""``pytest-qmp record``: writes down what a client and a real QEMU say to each other."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_qmp.fake.command_line import StartFailed
from pytest_qmp.fake.recorder import record, without_monitors
from pytest_qmp.fake.recording import RecordingWriter

__all__ = ["run"]


def run(args: Sequence[str]) -> int:
    """The subcommand; QEMU's exit status, 2 for bad arguments; dies of the signal QEMU died of."""
    parser = argparse.ArgumentParser(
        prog="pytest-qmp record",
        usage="pytest-qmp record -o FILE -- qemu-system-x86_64 QEMU-ARGUMENT...",
        description="Runs a QEMU whose QMP monitors are where its arguments say, and writes all "
        "that is said there to a file, for FakeQMPServer.replay() and pytest-qmp replay.",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("command", nargs="+", metavar="qemu-system-x86_64 QEMU-ARGUMENT...")
    given = parser.parse_args(args)
    try:
        if not without_monitors(given.command[1:])[1]:
            parser.error("the command has no QMP monitor to record: give it a -qmp")
        file = given.output.open("w", encoding="utf-8")
    except StartFailed as failed:
        return _failed("\n".join(failed.reports))
    except OSError as error:
        return _failed(f"can't write {given.output}: {error.strerror}")
    with RecordingWriter(file, given.command) as writer:
        try:
            status = record(given.command, writer)
        except StartFailed as failed:
            return _failed("\n".join(failed.reports))
        except OSError as error:
            return _failed(f"can't execute {given.command[0]}: {error.strerror}")
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _failed(text: str) -> int:
    sys.stderr.write(f"pytest-qmp record: {text}\n")
    return 1
