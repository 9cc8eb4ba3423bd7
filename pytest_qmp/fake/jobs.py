"""Background jobs: their lifecycle, their verbs, and the events that tell of both."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .clock import Clock, Timer
from .job_transactions import start_together
from .job_work import Work
from .replies import CommandFailed
from .versions import Dialect

__all__ = ["Job", "Jobs"]

_WELL_FORMED = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
#: The states in which a job accepts a verb.
_ACCEPTS = {
    "cancel": frozenset({"created", "running", "paused", "ready", "standby", "waiting", "pending"}),
    "pause": frozenset({"created", "running", "paused", "ready", "standby"}),
    "resume": frozenset({"created", "running", "paused", "ready", "standby"}),
    "set-speed": frozenset({"created", "running", "paused", "ready", "standby"}),
    "change": frozenset({"created", "running", "paused", "ready", "standby"}),
    "complete": frozenset({"ready", "standby"}),
    "finalize": frozenset({"pending"}),
    "dismiss": frozenset({"concluded"}),
}
#: The speed is kept to in pieces of time of so many seconds.
_SLICE = 0.1
#: In seconds; the operating system can't wait much longer at a time.
_LONGEST_WAIT = 1e6
_PAUSED_AS = {"running": "paused", "ready": "standby"}
_RESUMED_AS = {"paused": "running", "standby": "ready"}

Emit = Callable[[str, "Mapping[str, Any] | None"], None]


class Job:
    """A job; made by :meth:`Jobs.create`."""

    def __init__(self, jobs: Jobs, ident: str, work: Work) -> None:
        self.jobs = jobs
        self.ident = ident
        self.work = work
        self.status = "undefined"
        self.current = 0
        self.total = 0
        self.speed = 0
        self.error = ""
        self.auto_finalize = True
        self.auto_dismiss = True
        self.user_paused = False
        self.cancelled = False
        self.completing = False
        self.ready = False
        self.io_status = "ok"
        self.details: dict[str, Any] = {}
        self.group: list[Job] = [self]
        self._timer: Timer | None = None
        self._chunk = 0
        self._chunk_at = -_SLICE
        self.in_transaction = False

    def become(self, status: str) -> None:
        """Changes the state, and tells of it."""
        self.status = status
        self.jobs.emit("JOB_STATUS_CHANGE", {"status": status, "id": self.ident})

    def accept(self, verb: str) -> None:
        """CommandFailed if the job doesn't accept a verb now."""
        if self.status not in _ACCEPTS[verb]:
            raise CommandFailed(
                f"Job '{self.ident}' in state '{self.status}' cannot accept command verb '{verb}'"
            )

    # -- progress ----------------------------------------------------------------------------

    def proceed(self) -> None:
        """Does what can be done at once, then waits as the speed demands."""
        while self.status == "running" and not self.cancelled:
            left = self.total - self.current
            if left <= 0:
                self._done()
                return
            chunk = min(left, self.work.first_chunk) if self.speed else left
            now = self.jobs.clock.now
            if now - self._chunk_at >= _SLICE:
                self._chunk, self._chunk_at = 0, now
            self._chunk += chunk
            self.current += chunk
            last = self.current >= self.total
            waits = self._chunk >= self.speed * _SLICE and (not last or self.work.waits_at_end)
            if self.speed and waits:
                self._wait()
                return

    def _wait(self) -> None:
        seconds = self._chunk / self.speed - (self.jobs.clock.now - self._chunk_at)
        seconds = min(max(0.0, seconds), _LONGEST_WAIT)
        self._timer = self.jobs.clock.call_later(seconds, self._wait_over)

    def _wait_over(self) -> None:
        self._timer = None
        if self.jobs.clock.now < self._chunk_at + self._chunk / max(1, self.speed):
            self._wait()
        else:
            self.proceed()

    def set_speed(self, speed: int) -> None:
        """Changes the speed, in bytes a second; 0 is as fast as can be."""
        before, self.speed = self.speed, speed
        if self._timer is None or (speed and speed <= before):
            return
        self._stop_waiting()
        if self._hurries:
            self.proceed()
        elif speed and self._chunk >= speed * _SLICE:
            self._wait()
        elif self.work.ends_later:
            self.jobs.clock.call_soon(self.proceed)
        else:
            self.proceed()

    @property
    def _hurries(self) -> bool:
        """Up to 7.2 a mirror that is woken goes on without waiting for its turn again."""
        return self.work.waits_at_end and self.jobs.dialect.version < (8, 0, 0)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _done(self) -> None:
        if self.work.stays_until_told:
            if not self.ready:
                self.ready = True
                self.become("ready")
                self.jobs.emit("BLOCK_JOB_READY", self.event_data())
        else:
            self.jobs.succeed(self)

    # -- verbs -------------------------------------------------------------------------------

    def pause(self) -> None:
        """The verb ``pause``."""
        self.accept("pause")
        if self.user_paused:
            raise CommandFailed("Job is already paused")
        self.user_paused = True
        self._stop_waiting()
        if self.status in _PAUSED_AS:
            self.become(_PAUSED_AS[self.status])

    def resume(self) -> None:
        """The verb ``resume``."""
        if not self.user_paused:
            raise CommandFailed("Can't resume a job that was not paused")
        self.accept("resume")
        self.user_paused = False
        self.unpause()
        if self.status == "running" and self.current < self.total + self.work.waits_at_end:
            if self.speed and not self._hurries:
                self._wait()
            else:
                self.proceed()
        elif self.completing:
            self.jobs.clock.call_soon(lambda: self.jobs.succeed(self))

    def unpause(self) -> None:
        """Goes on from a pause, in its state only."""
        self.io_status = "ok"
        if self.status in _RESUMED_AS:
            self.become(_RESUMED_AS[self.status])

    def pulse(self) -> None:
        """The job is held for a moment, as QEMU does to all that use the graph it changes."""
        if self.status in _PAUSED_AS:
            before = self.status
            self.become(_PAUSED_AS[before])
            self.become(before)
            if self._timer is not None and self._hurries:
                self._stop_waiting()
                self.proceed()

    def complete(self) -> None:
        """The verb ``complete``."""
        self.accept("complete")
        if self.cancelled or not self.work.stays_until_told:
            raise CommandFailed(f"The active block job '{self.ident}' cannot be completed")
        self.completing = True
        if self.status == "ready":
            self.jobs.clock.call_soon(lambda: self.jobs.succeed(self))

    def cancel(self, *, force: bool) -> None:
        """The verb ``cancel``; a ready job that isn't forced ends as a success."""
        self.accept("cancel")
        if not force and self.ready and self.status == "ready":
            self.details["unfinished"] = True
            self.jobs.clock.call_soon(lambda: self.jobs.succeed(self))
            return
        self.cancelled = True
        self._stop_waiting()
        if self.user_paused:
            self.user_paused = False
            self.unpause()
        if self.work.ends_later and self.status not in ("waiting", "pending"):
            self.jobs.clock.call_soon(lambda: self.jobs.fail(self))
        else:
            self.jobs.fail(self)

    def finalize(self) -> None:
        """The verb ``finalize``."""
        self.accept("finalize")
        self.jobs.conclude_group(self)

    def dismiss(self) -> None:
        """The verb ``dismiss``."""
        self.accept("dismiss")
        self.jobs.remove(self)

    # -- what is said of it ------------------------------------------------------------------

    def event_data(self) -> dict[str, Any]:
        """The data of the events of block jobs."""
        return {
            "type": self.work.kind,
            "device": self.ident,
            "len": self.total,
            "offset": self.current,
            "speed": self.speed,
        }

    def info(self) -> dict[str, Any]:
        """``JobInfo``."""
        info: dict[str, Any] = {
            "id": self.ident,
            "type": self.work.kind,
            "status": self.status,
            "current-progress": self.current,
            "total-progress": self.total,
        }
        if self.error:
            info["error"] = self.error
        return info

    def block_info(self, dialect: Dialect) -> dict[str, Any]:
        """``BlockJobInfo``."""
        held = self.work.stays_until_told and self.status == "pending"
        info = {
            **self.event_data(),
            "busy": False,
            "paused": self.user_paused or held,
            "io-status": self.io_status,
            "ready": self.ready and self.status in ("ready", "standby"),
            "status": self.status,
            "auto-finalize": self.auto_finalize,
            "auto-dismiss": self.auto_dismiss,
        }
        if self.error:
            info["error"] = self.error
        if dialect.version >= (8, 2, 0) and "actively-synced" in self.details:
            info["actively-synced"] = self.details["actively-synced"]
        return info


