"""What the workers of a run share: a JSON object in a file, changed by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["SharedState", "process_started"]

_NEW_FILE = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class SharedState:
    """A JSON object that several processes read and change.

    Whoever dies while changing it leaves it as it was, and locks nobody out.

    Args:
        path: of the file, in a folder of this user's own; None: of this process alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._own: dict[str, Any] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[dict[str, Any]]:
        """The object, for a block in which nobody else sees or changes it.

        Raises:
            OSError: the file can't be used.
        """
        with self._lock:
            if self._path is None:
                yield self._own
                return
            # A file of its own, as the other is replaced: a lock goes with the file it is of.
            lock = os.open(self._path.with_suffix(".lock"), _NEW_FILE, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                text = self._path.read_text() if self._path.exists() else "{}"
                content: dict[str, Any] = json.loads(text)
                yield content
                changed = json.dumps(content)
                if changed != text:
                    self._replace(self._path, changed)
            finally:
                os.close(lock)

    def _replace(self, path: Path, text: str) -> None:
        new = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        with open(os.open(new, _NEW_FILE | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.replace(path)


def process_started(pid: int) -> str | None:
    """When a process began, as a token to compare; None if it has ended (or is a zombie).

    The number of a process alone may be another's by now.
    """
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return None
        return "" if _exists(pid) else None
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
