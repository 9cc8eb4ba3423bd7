"""What differs from one run of the same QEMU to the next, and is not compared."""

from __future__ import annotations

import re

__all__ = ["without_times", "without_volatile"]

_TIMES = (
    (
        re.compile(r'"timestamp": \{"seconds": \d+, "microseconds": \d+\}'),
        '"timestamp": {"seconds": "<S>", "microseconds": "<US>"}',
    ),
    (re.compile(r'^( +"(?:micro)?seconds": )\d+'), r'\1"<N>"'),
)
# Threads and processes have numbers of the host; small ones are of the guest's CPUs.
_THREAD = re.compile(r'"thread-id": (?:\d{3,}|"<TID>")')
# Which pseudo-terminal is free depends on who else has one.
_TERMINAL = re.compile(r"/dev/pts/\d+")
_PROCESS = "<PID>"
_LARGE = re.compile(r'"return": \[.*\]')
#: How long a migration took, and its speed, which follows from that.
_DURATION = re.compile(r'("(?:setup-time|total-time|downtime|mbps)": )[-+.\de]+')
#: How far it has come, which depends on how fast the other end reads.
_PROGRESS = re.compile(
    r'("(?:remaining|transferred|precopy-bytes|duplicate|normal|normal-bytes)": )\d+'
)
_OF_MIGRATION = '"dirty-sync-count": '


def without_times(line: str) -> str:
    """A line with marks in place of its points in time, as recordings have it."""
    for pattern, replacement in _TIMES:
        line = pattern.sub(replacement, line)
    return line


def without_volatile(expected: str, line: str) -> tuple[str, str]:
    """A recorded line and the one that came, without what need not be the same."""
    if '"<LARGE>"' in expected:
        line = _LARGE.sub('"return": "<LARGE>"', line)
    patterns = [(_THREAD, '"thread-id": "<TID>"'), (_TERMINAL, "/dev/pts/<N>")]
    if _OF_MIGRATION in expected:
        patterns.append((_DURATION, r"\1<N>"))
        if '"status": "completed"' not in expected:
            patterns.append((_PROGRESS, r"\1<N>"))
    for pattern, replacement in patterns:
        expected = pattern.sub(replacement, expected)
        line = pattern.sub(replacement, line)
    if _PROCESS in expected:
        numbers = re.escape(expected).replace(re.escape(_PROCESS), r"(\d+)")
        line = expected if re.fullmatch(numbers, line) else line
    return expected, line
