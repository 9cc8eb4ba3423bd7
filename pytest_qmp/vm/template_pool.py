"""Machines from templates, made ready while a test runs, so that the next one waits for nothing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pytest_qmp.errors import QMPError
from pytest_qmp.vm.machine import VirtualMachine
from pytest_qmp.vm.template import Template

__all__ = ["ClonePool"]

_JOIN_SECONDS = 10.0

Start = Callable[[VirtualMachine], object]


class ClonePool:
    """Keeps machines ready that are all there but stopped: ``cont``, the time, and a test has one.

    Only those of one template and one set of changes at a time: what the last test had.

    Args:
        size: how many are ready at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._ready: deque[VirtualMachine] = deque()
        self._kind: tuple[Template, dict[str, Any]] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def take(self, template: Template, changes: dict[str, Any]) -> VirtualMachine | None:
        """A machine that is ready and held; None if there is none. It is the caller's to close.

        Args:
            template: that it is to be from.
            changes: what it is to differ in, as for ``Template.start``.
        """
        if self._kind != (template, changes):
            self.drop()
            return None
        while True:
            with self._lock:
                if not self._ready:
                    return None
                machine = self._ready.popleft()
            if machine.exit_status is None:
                return machine
            machine.close()

    def prepare(self, template: Template, changes: dict[str, Any], start: Start) -> None:
        """Makes machines ready in the background, until there are enough.

        Args:
            template: that they are to be from; one whose machines boot has none.
            changes: what they are to differ in.
            start: starts a machine, or raises a ``QMPError`` where there is no room for it now.
        """
        if self._size < 1 or template.way == "boot" or template.config.backend == "fake":
            return
        if self._kind != (template, changes):
            self.drop()
        with self._lock:
            self._kind = template, dict(changes)
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(
                target=self._fill, args=(start,), name="pytest-qmp pool", daemon=True
            )
            self._thread.start()

    def _fill(self, start: Start) -> None:
        while True:
            with self._lock:
                kind = self._kind
                if self._closed or kind is None or len(self._ready) >= self._size:
                    # Seen as over from now on: whoever takes one starts another thread.
                    self._thread = None
                    return
            template, changes = kind
            machine = None
            try:
                machine = template.machine(**changes, paused=True)
                start(machine)
                template.make_ready(machine)
            except (QMPError, OSError):
                # There is no room, or it fails: the test that needs one is told why.
                if machine is not None:
                    machine.close()
                with self._lock:
                    self._thread = None
                return
            with self._lock:
                wanted = not self._closed and self._kind is kind
                if wanted:
                    self._ready.append(machine)
            if not wanted:
                machine.close()

    def drop(self) -> None:
        """Ends those that are ready, as others are needed, or their memory is."""
        with self._lock:
            self._kind = None
            machines = list(self._ready)
            self._ready.clear()
        for machine in machines:
            machine.close()

    def close(self) -> None:
        """Ends all of it. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self.drop()
        if thread is not None:
            thread.join(_JOIN_SECONDS)
            self.drop()
