"""How much of recorded conversations a program repeats, by category and version."""

from __future__ import annotations

import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .conformance import Case, Peer, play, read_cases

__all__ = ["Report", "Result", "play_corpus", "read_corpus", "version_of"]

#: The order of the table; categories that are not in it come last.
_ORDER = (
    *("json", "hs", "id", "env", "arg", "oob", "pretty", "conn"),
    *("run", "dev", "qom", "blk", "job", "mig", "misc", "guest"),
)
_NEEDS_GUEST = "boot.img"


@dataclass(frozen=True)
class Result:
    """What became of one case.

    Attributes:
        version: of the QEMU that was recorded.
        category: the part of QMP that it is about.
        name: of the case.
        outcome: ``same``, ``differs`` or ``skipped``.
        detail: what differs, or why it was skipped.
    """

    version: str
    category: str
    name: str
    outcome: str
    detail: str = ""


class Report:
    """The results of cases."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def add(self, result: Result) -> None:
        """Takes one more."""
        self.results.append(result)

    @property
    def differing(self) -> list[Result]:
        """Those that differ."""
        return [result for result in self.results if result.outcome == "differs"]

    def table(self, *, markdown: bool = False) -> str:
        """Right and played by category and version; skipped cases are not counted."""
        versions = sorted({result.version for result in self.results}, key=_by_number)
        found = {result.category for result in self.results}
        rank = {name: number for number, name in enumerate(_ORDER)}
        categories = sorted(found, key=lambda name: (rank.get(name, len(rank)), name))
        rows = [["category", *versions]]
        for category in [*categories, ""]:
            cells = [self._cell(version, category) for version in versions]
            if any(cells):
                rows.append([category or "all", *cells])
        if markdown:
            head, *body = ["| " + " | ".join(row) + " |" for row in rows]
            return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """All of it, for other programs."""
        return {
            "same": sum(result.outcome == "same" for result in self.results),
            "differs": len(self.differing),
            "skipped": sum(result.outcome == "skipped" for result in self.results),
            "results": [asdict(result) for result in self.results],
        }

    def _cell(self, version: str, category: str) -> str:
        chosen = [
            result
            for result in self.results
            if result.version == version
            and category in ("", result.category)
            and result.outcome != "skipped"
        ]
        right = sum(result.outcome == "same" for result in chosen)
        return f"{right}/{len(chosen)} ({100 * right // len(chosen)} %)" if chosen else ""


def _by_number(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def read_corpus(path: Path) -> list[Case]:
    """The cases of a file, ``.jsonl`` or ``.jsonl.xz``.

    Raises:
        OSError: it can't be read.
        ValueError: it holds something else.
    """
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rb") as lines:
            cases = list(read_cases(lines))
    except (KeyError, TypeError, lzma.LZMAError) as error:
        raise ValueError(f"{path} is no corpus of recorded cases: {error!r}") from error
    if not cases:
        raise ValueError(f"{path} holds no case")
    return cases


def version_of(cases: Sequence[Case]) -> str:
    """The version that was recorded, ``"7.2"`` and the like, by the greetings; "" if none is."""
    for case in cases:
        for step in case.steps:
            for line in step.get("recv", ()):
                found = re.search(r'"minor": (\d+), "major": (\d+)', str(line))
                if found:
                    return f"{found[2]}.{found[1]}"
    return ""


def play_corpus(
    cases: Sequence[Case],
    version: str,
    start: Callable[[Case], Peer],
    *,
    unstable: bool = False,
    guests: bool = False,
) -> Iterator[Result]:
    """Plays cases, and says of each what became of it.

    Args:
        cases: what to play.
        version: of the QEMU that was recorded.
        start: starts the program for a case.
        unstable: play also those of which two recordings differed.
        guests: play also those that need a guest which does what it did in the recording.
    """
    for case in cases:
        skipped = ""
        if not case.stable and not unstable:
            skipped = "two recordings of it differ"
        elif case.category == "guest" and not guests and _NEEDS_GUEST in str(case.qemu_args):
            skipped = "its guest is not part of the recording"
        if skipped:
            yield Result(version, case.category, case.name, "skipped", skipped)
            continue
        difference = play(case, start)
        outcome = "differs" if difference else "same"
        yield Result(version, case.category, case.name, outcome, difference)
