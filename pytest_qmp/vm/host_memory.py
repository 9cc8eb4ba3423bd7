"""How much memory this host has, in all and to spare: of the machine, or of the control group."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["available_memory", "format_memory", "total_memory"]

_ROOT = Path("/")
# The first kind of control groups has no word for it, but a number that no host has.
_NO_LIMIT = 1 << 62


def total_memory(root: Path = _ROOT) -> int:
    """Bytes that this process could have if nobody else ran.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    limits = [limit for limit, _ in _groups(root)]
    return min([_meminfo(root, "MemTotal") or _physical(), *limits])


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that can be had now without swapping.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    spare = [max(0, limit - used) for limit, used in _groups(root)]
    return min([_meminfo(root, "MemAvailable") or total_memory(root), *spare])


def format_memory(size: int) -> str:
    """A size for a message.

    >>> format_memory(1536 * 1024 * 1024), format_memory(256 * 1024 * 1024)
    ('1.5 GiB', '256 MiB')
    """
    scaled, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if scaled >= 1024:
            scaled, unit = scaled / 1024, larger
    return f"{scaled:.4g} {unit}"


def _meminfo(root: Path, name: str) -> int:
    """Bytes that the kernel tells under a name; 0 if it does not."""
    try:
        text = (root / "proc" / "meminfo").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path) -> list[tuple[int, int]]:
    """Limit and use of each control group that this process is in, of those that have a limit."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be one of the host's, which is not seen from in here.
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            found += _limit(folder, *names)
            if folder == top:
                break
    return found


def _limit(folder: Path, limit: str, use: str, reclaimable: str) -> list[tuple[int, int]]:
    try:
        text = (folder / limit).read_text().strip()
        most = _NO_LIMIT if text == "max" else int(text)
        if most >= _NO_LIMIT:
            return []
        used = int((folder / use).read_text())
        cache = re.search(rf"^{reclaimable} (\d+)$", (folder / "memory.stat").read_text(), re.M)
    except OSError:
        return []
    return [(most, used - (int(cache[1]) if cache else 0))]
