"""More recorded conversations, of ``scenarios.txt``, played against the fake, byte for byte."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_qmp.fake.conformance import Case, FakePeer, play, read_cases

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
VERSIONS = ("7.2", "10.0", "11.1")

_NO_MEMORY = "the human monitor's x and xp are not modelled: the fake's guest has no memory"
_NO_BLOCKERS = "devices that keep a machine from migrating are not modelled"
_NO_VIRTQUEUES = "the queues of virtio devices are not modelled"

#: What the fake does not play, and why; each must fail, so that the list stays true.
NOT_YET: dict[str, str] = {
    "misc/hmp-arguments": _NO_MEMORY,
    "misc/hmp-memory": _NO_MEMORY,
    "misc/virtio-queries": _NO_VIRTQUEUES,
    "mig/blocked": _NO_BLOCKERS,
    "11.1-job/mirror-busy": "a mirror that is refused holds other jobs once more in 11.1",
}


def corpus(version: str) -> list[Case]:
    with lzma.open(CORPUS / f"more-{version}.jsonl.xz") as lines:
        return [case for case in read_cases(lines) if case.stable]


def parameters() -> Iterator[object]:
    for version in VERSIONS:
        for case in corpus(version):
            reason = NOT_YET.get(case.name) or NOT_YET.get(f"{version}-{case.name}")
            marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
            yield pytest.param(version, case, id=f"{version}-{case.name}", marks=marks)


@pytest.mark.parametrize(("version", "case"), list(parameters()))
def test_answers_as_recorded(version: str, case: Case) -> None:
    assert play(case, lambda case: FakePeer(case, version)) == ""


def test_the_list_names_cases_that_there_are() -> None:
    names = {case.name for version in VERSIONS for case in corpus(version)}
    listed = {name.split("-", 1)[1] if name[:1].isdigit() else name for name in NOT_YET}
    assert listed <= names
