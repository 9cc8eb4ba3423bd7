"""One migration: how far it is, waited for, cancelled, and what became of it at both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_qmp.errors import QMPDisconnectedError, QMPError, QMPTimeoutError, VMMigrationError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import last_lines, nearest, printable
from pytest_qmp.vm.commands import MachineCommands, sooner
from pytest_qmp.vm.migration_routes import Route
from pytest_qmp.vm.oversight import indented
from pytest_qmp.vm.progress import Report, progress

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MIGRATION_STATUSES", "Migration", "OnProgress"]

#: The states that QEMU gives a migration.
MIGRATION_STATUSES = (
    *("none", "setup", "cancelling", "cancelled", "active", "postcopy-device", "postcopy-active"),
    *("postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "completed", "failing"),
    *("failed", "colo", "pre-switchover", "device", "wait-unplug"),
)

_ENDS = frozenset({"completed", "failed", "cancelled"})
_FIRST_LOOK_SECONDS = 0.25
_LAST_LOOK_SECONDS = 1.0
_END_SECONDS = 2.0
_LAST_WORDS_SECONDS = 1.0
# A destination whose stream breaks off ends itself: that is told here, and is no news of its own.
_EXPECTED_OF_DESTINATION = frozenset({"exit"})
#: Fields in which two machines may differ, and migrate all the same.
_FREE = frozenset(
    {"qemu", "accel", "name", "timeout", "allow", "console_watch", "env", "pass_fds", "incoming"}
    | {"paused", "consoles", "drives", "ports", "links", "capture"}
)

OnProgress = Callable[[int, int], object]


class Migration:
    """A migration that was begun, by ``vm.migrate()`` or ``vm.migrate_incoming()``.

    Args:
        source: whence; None where somebody else sends.
        destination: whither; None where a file or somebody else receives.
        route: the way that it takes.
    """

    def __init__(
        self, source: MachineCommands | None, destination: MachineCommands | None, route: Route
    ) -> None:
        self._source = source
        self._destination = destination
        self._route = route
        self._read = not route.stored or source is None
        self._last: dict[str, Any] = {}

    @property
    def info(self) -> dict[str, Any]:
        """What ``query-migrate`` says now, of the source where it is ours; kept from its end.

        Raises:
            QMPError: as ``execute``.
        """
        __tracebackhide__ = True
        machine = self._source or self._destination
        if machine is not None and self._last.get("status") not in _ENDS:
            self._last = dict(machine.execute("query-migrate"))
        return self._last

    @property
    def status(self) -> str:
        """Its state, such as ``active`` or ``completed``; asked for.

        Raises:
            QMPError: as ``execute``.
        """
        __tracebackhide__ = True
        return str(self.info.get("status", "none"))

    @property
    def progress(self) -> float:
        """What part of the guest's memory is sent, from 0.0 to 1.0; asked for.

        It falls again when the guest writes to what was sent.

        Raises:
            QMPError: as ``execute``.
        """
        __tracebackhide__ = True
        info = self.info
        if info.get("status") == "completed":
            return 1.0
        done, total = _sent(info)
        return done / total if total else 0.0

    def wait(
        self,
        status: str | Iterable[str] = "completed",
        timeout: Timeout = DEFAULT,
        *,
        on_progress: OnProgress | None = None,
    ) -> Self:
        """Waits until it is completed at both ends, or has another state at the source.

        Then the source stays stopped (run state ``postmigrate``), and the guest goes on in the
        destination, unless it was stopped before.

        Args:
            status: another state, or several, such as ``pre-switchover``.
            timeout: seconds; default: that of the source.
            on_progress: called from time to time with the bytes of memory that were sent, and
                with all that there are.

        Returns:
            The migration itself.

        Raises:
            VMMigrationError: it failed or was cancelled; the text has the words of both ends.
            QMPTimeoutError: the text tells its state and how far it is.
            VMVerdictError: something happened to one of the guests meanwhile.
        """
        __tracebackhide__ = True
        wanted = {status} if isinstance(status, str) else set(status)
        for name in sorted(wanted.difference(MIGRATION_STATUSES)):
            raise VMMigrationError(
                f"no migration is ever {name!r}{nearest(name, MIGRATION_STATUSES)}\n"
                f"The states are: {', '.join(MIGRATION_STATUSES)}"
            )
        machine = self._source or self._destination
        if machine is None:
            return self
        deadline = machine._deadline(timeout)
        with self._receiving(), progress(f"migration {self._between()}") as report:
            try:
                if self._source is not None:
                    found = self._settle(self._source, wanted, deadline, report, on_progress)
                    if found != "completed":
                        return self
                if self._destination is not None:
                    self._arrive(self._destination, deadline)
            except (VMMigrationError, QMPDisconnectedError):
                self._abandon()
                raise
        self._route.close()
        return self

    def cancel(self, timeout: Timeout = DEFAULT) -> str:
        """Cancels it (``migrate_cancel``) and waits until it has come to an end.

        The source goes on. A destination that was in the middle of it ends.

        Args:
            timeout: seconds.

        Returns:
            The state in which it ended: ``cancelled``, or ``completed`` if it was too late.

        Raises:
            VMMigrationError: the source is none of ours.
            QMPTimeoutError: it does not come to an end.
        """
        __tracebackhide__ = True
        source = self._source
        if source is None:
            raise VMMigrationError("a migration is cancelled where it comes from")
        deadline = source._deadline(timeout)
        with self._receiving():
            source.execute("migrate_cancel", timeout=deadline)
            found = self._look_until(source, _ENDS, deadline)
            if found not in _ENDS:
                raise self._too_late({"cancelled"}, deadline, found)
            if found != "completed":
                self._await_end_of_destination()
        self._route.close()
        return found

    # -- waiting -----------------------------------------------------------------------------------

    def begin(self, begin: Callable[[], None]) -> None:
        """Has it begin; what a destination does that was told in vain is no news of its own.

        Args:
            begin: tells both ends.
        """
        __tracebackhide__ = True
        with self._receiving():
            try:
                begin()
            except QMPError:
                self._abandon()
                raise
            except BaseException:
                self._route.close()
                raise

    def _abandon(self) -> None:
        self._route.close()
        self._await_end_of_destination()

    def _settle(
        self,
        source: MachineCommands,
        wanted: set[str],
        deadline: Deadline,
        report: Report,
        on_progress: OnProgress | None,
    ) -> str:
        """Waits for a state at the source, and has the destination read what is stored."""
        __tracebackhide__ = True

        def look(info: Mapping[str, Any]) -> None:
            done, total = _sent(info)
            if total:
                report(done, total, "bytes")
                if on_progress is not None:
                    on_progress(done, total)

        found = self._look_until(source, wanted | _ENDS, deadline, look)
        if found not in wanted:
            if found in _ENDS:
                raise self._failed(found)
            raise self._too_late(wanted, deadline, found)
        if found == "completed":
            # Told a moment before; a snapshot in the background lets it run.
            source._await_status(("postmigrate", "running"), deadline)
            if not self._read and self._destination is not None:
                self._read = True
                self._route.receive(self._destination.qmp, deadline)
        return found

    def _arrive(self, destination: MachineCommands, deadline: Deadline) -> None:
        __tracebackhide__ = True
        try:
            found = self._look_until(destination, _ENDS, deadline)
        except QMPDisconnectedError:
            raise self._failed("gone") from None
        if found != "completed":
            raise self._failed(found) if found in _ENDS else self._too_late(_ENDS, deadline, found)

    def _look_until(
        self,
        machine: MachineCommands,
        wanted: Iterable[str],
        deadline: Deadline,
        look: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> str:
        """The state of a machine's side, once it is a wanted one, or at the deadline."""
        __tracebackhide__ = True
        pause = _FIRST_LOOK_SECONDS
        while True:
            seen = machine.events.total
            info = self._ask(machine, deadline)
            if info is None:
                return "silent (QEMU does not answer)"
            if machine is (self._source or self._destination):
                self._last = info
            if look is not None:
                look(info)
            found = str(info.get("status", "none"))
            if found in wanted or deadline.expired:
                return found
            # How much is sent, no event tells; and events can be switched off.
            if not machine.qmp.wait_for_news(seen, sooner(deadline, pause)):
                pause = min(2 * pause, _LAST_LOOK_SECONDS)

    @staticmethod
    def _ask(machine: MachineCommands, deadline: Deadline) -> dict[str, Any] | None:
        __tracebackhide__ = True
        # The last look is for the message, and may come a moment too late.
        for limit in (deadline, Deadline(_LAST_WORDS_SECONDS)):
            if limit is not deadline or not deadline.expired:
                try:
                    return dict(machine.execute("query-migrate", timeout=limit))
                except QMPTimeoutError:
                    continue
        return None

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        if self._destination is None:
            yield
            return
        board = self._destination._oversight.board
        with board.permitting(_EXPECTED_OF_DESTINATION):
            board.forgive(_EXPECTED_OF_DESTINATION)
            yield

    def _await_end_of_destination(self) -> None:
        """One whose stream has broken off ends itself, a moment later."""
        destination = self._destination
        if destination is None or destination.backend == "external" or not self._route.begun:
            return
        if destination._reap(Deadline(_END_SECONDS)) is not None:
            destination._oversight.board.wait_until_all_seen(Deadline(_END_SECONDS))

    # -- what is said ------------------------------------------------------------------------------

    def _between(self) -> str:
        if self._source is None:
            whither = "" if self._destination is None else self._destination.label
            return f"from {self._route} to {whither}"
        if self._destination is None:
            return f"of {self._source.label} to {self._route}"
        return f"of {self._source.label} to {self._destination.label} by {self._route}"

    def _failed(self, found: str) -> VMMigrationError:
        self._await_end_of_destination()
        verb = "was cancelled" if found == "cancelled" else "failed"
        text = f"the migration {self._between()} {verb}."
        here: dict[str, Any] = {}
        there: dict[str, Any] = {}
        if self._source is not None:
            here, words = _words_of(self._source)
            text += f"\nThe source {self._source}: {words}"
        if self._destination is not None:
            there, words = _words_of(self._destination)
            text += f"\nThe destination {self._destination}: {words}"
        return VMMigrationError(text + self._advice(found), info=here, destination=there)

    def _advice(self, found: str) -> str:
        if found == "cancelled":
            return "\nIf the test wants this, it cancels by the migration's own cancel()"
        source, destination = self._source, self._destination
        if source is None or destination is None:
            return "\nBoth ends need the same machine, CPU, memory and devices"
        differences = [
            f"{one.name}={mine!r} and {their!r}"
            for one in fields(source.config)
            if one.name not in _FREE
            and (mine := getattr(source.config, one.name))
            != (their := getattr(destination.config, one.name))
        ]
        if not differences:
            return ""
        return (
            "\nBoth ends need the same machine, CPU, memory and devices; source and destination "
            f"have {'; '.join(differences)}"
        )

    def _too_late(self, wanted: Iterable[str], deadline: Deadline, found: str) -> QMPTimeoutError:
        done, total = _sent(self._last)
        far = f", {done} of {total} bytes of memory are sent" if total else ""
        ram = self._last.get("ram", {})
        todo = "execute('migrate_cancel') at the source ends it"
        if found == "pre-switchover":
            todo = "execute('migrate-continue', state='pre-switchover') lets it go on; " + todo
        elif ram.get("dirty-sync-count", 0) > 2:
            todo = (
                "the guest writes its memory as fast as it is sent: give parameters a larger "
                "downtime-limit or max-bandwidth, or capabilities=['auto-converge']; " + todo
            )
        return QMPTimeoutError(
            f"waited {deadline.words} for the migration {self._between()} to be "
            f"{' or '.join(sorted(wanted))}, in vain: it is {found}{far}.\nIt goes on: {todo}"
        )

    def __repr__(self) -> str:
        return f"<migration {self._between()}>"


def _sent(info: Mapping[str, Any]) -> tuple[int, int]:
    ram = info.get("ram", {})
    total = int(ram.get("total", 0))
    return max(0, total - int(ram.get("remaining", 0))), total


def _words_of(machine: MachineCommands) -> tuple[dict[str, Any], str]:
    """What ``query-migrate`` says of a machine's side, and that and its own words in one."""
    info: dict[str, Any] = {}
    try:
        info = dict(machine.execute("query-migrate", timeout=Deadline(_END_SECONDS)))
        run_state = machine.execute("query-status", timeout=Deadline(_END_SECONDS))["status"]
        words = f"{info.get('status', 'no migration')}, run state {run_state}"
        if "error-desc" in info:
            words += f": {printable(str(info['error-desc']))}"
        stderr = last_lines(machine.stderr)
        return info, words + (f"\nIt wrote:\n{indented(stderr)}" if stderr else "")
    except QMPError as error:
        return info, machine.explain_end() or str(error)
