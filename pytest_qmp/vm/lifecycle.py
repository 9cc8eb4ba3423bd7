"""A machine's life: started, waited for, ended, and what can be said of it."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_qmp.errors import (
    QMPDisconnectedError,
    QMPError,
    QMPTimeoutError,
    VMConfigError,
    VMError,
    VMLaunchError,
)
from pytest_qmp.qmp.client import QMPClient
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import last_lines
from pytest_qmp.vm import endings
from pytest_qmp.vm.argv import required_files, starts_held
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.identity import MachineIdentity
from pytest_qmp.vm.oversight import indented
from pytest_qmp.vm.process import describe_exit
from pytest_qmp.vm.verdicts import check_kinds

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = ["MachineLife"]

_CONNECT_SECONDS = 5.0
_QUIT_SECONDS = 2.0
_TERMINATE_SECONDS = 1.0
_KILL_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0
_ENDS = frozenset({"shutdown", "exit"})


class MachineLife(MachineIdentity):
    """Starts and ends a machine, whatever runs it. ``VirtualMachine`` adds what a test does.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def start(self) -> Self:
        """Starts the machine and waits until its monitor answers.

        Returns:
            The machine itself.

        Raises:
            VMLaunchError: it did not start; the text has QEMU's own words, its exit status and
                the full command line.
        """
        __tracebackhide__ = True
        if self._closed:
            raise VMError(f"{self} has ended; make a new one")
        if self._qmp is not None:
            return self
        # A QEMU of somebody else's runs already, or is about to: nobody boots in this wait.
        patience = _CONNECT_SECONDS if self._backend.kind == "external" else self._timeout
        deadline = limits.deadline(min(patience, self._timeout))
        endings.started(self)
        try:
            wires = self._backend.start(tuple(self.config.consoles), deadline)
            if wires.second_monitor is not None:
                self._releases.append(wires.second_monitor.close)
                self._oversight.open_tap(wires.second_monitor)
            self._agent_socket = wires.guest_agent
            if wires.guest_agent is not None:
                self._releases.append(wires.guest_agent.close)
            for name, sock in wires.consoles.items():
                self._connect_console(name, sock)
            self._qmp = QMPClient.connect(
                wires.monitor,
                timeout=deadline,
                peer=self._peer_name(),
            )
            self._oversight.watch_machine(deadline)
            self._begin(self._qmp, deadline)
        except BaseException as error:
            try:
                failure = self._launch_failure(error)
            finally:
                self.close()
            if failure is not None:
                raise failure from None
            raise
        self._qmp.timeout = self._timeout
        self._qmp.explain_loss = self.explain_end
        self._qmp.watch(self._oversight.board)
        self._oversight.board.add_wait(self._qmp.look_again)
        return self

    def _begin(self, qmp: QMPClient, deadline: Deadline) -> None:
        """What comes between the machine's first words and the test."""
        if self._backend.kind != "external" and starts_held(self.config):
            self._let_go(qmp, deadline)

    def _let_go(self, qmp: QMPClient, deadline: Deadline) -> None:
        # What the guest does at once is no failure of the start: the test's first wait meets it.
        try:
            qmp.execute("cont", timeout=deadline)
        except QMPDisconnectedError:
            return  # The guest was that quick: its events are here, and tell.
        # Nobody asked for this one: a test's own wait for RESUME must not find it.
        qmp.events.forget("RESUME")

    def _peer_name(self) -> str:
        return f"QEMU ({self.label})" if self._backend.kind == "qemu" else self._backend.description

    def _connect_console(self, name: str, sock: socket.socket) -> None:
        self._oversight.watch_console(name, sock)
        self._releases.append(sock.close)
        self._sockets[name] = sock

    def _launch_failure(self, error: BaseException) -> VMLaunchError | None:
        """What to raise for an error at the start; None if the error says it all itself."""
        if not isinstance(error, QMPError) or isinstance(error, VMError):
            return None
        if self._backend.kind == "external":
            return None
        died = isinstance(error, QMPDisconnectedError)
        status = self._backend.wait(Deadline(_LAST_WORDS_SECONDS if died else 0))
        if status is None:
            what = f"{self._backend.argv[0]} did not get ready, and was ended: {error}"
        else:
            what = f"QEMU did not start: it {describe_exit(status)}"
            if status == 0:
                what += " (an argument made it print something and leave?)"
        stderr = self._backend.stderr()
        said = last_lines(stderr) or "(nothing)"
        command = shlex.join(self._backend.argv)
        return VMLaunchError(
            f"{what}\nIt wrote:\n{indented(said)}\nThe command line was:\n  {command}",
            argv=self._backend.argv,
            exit_status=status,
            stderr=stderr,
        )

    def wait(self, timeout: Timeout = DEFAULT) -> int:
        """Waits until the machine has ended by itself.

        Args:
            timeout: seconds.

        Returns:
            QEMU's exit status, negative for a signal.

        Raises:
            QMPTimeoutError: it runs on.
            VMVerdictError: something else happened to it first, such as a panic.
            VMError: somebody else started it, so its exit status can't be known.
        """
        __tracebackhide__ = True
        if self._backend.kind == "external":
            raise VMError(f"{self._backend.description} has an exit status only for who started it")
        deadline = self._deadline(timeout)
        board = self._oversight.board
        with board.permitting(_ENDS):
            board.forgive(_ENDS)
            board.wait_for_end(deadline)
        unmet = board.unmet
        if unmet is not None:
            raise board.failure(unmet, f"while the end of {self} was awaited")
        status = self._reap(deadline)
        if status is None:
            raise QMPTimeoutError(
                f"waited {deadline.words} for {self} to end, but it runs on"
                f"{self._status_now()}.{self._shown_console()}"
            )
        return status

    def _status_now(self) -> str:
        try:
            return (
                f" (run state: {self.qmp.execute('query-status', timeout=Deadline(1.0))['status']})"
            )
        except QMPError:
            return ""

    def quit(self, timeout: Timeout = DEFAULT) -> int:
        """Ends QEMU (``quit``) and waits for it.

        Returns:
            Its exit status.

        Raises:
            QMPTimeoutError: it did not end in time.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        try:
            self.qmp.execute("quit", timeout=deadline)
        except QMPDisconnectedError:
            if self._reap(Deadline(_LAST_WORDS_SECONDS)) is None:
                raise
        return self.wait(deadline)

    def kill(self) -> int | None:
        """Kills the process (SIGKILL) and reaps it.

        Returns:
            The exit status: -9 unless it had ended before.
        """
        __tracebackhide__ = True
        self._oversight.board.ask_to_end()
        if self._reap(Deadline(0)) is None:
            self._backend.kill()
        return self._reap(Deadline(_KILL_SECONDS))

    def close(self) -> None:
        """Ends the machine: quit, then SIGTERM, then SIGKILL, each with its time. Idempotent.

        A QEMU that somebody else started is left running, and one that the process started of
        which this one is a fork.
        """
        if self._closed:
            return
        self._closed = True
        if endings.inherited(self):
            return
        # All of it is done, also if an interrupt ends a part of it: what runs on is killed.
        with ExitStack() as releases:
            releases.callback(self._backend.close)
            for release in reversed(self._releases):
                releases.callback(release)
            releases.callback(self._oversight.close)
            if self._qmp is not None:
                releases.callback(self._qmp.close)
                self._qmp.watch(None)
            if self._backend.kind != "external":
                self._end()
            self._last_stderr = self._backend.stderr()

    def _end(self) -> None:
        if self._backend.kind == "qemu" and self._backend.pid is None:
            return
        if self._reap(Deadline(0)) is not None:
            return
        self._oversight.ended_by_us = True
        if self._qmp is not None and self._qmp.connected:
            deadline = Deadline(_QUIT_SECONDS)
            try:
                self._qmp.execute("quit", timeout=deadline)
            except QMPTimeoutError:
                pass  # It is stuck: the signals below are for that.
            except QMPError:
                # Gone, or refusing: what counts is whether it ends.
                deadline = Deadline(min(_TERMINATE_SECONDS, deadline.remaining() or 0))
            if self._reap(deadline) is not None:
                return
            self._oversight.board.ask_to_end()
            self._backend.terminate()
            if self._reap(Deadline(_TERMINATE_SECONDS)) is not None:
                return
        self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raises what went wrong beside the test's own course, once.

        Raises:
            UnmodelledCommandError, FakeQMPServerError: from the fake: commands that it lacks.
            VMVerdictError: something happened to the machine that no wait has met, and that the
                test did not allow.
        """
        __tracebackhide__ = True
        if self._backend.kind == "fake":
            self.fake.check()
        board = self._oversight.board
        for verdict in board.take_unmet():
            raise board.failure(verdict, "and no wait of the test has met it")

    @contextmanager
    def allow(self, *what: str) -> Iterator[None]:
        """What happens to the machine meanwhile, of these kinds, is wanted: no wait ends for it.

        A wait for the very thing (``wait_for_event("SHUTDOWN")``, ``wait()``,
        ``wait_for_status("shutdown")``) and the commands that ask for it (``quit``,
        ``system_powerdown``, ``system_reset``) need no such permission.

        Args:
            what: ``reset``, ``shutdown``, ``panic``, ``crash-loaded``, ``watchdog``,
                ``io-error``, ``internal-error``, ``memory-failure``, ``exit``, ``console``.

        Raises:
            VMConfigError: there is no such kind.
        """
        __tracebackhide__ = True
        kinds = check_kinds(what, "vm.allow()")
        oversight = self._oversight
        # What came before the block, or comes in its last moment, counts where it belongs.
        oversight.sync()
        with oversight.board.permitting(kinds):
            try:
                yield
            finally:
                oversight.sync()

    def _shown_console(self) -> str:
        tail = self.console_tail()
        return f"\nThe console's last lines:\n{indented(tail)}" if tail else ""

    def explain_end(self) -> str:
        """Why the machine is gone, for a message: exit status, stderr; empty if it is not."""
        status = self._exit_status
        if status is None and not self._closed:
            status = self._reap(Deadline(_LAST_WORDS_SECONDS))
        if status is None:
            return ""
        text = f"QEMU {describe_exit(status)}"
        shutdown = [one for one in self.qmp.events if one.name == "SHUTDOWN"] if self._qmp else []
        if shutdown:
            text += f" after {shutdown[-1]}"
        stderr = last_lines(self.stderr)
        if stderr:
            text += f"\nIt wrote:\n{indented(stderr)}"
        return text


def require_files(config: VMConfig) -> None:
    """Raises VMConfigError if a file that the machine needs can't be read."""
    __tracebackhide__ = True
    for field, path in required_files(config):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise VMConfigError(
                f"can't read the {field} {path!r}: {error.strerror}. Check the path; a relative "
                f"one is looked up from {os.getcwd()}"
            ) from None
