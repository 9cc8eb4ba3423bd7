"""What is watched of one machine in the background, and what is said of its verdicts."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import QMPEvent
from pytest_qmp.text import last_lines
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.console_watch import ConsoleWatch, telling_line
from pytest_qmp.vm.event_tap import EventTap
from pytest_qmp.vm.process import describe_exit
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.supervisor import Attendance, attend, drain
from pytest_qmp.vm.verdict_board import VerdictBoard
from pytest_qmp.vm.verdicts import ProcessEnd, Verdict

__all__ = ["Oversight", "indented"]

_SYNC_SECONDS = 1.0
# When the guest wrote is remembered for so many times.
_MOMENTS = 1000
# Of these the console often tells more than the event.
_TOLD_BY_CONSOLE = frozenset({"panic", "crash-loaded", "reset", "shutdown", "watchdog", "exit"})


class Oversight:
    """Watches a machine's second monitor, consoles and process.

    Args:
        config: what was started.
        backend: what runs it.
        watched: False where there is nothing to watch but the test's own monitor.

    Attributes:
        board: where the verdicts come in.
        streams: what the guest wrote, by console.
        keeps_logs: True keeps that beyond ``close()``.
        ended_by_us: True once it is our own doing that the process ends, and no news.
        name: what verdicts call the machine, where it is one of several; else empty.
        listeners: get each event that can mean something, in the background.
    """

    def __init__(self, config: VMConfig, backend: Backend, *, watched: bool) -> None:
        self.board = VerdictBoard(
            config.allow,
            self._story,
            watched=watched,
            firmware_resets=backend.kind == "qemu" and _boots_seabios(config),
        )
        self.streams: dict[str, OutputStream] = {}
        self.keeps_logs = False
        self.ended_by_us = False
        self.name = ""
        self.listeners: list[Callable[[QMPEvent], None]] = []
        self._config = config
        self._backend = backend
        self._tap: EventTap | None = None
        self._attendances: list[Attendance] = []
        self._wrote_at: deque[float] = deque(maxlen=_MOMENTS)
        self._pidfd = -1
        self._watches = False
        self._killed_for_memory = _memory_kills()

    def watch_console(self, name: str, sock: socket.socket) -> OutputStream:
        """Drains a console from now on."""
        stream = OutputStream()
        self.streams[name] = stream
        self.board.add_wait(stream.look_again)
        watch: ConsoleWatch | None = None
        if self._config.console_watch:
            patterns = dict(self._config.console_watch)
            watch = ConsoleWatch(name, patterns, self.board.on_console)

        def feed(data: bytes) -> None:
            self._wrote_at.append(time.time())
            stream.feed(data)
            if watch is not None:
                watch.feed(data)

        self._attendances.append(drain(sock, feed))
        return stream

    def wrote_between(self, begin: float, end: float) -> bool:
        """Whether the guest wrote to a console then, in seconds since the epoch."""
        return any(begin < moment < end for moment in tuple(self._wrote_at))

    def open_tap(self, monitor: socket.socket) -> None:
        """Takes the second monitor, as soon as it is there."""
        self._tap = EventTap(monitor, self._on_event, self.board.on_status)

    def _on_event(self, event: QMPEvent) -> None:
        self.board.on_event(event)
        for listener in tuple(self.listeners):
            listener(event)

    def watch_machine(self, deadline: Deadline) -> None:
        """Watches events and the process, from now on.

        Raises:
            QMPDisconnectedError: QEMU is gone already.
            QMPTimeoutError: its second monitor does not answer.
        """
        __tracebackhide__ = True
        tap = self._tap
        if tap is None:
            return
        tap.negotiate(deadline)
        self._watches = True
        pid = self._backend.pid
        if pid is not None and hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(pid)
            self._attendances.append(attend(self._pidfd, self._on_process_end))
            self._attendances.append(attend(tap.sock.fileno(), tap.read))
        else:
            self._attendances.append(attend(tap.sock.fileno(), self._read_until_end))

    def _on_process_end(self) -> bool:
        if self._tap is not None:
            # Its last events first: they say why.
            self._tap.read_all()
        self._note_end(Deadline(0))
        return False

    def _read_until_end(self) -> bool:
        goes_on = self._tap is not None and self._tap.read()
        if not goes_on:
            self._note_end(Deadline(_SYNC_SECONDS))
        return goes_on

    def _note_end(self, deadline: Deadline) -> None:
        dumped = _core_dumped(self._backend.pid)
        status = self._backend.wait(deadline)
        if status is None:
            self.board.on_lost()
            return
        text = describe_exit(status)
        if dumped:
            text += " and dumped its core"
        if status == -signal.SIGKILL and _memory_kills() > self._killed_for_memory:
            text += " (the kernel ran out of memory and killed it)"
        self.board.on_end(ProcessEnd(status, text))

    def sync(self) -> None:
        """Waits until all that QEMU has sent by now was judged; not for ever."""
        if self._tap is not None and self._tap.ask("query-status", Deadline(_SYNC_SECONDS)) is None:
            self.board.wait_until_all_seen(Deadline(_SYNC_SECONDS))

    def ask(self, command: str, seconds: float) -> object:
        """Asks QEMU something on the background's monitor; None if it does not answer in time."""
        return None if self._tap is None else self._tap.ask(command, Deadline(seconds))

    def close(self) -> None:
        """Stops watching. Idempotent."""
        if self._watches:
            self.board.wait_until_all_seen(Deadline(_SYNC_SECONDS))
        for attendance in self._attendances:
            attendance.stop()
        self._attendances.clear()
        self.board.on_lost()
        for stream in self.streams.values():
            stream.end()
        if not self.keeps_logs:
            self.drop_logs()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def drop_logs(self) -> None:
        """Lets go of what the guest has written, but for its last lines. Idempotent."""
        for stream in self.streams.values():
            stream.close()

    # -- what is said ----------------------------------------------------------------------------

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of all consoles, as a person would have seen them."""
        tails = {
            name: last_lines(stream.tail().decode("utf-8", "replace"), lines)
            for name, stream in self.streams.items()
        }
        shown = {name: tail for name, tail in tails.items() if tail}
        if len(self.streams) < 2:
            return "".join(shown.values())
        return "\n".join(f"[{name}]\n{tail}" for name, tail in shown.items())

    def _story(self, verdict: Verdict, limit: Deadline) -> str:
        """A verdict, and what was seen around it."""
        ended = self.board.ended is not None
        for stream in self.streams.values():
            # What the guest wrote just before may still be on its way.
            stream.settle(limit, until_end=ended)
        text = f"{self.name}: {verdict.text}" if self.name else verdict.text
        if verdict.kind in _TOLD_BY_CONSOLE:
            line = next(filter(None, map(_telling, self.streams.values())), "")
            text += f": {line}" if line else ""
        end = self.board.ended
        if end is not None and verdict.event is not None and not self.ended_by_us:
            text += f"\nQEMU {end.text}."
        stderr = last_lines(self._backend.stderr())
        if stderr:
            text += f"\nIt wrote:\n{indented(stderr)}"
        tail = self.console_tail()
        if tail:
            text += f"\nThe console's last lines:\n{indented(tail)}"
        return text


def _boots_seabios(config: VMConfig) -> bool:
    # Said otherwise by a drive of firmware, it only forgives a guest that resets twice at once.
    return config.arch in ("x86_64", "i386") and config.firmware is None


def _telling(stream: OutputStream) -> str:
    return telling_line(stream.tail().decode("utf-8", "replace"))


def _core_dumped(pid: int | None) -> bool:
    """Whether a process that has ended, and was not reaped, has left a core."""
    if pid is None:
        return False
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False  # Another thread has reaped it.
    return found is not None and found.si_code == os.CLD_DUMPED


def _memory_kills() -> int:
    """How often the kernel has killed for memory in this control group; 0 where it can't tell."""
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
        events = Path(f"/sys/fs/cgroup{group}/memory.events").read_text()
    except OSError:
        return 0
    counts = dict(line.split() for line in events.splitlines())
    return int(counts.get("oom_kill", 0))


def indented(text: str) -> str:
    """Each line moved in, for a message."""
    return "\n".join(f"  {line}" for line in text.split("\n"))
