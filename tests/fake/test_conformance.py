"""Recorded conversations with real QEMUs, played against the fake, byte for byte."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_qmp.fake.conformance import Case, FakePeer, play, read_cases

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
VERSIONS = ("7.2", "10.0", "11.1")
CATEGORIES = {
    "json",
    "hs",
    "id",
    "env",
    "arg",
    "oob",
    "pretty",
    "conn",
    "run",
    "guest",
    "mig",
    "misc",
    "dev",
    "qom",
    "blk",
    "job",
}

_ENDED = "the QEMU that was recorded ended here; the same version answers elsewhere"

#: What the fake does not play yet, and why; each must fail, so that the list stays true.
NOT_YET = {
    "10.0-qom/qom-list-types": _ENDED,
    "11.1-qom/qom-list-types": _ENDED,
}


def corpus(version: str) -> list[Case]:
    with lzma.open(CORPUS / f"qemu-{version}.jsonl.xz") as lines:
        return list(read_cases(lines))


def parameters() -> Iterator[object]:
    for version in VERSIONS:
        for case in corpus(version):
            if case.category not in CATEGORIES or not case.stable:
                continue
            reason = NOT_YET.get(case.name) or NOT_YET.get(f"{version}-{case.name}")
            marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
            yield pytest.param(version, case, id=f"{version}-{case.name}", marks=marks)


@pytest.mark.parametrize(("version", "case"), list(parameters()))
def test_answers_as_recorded(version: str, case: Case) -> None:
    assert play(case, lambda case: FakePeer(case, version)) == ""


def test_a_difference_is_found_and_shown() -> None:
    recorded = next(case for case in corpus("7.2") if case.name == "hs/plain")
    difference = play(recorded, lambda case: FakePeer(case, "11.1"))
    assert "Debian 1:7.2" in difference
    assert "Debian 1:11.1" in difference


def test_more_than_recorded_is_a_difference() -> None:
    recorded = next(case for case in corpus("7.2") if case.name == "id/int")
    short = Case(recorded.name, "id", recorded.qemu_args, "plain", recorded.steps[:1], True)
    assert "more than was recorded" in play(short, lambda case: FakePeer(case, "7.2"))
