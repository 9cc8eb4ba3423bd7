"""What a kind of jobs is, as far as their lifecycle depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jobs import Job

__all__ = ["Work"]


class Work:
    """What a job does; the kinds of jobs are its subclasses.

    Attributes:
        kind: as ``query-jobs`` says.
        is_block_job: it is one of the block layer's, and in ``query-block-jobs``.
        stays_until_told: it becomes ready and then waits for ``complete`` or ``cancel``.
        ends_later: the end comes after the reply of the command that brings it about.
        first_chunk: how many bytes it does before its speed is looked at.
        waits_at_end: it also waits after the last chunk.
        held_at_start: the graph changes once more when it has just begun to run.
    """

    kind = ""
    is_block_job = True
    stays_until_told = False
    ends_later = False
    first_chunk = 1 << 20
    waits_at_end = False
    held_at_start = False

    def started(self, job: Job) -> None:
        """The job runs now."""

    def succeeded(self, job: Job) -> None:
        """It is about to conclude as a success: what it was for happens."""

    def ended(self, job: Job) -> None:
        """It concludes, whatever came of it: what it holds is let go."""
