"""What is known of one background job: from its events, and from what QEMU says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_qmp.qmp.events import QMPEvent

__all__ = ["JOB_EVENTS", "JOB_STATUSES", "JobInfo", "JobStory"]

#: The states that QEMU gives a job, in the order in which it goes through them.
JOB_STATUSES = (
    *("undefined", "created", "running", "paused", "ready", "standby"),
    *("waiting", "pending", "aborting", "concluded", "null"),
)

#: The events that tell of jobs: the first of all kinds, the others of block jobs alone.
JOB_EVENTS = (
    "JOB_STATUS_CHANGE",
    "BLOCK_JOB_READY",
    "BLOCK_JOB_PENDING",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_CANCELLED",
)

_ENDS = frozenset({"concluded", "null"})
_STATUS_OF = {
    "BLOCK_JOB_READY": "ready",
    "BLOCK_JOB_PENDING": "pending",
    "BLOCK_JOB_COMPLETED": "concluded",
    "BLOCK_JOB_CANCELLED": "concluded",
}


class JobInfo(dict[str, Any]):
    """A job as ``query-jobs`` tells of it, with names for what people look at.

    It is the plain answer (``info["current-progress"]``), and has:

    Attributes:
        id: the job's.
        type: such as ``mirror``; empty if it was over before anybody asked.
        status: such as ``concluded``.
        done: how far it has come, in units of its own: bytes, for block jobs.
        total: how far it has to go, in the same.
        error: QEMU's words for what failed; empty if nothing did.
        cancelled: True if somebody has cancelled it.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """The job's."""
        return str(self.get("id", ""))

    @property
    def type(self) -> str:
        """Such as ``mirror``; empty if it was over before anybody asked."""
        return str(self.get("type", ""))

    @property
    def status(self) -> str:
        """Such as ``concluded``."""
        return str(self.get("status", ""))

    @property
    def done(self) -> int:
        """How far it has come, in units of its own: bytes, for block jobs."""
        return int(self.get("current-progress", 0))

    @property
    def total(self) -> int:
        """How far it has to go, in the same."""
        return int(self.get("total-progress", 0))

    @property
    def error(self) -> str:
        """QEMU's words for what failed; empty if nothing did."""
        return str(self.get("error", ""))

    @property
    def cancelled(self) -> bool:
        """True if somebody has cancelled it."""
        return bool(self.get("cancelled"))

    def far(self) -> str:
        """How far it has come, in words: ``25 %, 1024 of 4096``."""
        if not self.total:
            return "no progress is known"
        return f"{100 * self.done // self.total} %, {self.done} of {self.total}"


class JobStory:
    """Follows one job through its events, and through looks at ``query-jobs``.

    Args:
        ident: the job's id.

    Attributes:
        status: the last one that was told; empty before the first.
        seen: True once anything was told.
        over: True once it has ended, well or not.
        io_error: the BLOCK_JOB_ERROR that has paused it.
    """

    def __init__(self, ident: str) -> None:
        self.ident = ident
        self._begin()

    def _begin(self) -> None:
        self.status = ""
        self.over = False
        self.io_error: QMPEvent | None = None
        self._info: dict[str, Any] = {"id": self.ident}
        self._failed = False

    @property
    def seen(self) -> bool:
        """True once anything was told."""
        return bool(self.status)

    def concerns(self, event: QMPEvent) -> bool:
        """Whether an event is of this job."""
        data = event.data
        # Events of block jobs call it "device", whatever it is.
        return self.ident in (data.get("id"), data.get("device"))

    def read(self, events: Iterable[QMPEvent]) -> None:
        """Takes in events of any kind, oldest first."""
        for event in events:
            if event.name in JOB_EVENTS and self.concerns(event):
                self.tell(event)

    def tell(self, event: QMPEvent) -> None:
        """Takes in the next event of the job."""
        data = event.data
        status = data.get("status") or _STATUS_OF.get(event.name)
        if status == "created":
            # The id is free again after a job's end: this is another one.
            self._begin()
        if event.name == "BLOCK_JOB_ERROR":
            if data.get("action") == "stop":
                self.io_error = event
            return
        if "type" in data:
            self._info["type"] = data["type"]
        if "len" in data:
            self._info["current-progress"] = data["offset"]
            self._info["total-progress"] = data["len"]
        if "error" in data:
            self._info["error"] = data["error"]
        if event.name == "BLOCK_JOB_CANCELLED":
            self._info["cancelled"] = True
        if status == "aborting":
            self._failed = True
        if status == "running":
            self.io_error = None
        if status is not None:
            self._become(str(status))

    def look(self, jobs: Iterable[Mapping[str, Any]]) -> bool:
        """Takes in what ``query-jobs`` returned; False if the job is not there."""
        for job in jobs:
            if job["id"] == self.ident:
                self._info.update(job)
                self._become(str(job["status"]))
                return True
        return False

    def _become(self, status: str) -> None:
        self.status = status
        self.over = self.over or status in _ENDS

    @property
    def info(self) -> JobInfo:
        """All that is known by now."""
        status = "concluded" if self.over else self.status
        info = JobInfo(self._info, status=status)
        if self.over and self._failed and not info.error:
            info["error"] = "Operation canceled" if info.cancelled else "it gave no reason"
        if info.error == "Operation canceled":
            info["cancelled"] = True
        return info

    def __str__(self) -> str:
        kind = self._info.get("type")
        return f"the job {self.ident!r}" + (f" ({kind})" if kind else "")
