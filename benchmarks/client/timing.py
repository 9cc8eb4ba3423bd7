"""Rivals that take turns, and the table of what each of them took."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Kind", "Rival", "Row", "Section", "compare", "take_turns"]

Kind = Literal["floor", "step", "ours", "peer"]


@dataclass(frozen=True)
class Rival:
    """One of those who take turns.

    Attributes:
        name: as the table shows it.
        kind: the floor; a step between the floor and a client; ours; or a peer.
        run: does the work.
        prepare: runs before each turn, and is not measured.
        tidy: runs after each turn, and is not measured.
        work: how many times ``run`` does what is measured.
        rounds: in how many of the rounds it takes part; None: all. For those that are slow.
    """

    name: str
    kind: Kind
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    tidy: Callable[[], object] = lambda: None
    work: int = 1
    rounds: int | None = None


@dataclass(frozen=True)
class Row:
    """What one of them took, in seconds for one unit of work; medians over the rounds.

    Attributes:
        name, kind: as in ``Rival``.
        seconds: by the clock.
        cpu_seconds: of this process, in user and kernel.
        to_floor: the median of the ratios to the floor in the same round.
        to_best_peer: the same to the peer with the lowest median; None where there is none.
    """

    name: str
    kind: Kind
    seconds: float
    cpu_seconds: float
    to_floor: float
    to_best_peer: float | None


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        title: what was measured.
        unit: ``us``, ``ms`` or ``k/s``, for the printed table; the rows hold seconds.
        rows: in the order of the rivals.
        goal: what the project wants, in words.
        notes: more lines, such as the memory that an event takes.
    """

    title: str
    unit: str
    rows: tuple[Row, ...]
    goal: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)

    def as_markdown(self) -> str:
        """The table, as a page can hold it and a terminal shows it."""
        heads = (self.title, self.unit, "÷ floor", "÷ best peer", "CPU")
        body = [
            (
                f"**{row.name}**" if row.kind == "ours" else row.name,
                _shown(row.seconds, self.unit),
                f"{row.to_floor:.2f}",
                "" if row.to_best_peer is None else f"{row.to_best_peer:.2f}",
                f"{row.cpu_seconds / row.seconds:.0%}"
                if self.unit == "k/s"
                else _shown(row.cpu_seconds, self.unit),
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [_line(heads, widths), _line(rule, widths), *(_line(row, widths) for row in body)]
        tail = [f"Goal: {self.goal}."] if self.goal else []
        return "\n".join([*lines, *("\n" + note for note in (*tail, *self.notes))])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if number == 0 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join([first, *others]) + " |"


def _shown(seconds: float, unit: str) -> str:
    if unit == "k/s":
        return f"{0.001 / seconds:,.0f}"
    value = seconds * {"us": 1e6, "ms": 1e3}[unit]
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


Turn = tuple[float, float]


def take_turns(rivals: Sequence[Rival], rounds: int) -> dict[str, list[Turn]]:
    """Lets each run once a round, the first place going round.

    Returns:
        Seconds by the clock and of CPU, a unit of work, by name and round.
    """
    turns: dict[str, list[Turn]] = {rival.name: [] for rival in rivals}
    for number in range(rounds):
        first = number % len(rivals)
        for rival in (*rivals[first:], *rivals[:first]):
            if rival.rounds is None or number < rival.rounds:
                turns[rival.name].append(_turn(rival))
    return turns


def _turn(rival: Rival) -> Turn:
    rival.prepare()
    try:
        gc.collect()
        cpu, clock = _cpu_seconds(), time.perf_counter()
        rival.run()
        clock, cpu = time.perf_counter() - clock, _cpu_seconds() - cpu
    finally:
        rival.tidy()
    return clock / rival.work, cpu / rival.work


def _cpu_seconds() -> float:
    """Of this process, and of children that have ended; a QEMU that runs on is not among them."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def compare(rivals: Sequence[Rival], rounds: int) -> tuple[Row, ...]:
    """Lets them take turns, and sums up. The first of them is the floor."""
    turns = take_turns(rivals, rounds)
    floor = turns[rivals[0].name]
    medians = {name: statistics.median(clock for clock, _ in took) for name, took in turns.items()}
    peers = [rival.name for rival in rivals if rival.kind == "peer"]
    best = turns[min(peers, key=medians.__getitem__)] if peers else None
    return tuple(
        Row(
            rival.name,
            rival.kind,
            medians[rival.name],
            statistics.median(cpu for _, cpu in turns[rival.name]),
            _ratio(turns[rival.name], floor),
            _ratio(turns[rival.name], best) if best is not None else None,
        )
        for rival in rivals
    )


def _ratio(own: list[Turn], other: list[Turn]) -> float:
    return statistics.median(one[0] / base[0] for one, base in zip(own, other, strict=False))
