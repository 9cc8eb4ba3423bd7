"""The folder that is left of a test: what its machines said, wrote and were started with."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_qmp.errors import QMPError
from pytest_qmp.vm.argv import starts_held

if TYPE_CHECKING:
    from pytest_qmp.vm.machine import VirtualMachine

__all__ = ["bundle_name", "clear_bundles", "prepare_folder", "write_bundle"]

_STATUS = "status.json"
_NAME_LENGTH = 80
_OUR_SOCKET = re.compile(r"socket,id=([^,=]+),fd=\d+")


def bundle_name(test: str) -> str:
    """The name of a test's folder: readable, and no other test's.

    >>> bundle_name("tests/test_boot.py::test_it[q35-1/2]")
    'tests-test_boot.py-test_it-q35-1-2-ee110c46'
    """
    readable = re.sub(r"[^\w.]+", "-", test, flags=re.ASCII).strip("-.")[:_NAME_LENGTH]
    return f"{readable}-{zlib.crc32(test.encode()):08x}"


def prepare_folder(folder: Path) -> None:
    """Makes the folder that holds all bundles, which git is to ignore.

    Raises:
        OSError: it can't be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), (folder / ".gitignore").open("x") as ignore:
        ignore.write("*\n")


def clear_bundles(folder: Path) -> None:
    """Removes the bundles of an earlier run, and nothing else that lies beside them.

    Raises:
        OSError: one can't be removed.
    """
    if not folder.is_dir():
        return
    for one in folder.iterdir():
        if one.is_dir() and not one.is_symlink() and (one / _STATUS).is_file():
            shutil.rmtree(one)


def write_bundle(
    folder: Path, test: str, reason: str, machines: Sequence[VirtualMachine], *, ask: bool = True
) -> Path:
    """Writes what is known of a test's machines by now; over what was written before.

    For one machine the files lie in the test's folder, for several in a folder each:
    ``qmp.jsonl`` (the last messages both ways, with their times), ``console-NAME.log``,
    ``qemu.log`` (QEMU's own output), ``rerun.sh``. ``status.json`` has the rest.

    Args:
        folder: that holds all bundles.
        test: its node id.
        reason: why it is written.
        machines: the test's.
        ask: False asks no QEMU anything, which the thread of the background must not.

    Returns:
        The test's folder.

    Raises:
        OSError: it can't be written.
    """
    prepare_folder(folder)
    place = folder / bundle_name(test)
    status: dict[str, Any] = {"test": test, "reason": reason, "machines": []}
    with _directory(place) as directory:
        for machine in machines:
            own = "." if len(machines) == 1 else bundle_name(machine.label)
            with _directory(own, directory) as inner:
                for name, data in _files(machine):
                    with _fresh_file(inner, name) as file:
                        file.write(data)
            status["machines"].append(_describe(machine, ask))
        with _fresh_file(directory, _STATUS) as file:
            file.write(json.dumps(status, indent=2, default=str).encode() + b"\n")
    return place


@contextlib.contextmanager
def _directory(path: Path | str, parent: int | None = None) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700, dir_fd=parent)
    # A link that somebody has put in its place is refused.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    directory = os.open(path, flags, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _fresh_file(directory: int, name: str) -> IO[bytes]:
    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600, dir_fd=directory)

    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    return open(name, "xb", opener=opener)


def _files(machine: VirtualMachine) -> Iterator[tuple[str, bytes]]:
    # First, so that one whose name is ours gives way.
    for name, data in machine.attachments.items():
        yield re.sub(r"[^\w.-]", "_", name).lstrip("."), data
    messages = (
        json.dumps({"time": moment, "direction": way, "message": data.decode("utf-8", "replace")})
        for moment, way, data in machine.transcript
    )
    yield "qmp.jsonl", "".join(f"{message}\n" for message in messages).encode()
    for name, data in machine.console_logs.items():
        safe = re.sub(r"[^\w.-]", "_", name)
        yield f"console-{safe}.log", data
    for name, capture in machine.captures.items():
        yield f"{name}.pcap", capture.data
    yield "qemu.log", machine.stderr.encode("utf-8", "replace")
    if machine.argv:
        held = starts_held(machine.config)
        argv = [word for word in machine.argv if not (held and word == "-S")]
        yield "rerun.sh", _rerun(argv).encode()


def _rerun(argv: Sequence[str]) -> str:
    # The descriptors are gone with the run: a socket of that name stands for each.
    words = [
        _shared_network(found[1])
        if found and before == "-netdev"
        else f"socket,id={found[1]},path={found[1]}.sock,server=on,wait=off"
        if found
        else word
        for before, word in zip(("", *argv), argv, strict=False)
        for found in [_OUR_SOCKET.fullmatch(word)]
    ]
    return (
        "#!/bin/sh\n"
        "# Starts the same machine by hand; its monitors and consoles are sockets in this folder.\n"
        f'cd "$(dirname "$0")" && exec {shlex.join(words)} "$@"\n'
    )


def _shared_network(name: str) -> str:
    # All machines that are started so are on one network, of this host alone.
    return f"socket,id={name},mcast=239.192.0.1:5558,localaddr=127.0.0.1"


def _describe(machine: VirtualMachine, ask: bool) -> dict[str, Any]:
    verdict = machine.verdict
    described: dict[str, Any] = {
        "label": machine.label,
        "description": machine.description,
        "argv": machine.argv,
        "pid": machine.pid,
        "exit_status": machine.exit_status,
        "verdict": verdict and {"kind": verdict.kind, "text": verdict.text},
    }
    if ask and machine.exit_status is None:
        with contextlib.suppress(QMPError):
            described["status"] = machine.ask_in_background("query-status")
    return described