class Jobs:
    """All jobs of a machine.

    Attributes:
        all: newest first.
        finished: those that wait until all of their transaction have started, if any do.
    """

    def __init__(self, dialect: Dialect, clock: Clock, emit: Emit) -> None:
        self.dialect = dialect
        self.clock = clock
        self.emit = emit
        self.all: list[Job] = []
        self._held: list[Job] | None = None
        self.finished: list[Job] | None = None

    def find(self, ident: str) -> Job:
        """The job of that id; CommandFailed if there is none."""
        for job in self.all:
            if job.ident == ident:
                return job
        raise CommandFailed("Job not found")

    def find_block_job(self, ident: str) -> Job:
        """The block job of that id; CommandFailed if there is none."""
        for job in self.all:
            if job.ident == ident and job.work.is_block_job:
                return job
        raise CommandFailed(f"Block job '{ident}' not found", "DeviceNotActive")

    def check_id(self, ident: str) -> None:
        """CommandFailed if a new job can't have that id."""
        if not _WELL_FORMED.fullmatch(ident):
            raise CommandFailed(f"Invalid job ID '{ident}'")
        if any(job.ident == ident for job in self.all):
            raise CommandFailed(f"Job ID '{ident}' already in use")

    def create(self, ident: str, work: Work, options: Mapping[str, Any]) -> Job:
        """Makes a job; ``options`` are the arguments of its command.

        Raises:
            CommandFailed: the id or the speed is none.
        """
        self.check_id(ident)
        job = Job(self, ident, work)
        job.auto_finalize = options.get("auto-finalize", True)
        job.auto_dismiss = options.get("auto-dismiss", True)
        self.all.insert(0, job)
        job.become("created")
        speed = options.get("speed", 0)
        if speed < 0:
            self.remove(job)
            raise CommandFailed("Parameter 'speed' expects a non-negative value")
        job.speed = speed
        return job

    def start(self, job: Job) -> None:
        """Lets a job run, now or when the transaction that it is in is complete."""
        if self._held is not None:
            self._held.append(job)
            return
        job.become("running")
        if job.work.held_at_start:
            job.pulse()
        job.work.started(job)

    def hold_starts(self) -> list[Job]:
        """Jobs don't start any more until ``let_start()``, which takes what this returns."""
        self._held = []
        return self._held

    def let_start(self, held: list[Job], *, run: bool) -> None:
        """Jobs start again; with ``run`` those that were to start meanwhile do so now."""
        self._held = None
        if run:
            start_together(self, held)

    def abort(self, job: Job) -> None:
        """A job that never ran ends, without a word of what it was for."""
        job.become("aborting")
        job.work.ended(job)
        job.become("concluded")
        self.remove(job)

    def pulse(self, times: int, *, but: Job | None = None) -> None:
        """Holds all jobs for a moment, so many times."""
        for _ in range(times):
            for job in self.all:
                if job is not but and job.work.is_block_job:
                    job.pulse()

    def succeed(self, job: Job) -> None:
        """The job has done its work."""
        if job.cancelled:
            self.fail(job)
            return
        job.become("waiting")
        if any(member.status != "waiting" for member in job.group):
            return
        for member in job.group:
            member.become("pending")
            if not member.auto_finalize and member.work.is_block_job:
                self.emit("BLOCK_JOB_PENDING", {"type": member.work.kind, "id": member.ident})
        if all(member.auto_finalize for member in job.group):
            conclude = self.conclude_group if self.finished is None else self.finished.append
            conclude(job)

    def conclude_group(self, job: Job) -> None:
        """The job, and those of its transaction, are finalized."""
        for member in list(job.group):
            member.work.succeeded(member)
            self._conclude(member, "BLOCK_JOB_COMPLETED")

    def fail(self, job: Job, error: str = "") -> None:
        """The job ends without success, and takes those of its transaction with it."""
        for member in [job, *(other for other in job.group if other is not job)]:
            if member.status in ("aborting", "concluded", "null"):
                continue
            if member is not job:
                member.cancelled = True
            member.become("aborting")
            cancelled = member.cancelled
            member.error = "Operation canceled" if cancelled else error
            event = "BLOCK_JOB_CANCELLED" if cancelled else "BLOCK_JOB_COMPLETED"
            self._conclude(member, event)

    def _conclude(self, job: Job, event: str) -> None:
        job.work.ended(job)
        if job.work.is_block_job:
            data = job.event_data()
            if job.error and event == "BLOCK_JOB_COMPLETED":
                data["error"] = job.error
            self.emit(event, data)
        job.become("concluded")
        if job.auto_dismiss:
            self.remove(job)

    def remove(self, job: Job) -> None:
        """The job is gone."""
        self.all.remove(job)
        job.become("null")

    def end_all(self) -> None:
        """QEMU ends: so do all jobs."""
        for job in list(self.all):
            if job.status == "concluded":
                self.remove(job)
                continue
            job.cancelled = True
            for _ in range(1 if self.dialect.version < (8, 0, 0) else 2):
                job.pulse()
            job.auto_dismiss = True
            self.fail(job)
