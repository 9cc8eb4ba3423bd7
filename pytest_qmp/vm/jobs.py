"""Background jobs: started, waited for, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from pytest_qmp.errors import QMPCommandError, QMPError, QMPTimeoutError, VMJobError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventMatcher
from pytest_qmp.qmp.messages import argument_name
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import nearest, printable
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands, sooner
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.job_story import JOB_EVENTS, JOB_STATUSES, JobInfo, JobStory
from pytest_qmp.vm.progress import Report, progress

__all__ = ["MachineJobs"]

_FIRST_LOOK_SECONDS = 0.5
_LAST_LOOK_SECONDS = 2.0
_LAST_WORDS_SECONDS = 1.0

OnProgress = Callable[[int, int], object]


class MachineJobs(MachineCommands):
    """The background jobs of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._jobs_started = 0

    def run_job(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout = DEFAULT,
        complete: bool = True,
        finalize: bool = True,
        dismiss: bool = True,
        check: bool = True,
        on_progress: OnProgress | None = None,
        **keywords: Any,
    ) -> JobInfo:
        """Runs a command that starts a job, and waits until the job is over.

        Such are ``blockdev-backup``, ``blockdev-create``, ``blockdev-mirror``, ``block-commit``,
        ``block-stream``, ``drive-backup``, ``drive-mirror``, ``snapshot-save`` and so on. Its
        events are only looked at: ``wait_for_event("BLOCK_JOB_COMPLETED")`` still finds them.

        Args:
            command: its name.
            arguments: its arguments, as for ``execute``. Without a ``job-id`` one is chosen.
            timeout: seconds for all of it.
            complete: True completes a job that is ready, as a mirror gets or the commit of an
                active layer; False returns once it is ready, and the job runs on.
            finalize: True finalizes a job that was started with ``auto-finalize`` false; False
                returns once it is pending.
            dismiss: True dismisses a job that stays in the list once it is over.
            check: False returns what is known also of a job that failed.
            on_progress: called with ``(done, total)`` from time to time, and at the end.
            keywords: more arguments; ``_`` in a name stands for ``-``.

        Returns:
            What is known of the job at the end.

        Raises:
            QMPCommandError: QEMU refused the command.
            VMJobError: the job failed, was cancelled, or waits for an I/O error to be mended.
            QMPTimeoutError: it runs on; the text tells its state and how far it is.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        given = {argument_name(command, key): value for key, value in keywords.items()}
        given = {**(arguments or {}), **given}
        chosen = "job-id" not in given
        if chosen:
            self._jobs_started += 1
            given["job-id"] = f"{command}-{self._jobs_started}"
        story = JobStory(str(given["job-id"]))
        cursor = self.events.total
        try:
            self.qmp.execute(command, given, timeout=deadline)
        except QMPCommandError as error:
            if chosen and "'job-id' is unexpected" in error.desc:
                raise VMJobError(
                    f"{command!r} starts no job with an id, so there is nothing to wait for: use "
                    "execute(), and wait_for_job() for each job that it starts"
                ) from None
            raise
        wanted, verbs = {"concluded"}, {}
        if complete:
            verbs["ready"] = "job-complete"
        else:
            wanted.add("ready")
        if given.get("auto-finalize") is False:
            # Other jobs are pending, too, but only in passing.
            if finalize:
                verbs["pending"] = "job-finalize"
            else:
                wanted.add("pending")
        return self._follow(
            story,
            cursor,
            wanted,
            deadline,
            verbs=verbs,
            dismiss=dismiss,
            check=check,
            on_progress=on_progress,
        )

    def wait_for_job(
        self,
        id: str,
        status: str | Iterable[str] = "concluded",
        timeout: Timeout = DEFAULT,
        *,
        dismiss: bool = False,
        check: bool = True,
        on_progress: OnProgress | None = None,
    ) -> JobInfo:
        """Waits until a job has a state, or one of several; a job that is over already counts.

        Args:
            id: the job's; for a block job that was started without one, its device.
            status: ``concluded`` (it is over), ``ready``, ``pending``, ``running``, ``paused``, …
            timeout: seconds.
            dismiss: True dismisses a job that stays in the list once it is over.
            check: False returns what is known also of a job that failed.
            on_progress: called with ``(done, total)`` from time to time, and at the end.

        Returns:
            What is known of the job.

        Raises:
            VMJobError: the job failed, was cancelled, is over without having had that state, waits
                for an I/O error to be mended, or there is none of that id.
            QMPTimeoutError: the text tells its state and how far it is.
        """
        __tracebackhide__ = True
        wanted = {status} if isinstance(status, str) else set(status)
        for name in sorted(wanted.difference(JOB_STATUSES)):
            raise VMJobError(
                f"no job is ever {name!r}{nearest(name, JOB_STATUSES)}\n"
                f"The states are: {', '.join(JOB_STATUSES)}"
            )
        deadline = self._deadline(timeout)
        story = JobStory(id)
        cursor = self.events.total
        jobs = self.qmp.execute("query-jobs", timeout=deadline)
        if story.look(jobs):
            self._look_for_io_error(story, deadline)
        else:
            cursor = self.events.total
            story.read(self.events)
        if not story.seen:
            known = [str(job["id"]) for job in jobs]
            raise VMJobError(
                f"{self} has no job {id!r}, and no event told of one{nearest(id, known)}\n"
                f"The jobs are: {', '.join(map(repr, known)) or 'none'}"
            )
        return self._follow(
            story, cursor, wanted, deadline, dismiss=dismiss, check=check, on_progress=on_progress
        )

    def _follow(
        self,
        story: JobStory,
        cursor: int,
        wanted: Collection[str],
        deadline: Deadline,
        *,
        verbs: Mapping[str, str] | None = None,
        dismiss: bool,
        check: bool,
        on_progress: OnProgress | None,
    ) -> JobInfo:
        """Waits until a job has a wanted state, or is over.

        Args:
            story: of the job, with what is known already.
            cursor: the number of the first event that the story has not seen.
            wanted: states.
            deadline: of the wait.
            verbs: commands that take the job on from a state, unless that one is wanted.
            dismiss: as for ``run_job``, and so are the others.
        """
        __tracebackhide__ = True
        matcher = EventMatcher(JOB_EVENTS, story.concerns)
        pause = _FIRST_LOOK_SECONDS
        asked = ""
        with progress(f"{story} of {self.label}") as report:
            while True:
                events = self.qmp.events
                seen = events.total
                while story.status not in wanted:
                    found = events.find(matcher, cursor)
                    if found is None:
                        break
                    cursor = found[0] + 1
                    story.tell(found[1])
                if story.over or story.status in wanted:
                    break
                if story.io_error is not None and story.status == "paused":
                    raise self._paused(story)
                if story.status != asked:
                    asked = story.status
                    if verbs and asked in verbs:
                        self._take_on(verbs[asked], story, deadline)
                        continue
                if deadline.expired:
                    raise self._too_late(story, wanted, deadline, on_progress)
                if not self.qmp.wait_for_news(seen, sooner(deadline, pause)):
                    # How far it is, no event tells; and another wait may have taken one.
                    self._look(story, deadline, report, on_progress)
                    pause = min(2 * pause, _LAST_LOOK_SECONDS)
        return self._outcome(
            story,
            wanted,
            # What became of it is asked for, even if the wait itself has used up its time.
            Deadline(_LAST_WORDS_SECONDS) if deadline.expired else deadline,
            dismiss=dismiss,
            check=check,
            on_progress=on_progress,
        )

    def _look(
        self, story: JobStory, deadline: Deadline, report: Report, on_progress: OnProgress | None
    ) -> None:
        __tracebackhide__ = True
        if deadline.expired:
            return
        if not story.look(self.qmp.execute("query-jobs", timeout=deadline)):
            story.read(self.events)
            return
        info = story.info
        report(info.done, info.total)
        if on_progress is not None:
            on_progress(info.done, info.total)

    def _take_on(self, verb: str, story: JobStory, deadline: Deadline) -> None:
        """Completes a job that is ready, or finalizes one that is pending."""
        __tracebackhide__ = True
        try:
            self.qmp.execute(verb, {"id": story.ident}, timeout=deadline)
        except QMPCommandError:
            # It may have gone on by itself, or been paused for a moment.
            before = story.status
            jobs = self.qmp.execute("query-jobs", timeout=deadline)
            if story.look(jobs) and story.status == before:
                raise

    def _outcome(
        self,
        story: JobStory,
        wanted: Collection[str],
        deadline: Deadline,
        *,
        dismiss: bool,
        check: bool,
        on_progress: OnProgress | None,
    ) -> JobInfo:
        __tracebackhide__ = True
        stays = story.look(self.qmp.execute("query-jobs", timeout=deadline))
        info = story.info
        if on_progress is not None:
            on_progress(info.done, info.total)
        if not story.over:
            return info
        if stays and dismiss:
            self.qmp.execute("job-dismiss", {"id": story.ident}, timeout=deadline)
        if not check:
            return info
        if info.error or info.cancelled:
            raise self._failed(story, info)
        if not {"concluded", "null"}.intersection(wanted):
            raise VMJobError(
                f"{story} of {self} is over, and was not {_either(wanted)} since it was waited "
                f"for: {info.far()}",
                info=info,
            )
        return info

    def _failed(self, story: JobStory, info: JobInfo) -> VMJobError:
        if info.cancelled:
            return VMJobError(
                f"{story} of {self} was cancelled ({info.far()}). If the test wants this, it says "
                "so: check=False returns what is known of the job instead",
                info=info,
            )
        return VMJobError(
            f"{story} of {self} failed ({info.far()}): {printable(info.error)}\n"
            "Mend what QEMU complains of, or have check=False return this as info.error"
            + self._said_of_it(),
            info=info,
        )

    def _paused(self, story: JobStory) -> VMJobError:
        data = story.io_error.data if story.io_error is not None else {}
        return VMJobError(
            f"{story} of {self} is paused ({story.info.far()}): "
            f"a {data.get('operation', 'request')} failed, and what it was told for that "
            "(on-error, on-target-error, …) is to stop (BLOCK_JOB_ERROR)\n"
            f"Mend the cause and go on with execute('job-resume', id={story.ident!r}) and "
            f"wait_for_job({story.ident!r}), or end it with execute('block-job-cancel', "
            f"device={story.ident!r}, force=True)" + self._said_of_it(),
            info=story.info,
        )

    def _said_of_it(self) -> str:
        said = self.stderr.strip()
        return f"\nQEMU wrote:\n{printable(said[-1000:])}" if said else ""

    def _too_late(
        self,
        story: JobStory,
        wanted: Collection[str],
        deadline: Deadline,
        on_progress: OnProgress | None,
    ) -> QMPTimeoutError:
        far = ""
        try:
            jobs = self.qmp.execute("query-jobs", timeout=Deadline(_LAST_WORDS_SECONDS))
        except QMPError:
            pass  # Then what the events told has to do.
        else:
            story.look(jobs)
            info = story.info
            far = f" ({info.far()})"
            if on_progress is not None:
                on_progress(info.done, info.total)
        todo = {
            "ready": f"execute('job-complete', id={story.ident!r}) lets it end",
            "standby": "it goes on once the machine runs, or the block node is free again",
            "pending": f"execute('job-finalize', id={story.ident!r}) lets it end",
            "paused": f"execute('job-resume', id={story.ident!r}) lets it go on",
        }.get(story.status, "a longer timeout, or a higher speed, may be all it takes")
        return QMPTimeoutError(
            f"waited {deadline.words} for {story} of {self} to be {_either(wanted)}, in vain: it "
            f"is {story.status or 'unheard of'}{far}.\nIt is still there: {todo}; "
            f"execute('job-cancel', id={story.ident!r}) ends it"
        )

    def _look_for_io_error(self, story: JobStory, deadline: Deadline) -> None:
        """A job that was paused by an I/O error before it was waited for is known by its state."""
        __tracebackhide__ = True
        if story.status != "paused":
            return
        for job in self.qmp.execute("query-block-jobs", timeout=deadline):
            if job["device"] == story.ident and job.get("io-status", "ok") != "ok":
                story.read(self.events)


def _either(wanted: Collection[str]) -> str:
    return " or ".join(sorted(wanted, key=JOB_STATUSES.index))
