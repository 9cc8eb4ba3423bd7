"""Greets the first client of a monitor while the rest of the fake is still being loaded."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterable

from .emitter import emit
from .links import Link
from .monitor import greeting
from .monitors import MonitorOptions
from .versions import Dialect

__all__ = ["greet_early", "may_fail"]

#: What makes a machine that may not begin; then QEMU greets nobody.
_RISKY = frozenset(
    """add-fd append bios blockdev cdrom cpu device drive fda fdb fsdev hda hdb hdc hdd incoming
    initrd kernel loadvm mtdblock net netdev nic object pflash sd smp virtfs""".split()  # noqa: SIM905
)
_LOOK = 0.002


def may_fail(options: Iterable[str]) -> bool:
    """Whether a machine with these options may turn out not to be possible."""
    return not _RISKY.isdisjoint(options)


def greet_early(
    loading: threading.Thread,
    monitors: Iterable[tuple[MonitorOptions, Link]],
    dialect: Dialect,
) -> None:
    """Greets whoever comes first to each monitor, until everything is loaded.

    Args:
        loading: the thread that loads.
        monitors: those for QMP, with their devices.
        dialect: the version.
    """
    open_ones = []
    for monitor, link in monitors:
        text = emit(greeting(dialect), monitor.pretty).replace("\n", "\r\n")
        words = text.encode("ascii") + b"\r\n"
        if link.waiting is not None:
            _say(link, words)
        elif link.listener is not None:
            link.listener.setblocking(False)
            open_ones.append((link, words))
    while open_ones and loading.is_alive():
        listeners = [link.listener for link, _ in open_ones if link.listener is not None]
        ready, _, _ = select.select(listeners, [], [], _LOOK)
        for link, words in list(open_ones):
            if link.listener in ready:
                link.waiting = link.accept()
                if link.waiting is not None:
                    _say(link, words)
                    open_ones.remove((link, words))
    loading.join()


def _say(link: Link, words: bytes) -> None:
    # Whoever has left already is noticed when the monitor reads.
    with contextlib.suppress(OSError):
        if link.waiting is not None:
            link.waiting.sendall(words)
            link.greeted = True
