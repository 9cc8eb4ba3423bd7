"""Commands about jobs that are there: verbs and queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..jobs import Job
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()


def _job(context: Context, arguments: Mapping[str, Any]) -> Job:
    return context.machine.block.jobs.find(arguments["id"])


def _block_job(context: Context, arguments: Mapping[str, Any]) -> Job:
    ident = arguments["device"] if "device" in arguments else arguments["id"]
    return context.machine.block.jobs.find_block_job(ident)


@commands.handles("query-jobs")
def query_jobs(context: Context, arguments: Mapping[str, Any]) -> Any:
    return [job.info() for job in context.machine.block.jobs.all]


@commands.handles("query-block-jobs")
def query_block_jobs(context: Context, arguments: Mapping[str, Any]) -> Any:
    jobs = context.machine.block.jobs.all
    return [job.block_info(context.dialect) for job in jobs if job.work.is_block_job]


@commands.handles("job-pause")
def job_pause(context: Context, arguments: Mapping[str, Any]) -> Any:
    _job(context, arguments).pause()
    return {}


@commands.handles("job-resume")
def job_resume(context: Context, arguments: Mapping[str, Any]) -> Any:
    _job(context, arguments).resume()
    return {}


@commands.handles("job-cancel")
def job_cancel(context: Context, arguments: Mapping[str, Any]) -> Any:
    _job(context, arguments).cancel(force=True)
    return {}


@commands.handles("job-complete")
def job_complete(context: Context, arguments: Mapping[str, Any]) -> Any:
    _job(context, arguments).complete()
    return {}


@commands.handles("job-finalize")
def job_finalize(context: Context, arguments: Mapping[str, Any]) -> Any:
    _job(context, arguments).finalize()
    return {}


@commands.handles("job-dismiss")
def job_dismiss(context: Context, arguments: Mapping[str, Any]) -> Any:
    _job(context, arguments).dismiss()
    return {}


@commands.handles("block-job-pause")
def block_job_pause(context: Context, arguments: Mapping[str, Any]) -> Any:
    _block_job(context, arguments).pause()
    return {}


@commands.handles("block-job-resume")
def block_job_resume(context: Context, arguments: Mapping[str, Any]) -> Any:
    _block_job(context, arguments).resume()
    return {}


@commands.handles("block-job-cancel")
def block_job_cancel(context: Context, arguments: Mapping[str, Any]) -> Any:
    job = _block_job(context, arguments)
    force = arguments.get("force", False)
    if job.user_paused and not force:
        raise CommandFailed(f"The block job for device '{job.ident}' is currently paused")
    job.cancel(force=force)
    return {}


@commands.handles("block-job-complete")
def block_job_complete(context: Context, arguments: Mapping[str, Any]) -> Any:
    _block_job(context, arguments).complete()
    return {}


@commands.handles("block-job-finalize")
def block_job_finalize(context: Context, arguments: Mapping[str, Any]) -> Any:
    _block_job(context, arguments).finalize()
    return {}


@commands.handles("block-job-dismiss")
def block_job_dismiss(context: Context, arguments: Mapping[str, Any]) -> Any:
    _block_job(context, arguments).dismiss()
    return {}


@commands.handles("block-job-set-speed")
def block_job_set_speed(context: Context, arguments: Mapping[str, Any]) -> Any:
    job = _block_job(context, arguments)
    job.accept("set-speed")
    if arguments["speed"] < 0:
        raise CommandFailed("Parameter 'speed' expects a non-negative value")
    job.set_speed(arguments["speed"])
    return {}


@commands.handles("block-job-change")
def block_job_change(context: Context, arguments: Mapping[str, Any]) -> Any:
    job = _block_job(context, arguments)
    job.accept("change")
    if job.work.kind != "mirror":
        raise CommandFailed("Job type does not support change")
    # What another type's arguments leave out is the first mode.
    mode = arguments.get("copy-mode", "background")
    if mode == job.details.get("copy-mode"):
        return {}
    if mode == "background":
        raise CommandFailed("Change to copy mode 'background' is not implemented")
    job.details["copy-mode"] = mode
    return {}
