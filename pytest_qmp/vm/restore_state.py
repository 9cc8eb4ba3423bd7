"""A machine's state, written to a file by migration, and read from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytest_qmp.errors import QMPCommandError, VMError
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventMatcher
from pytest_qmp.qmp.messages import QMPVersion
from pytest_qmp.vm.restore_files import opened_anew

__all__ = ["blockers", "load_state", "migrates_to_files", "write_state"]

_NAME = "pytest-qmp-state"
_ENDS = EventMatcher(
    "MIGRATION", lambda event: event.data.get("status") in ("completed", "failed", "cancelled")
)
#: No limit, in bytes a second, as far as QEMU takes it.
_NO_LIMIT = 1 << 50


def migrates_to_files(version: QMPVersion) -> bool:
    """Whether that QEMU has ``file:``; the newest ones take no file by ``fd:`` any more."""
    return version >= (8, 2)


def blockers(qmp: QMPClient, deadline: Deadline) -> list[str]:
    """Why the machine can't migrate, in QEMU's words; empty if it knows of nothing."""
    found = qmp.execute("query-migrate", timeout=deadline)
    return [str(one) for one in found.get("blocked-reasons", [])]


def write_state(qmp: QMPClient, fd: int, deadline: Deadline, *, ignore_shared: bool) -> None:
    """Writes the state of a stopped machine to a file.

    Args:
        qmp: its monitor.
        fd: the file.
        ignore_shared: True leaves out the memory that is in a shared file.

    Raises:
        VMError: the machine can't migrate; with QEMU's reason.
        QMPTimeoutError: it took too long.
    """
    mark = qmp.events.total
    with _settings(qmp, deadline, ignore_shared=ignore_shared):
        if migrates_to_files(qmp.version):
            writable = opened_anew(fd, os.O_WRONLY)
            try:
                fdset = qmp.execute("add-fd", fds=[writable], timeout=deadline)["fdset-id"]
            finally:
                os.close(writable)
            uri = f"file:/dev/fdset/{fdset}"
        else:
            qmp.execute("getfd", {"fdname": _NAME}, fds=[fd], timeout=deadline)
            uri = f"fd:{_NAME}"
        try:
            _migrate(qmp, uri, mark, deadline)
        finally:
            if migrates_to_files(qmp.version):
                qmp.execute("remove-fd", {"fdset-id": fdset}, timeout=deadline)
            qmp.events.rewind(mark)


def _migrate(qmp: QMPClient, uri: str, mark: int, deadline: Deadline) -> None:
    try:
        qmp.execute("migrate", {"uri": uri}, timeout=deadline)
    except QMPCommandError as error:
        raise VMError(f"the machine's state can't be saved: {error.desc}") from error
    event = qmp.wait_for_event_since(mark, _ENDS, deadline, keep=True)
    if event.data["status"] != "completed":
        found = qmp.execute("query-migrate", timeout=deadline)
        reason = found.get("error-desc") or "QEMU does not say why"
        raise VMError(f"the machine's state can't be saved: {reason}")
    # No event tells that it is through with it: its main loop is, as soon as it gets to that.
    while qmp.execute("query-status", timeout=deadline)["status"] == "finish-migrate":
        if deadline.expired:
            raise VMError("the machine's state was saved, but QEMU does not finish with it")


@contextmanager
def _settings(qmp: QMPClient, deadline: Deadline, *, ignore_shared: bool) -> Iterator[None]:
    """Has migration as it is needed here, and afterwards as it was."""
    wanted = {"events": True, "x-ignore-shared": ignore_shared}
    before = {
        one["capability"]: bool(one["state"])
        for one in qmp.execute("query-migrate-capabilities", timeout=deadline)
    }
    limit = qmp.execute("query-migrate-parameters", timeout=deadline)["max-bandwidth"]
    _set_capabilities(qmp, wanted, deadline)
    qmp.execute("migrate-set-parameters", {"max-bandwidth": _NO_LIMIT}, timeout=deadline)
    try:
        yield
    finally:
        _set_capabilities(qmp, {name: before[name] for name in wanted}, deadline)
        qmp.execute("migrate-set-parameters", {"max-bandwidth": limit}, timeout=deadline)


def _set_capabilities(qmp: QMPClient, wanted: Mapping[str, bool], deadline: Deadline) -> None:
    listed: list[dict[str, Any]] = [
        {"capability": name, "state": state} for name, state in wanted.items()
    ]
    qmp.execute("migrate-set-capabilities", {"capabilities": listed}, timeout=deadline)


def load_state(qmp: QMPClient, fd: int, deadline: Deadline, *, ignore_shared: bool) -> None:
    """Has a machine that was started with ``-incoming defer`` begin with a saved state.

    Args:
        qmp: its monitor.
        fd: the file's number in QEMU, which has inherited it.
        ignore_shared: as it was when the state was written.

    Raises:
        VMError: QEMU refuses it.
        QMPDisconnectedError: it does not fit, by which QEMU ends.
    """
    mark = qmp.events.total
    _set_capabilities(qmp, {"events": True, "x-ignore-shared": ignore_shared}, deadline)
    uri = f"file:/proc/self/fd/{fd}" if migrates_to_files(qmp.version) else f"fd:{fd}"
    try:
        qmp.execute("migrate-incoming", {"uri": uri}, timeout=deadline)
    except QMPCommandError as error:
        raise VMError(f"the saved state can't be loaded: {error.desc}") from error
    event = qmp.wait_for_event_since(mark, _ENDS, deadline, keep=True)
    if event.data["status"] != "completed":
        raise VMError(f"the saved state can't be loaded: the migration has {event.data['status']}")
    _set_capabilities(qmp, {"events": False, "x-ignore-shared": False}, deadline)
    qmp.events.rewind(mark)
