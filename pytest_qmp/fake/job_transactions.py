"""How the jobs of one transaction begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jobs import Job, Jobs

__all__ = ["start_together"]


def start_together(jobs: Jobs, held: list[Job]) -> None:
    """Lets jobs run that were held until their transaction was complete.

    All are held while the last begins to run; then the last one works first.

    Args:
        jobs: of the machine.
        held: in the order of their actions.
    """
    in_order = jobs.dialect.version < (8, 0, 0)
    starting = held if in_order else held[::-1]
    for job in starting:
        job.in_transaction = True
        job.become("running")
        job.become("paused")
    for job in starting:
        job.become("running")
    jobs.finished = None if in_order else []
    for job in reversed(starting):
        job.work.started(job)
    finished, jobs.finished = jobs.finished, None
    for job in sorted(finished or (), key=jobs.all.index):
        jobs.conclude_group(job)
