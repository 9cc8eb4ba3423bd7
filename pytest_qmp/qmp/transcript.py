"""The last messages of a connection, as text for a person."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from pytest_qmp.qmp.session import TranscriptEntry
from pytest_qmp.text import printable

__all__ = ["format_transcript"]


def format_transcript(
    entries: Sequence[TranscriptEntry], *, limit: int = 20, width: int = 400
) -> str:
    """The last messages, a line each: how long ago, ``>`` sent or ``<`` received, the message.

    Args:
        entries: from ``QMPClient.transcript``.
        limit: how many messages.
        width: characters of each.
    """
    now = time.monotonic()
    lines = [
        (moment, direction, line)
        for moment, direction, data in _joined(entries)
        for line in data.decode("utf-8", "replace").split("\n")
        if line.strip()
    ]
    shown = []
    for moment, direction, line in lines[-limit:]:
        text = printable(line.rstrip())
        if len(text) > width:
            text = f"{text[:width]}… ({len(text)} characters)"
        shown.append(f"{moment - now:+9.3f} s {direction} {text}")
    return "\n".join(shown)


def _joined(entries: Sequence[TranscriptEntry]) -> Iterator[TranscriptEntry]:
    """The same, with a message that came in several reads in one piece, at its beginning."""
    open_reads: list[bytes] = []
    began = 0.0
    for moment, direction, data in entries:
        if direction == ">":
            yield moment, direction, data
            continue
        if not open_reads:
            began = moment
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            yield began, direction, b"".join([*open_reads, whole])
            open_reads, began = [], moment
        if rest:
            open_reads.append(rest)
    if open_reads:
        yield began, "<", b"".join(open_reads)
