"""How the workers of a run come by each other's templates: one boots, the others wait for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.shared_state import SharedState, process_started

__all__ = ["TemplateExchange"]

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.25


class TemplateExchange:
    """Where each worker says which templates it has, and finds those of the others.

    The files of a template have no name: another process opens them by way of the one that has
    them, and has them itself from then on.

    Args:
        folder: common to the workers, and to nobody else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = SharedState(folder / "qmp-templates.json")

    @contextlib.contextmanager
    def turn(self, key: str, deadline: Deadline) -> Iterator[bool]:
        """The right to make the template of a key, for a block; others wait meanwhile.

        Whoever dies in it leaves it to the next.

        Yields:
            False at the deadline, without the right.
        """
        lock = os.open(
            self._folder / f"qmp-template-{key[:32]}.lock",
            os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        try:
            yield _locked(lock, deadline)
        finally:
            os.close(lock)

    def offer(self, key: str, manifest: Mapping[str, Any], fds: Mapping[str, int]) -> None:
        """Says that this process has the template of a key.

        Args:
            key: of it.
            manifest: what ``Template.manifest()`` gave.
            fds: what ``Template.descriptors()`` gave; open as long as the offer stands.
        """
        holder = {"pid": os.getpid(), "started": process_started(os.getpid()), "fds": dict(fds)}
        with self._state.locked() as state:
            entry = state.setdefault(key, {"holders": []})
            entry["manifest"] = dict(manifest)
            entry["holders"].append(holder)

    def withdraw(self, key: str) -> None:
        """This process lets go of the template of a key."""
        with self._state.locked() as state:
            entry = state.get(key, {"holders": []})
            entry["holders"] = [one for one in entry["holders"] if one["pid"] != os.getpid()]

    def take(self, key: str) -> tuple[dict[str, Any], dict[str, int]] | None:
        """What another process has: the manifest, and descriptors of our own; None if none has it.

        A template without files is told by its manifest alone.
        """
        with self._state.locked() as state:
            entry = state.get(key)
        if entry is None:
            return None
        for holder in entry["holders"]:
            found = _opened(holder)
            if found is not None:
                return dict(entry["manifest"]), found
        return None


def _locked(lock: int, deadline: Deadline) -> bool:
    # The kernel has no wait for a lock that ends at a time.
    pause = _FIRST_LOOK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if deadline.expired:
                return False
            left = deadline.remaining()
            time.sleep(pause if left is None else min(pause, left))
            pause = min(2 * pause, _LAST_LOOK_SECONDS)
        else:
            return True


def _opened(holder: Mapping[str, Any]) -> dict[str, int] | None:
    """The files of another process; None if it has ended, or lets nobody look."""
    pid = holder["pid"]
    found: dict[str, int] = {}
    try:
        for name, fd in holder["fds"].items():
            found[name] = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        # Looked at last: until then the number was that process's.
        if process_started(pid) == holder["started"]:
            return found
    except OSError:
        pass  # It has just ended, or let go of it: another may have it.
    for fd in found.values():
        os.close(fd)
    return None
