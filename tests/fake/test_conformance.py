"""Recorded conversations with real QEMUs, played against the fake, byte for byte."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_qmp.fake.conformance import Case, FakePeer, play, read_cases

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
VERSIONS = ("7.2", "10.0", "11.1")
CATEGORIES = {"json", "hs", "id", "env", "arg", "oob", "pretty", "conn", "run"}

_DEVICES = "devices are not modelled yet"
_MIGRATION = "migration is not modelled yet"
_PRECONFIG = "--preconfig is not modelled yet"

#: What the fake does not play yet, and why; each must fail, so that the list stays true.
NOT_YET = {
    "arg/int-neg": _DEVICES,
    "arg/int-valid-no-device": _DEVICES,
    "arg/bool-ok": _DEVICES,
    "arg/str-with-nul": _DEVICES,
    "arg/str-unicode": _DEVICES,
    "arg/gen-false-device_add-unknown": _DEVICES,
    "arg/gen-false-device_add-missing-driver": _DEVICES,
    "arg/any-type": "QOM is not modelled yet",
    "arg/underscore-alias": "CPU models are not modelled yet",
    "arg/value-range-by-handler": _MIGRATION,
    "arg/size-uint64max": _MIGRATION,
    "arg/alternate-strornull-null": _MIGRATION,
    "arg/alternate-strornull-str": _MIGRATION,
    "arg/list-empty": _MIGRATION,
    "run/preconfig": _PRECONFIG,
    "run/preconfig-disallowed": _PRECONFIG,
    "run/no-preconfig-exit": _PRECONFIG,
    "conn/client-mode-reconnect": "the fake only listens, it does not connect to a client",
}


def corpus(version: str) -> list[Case]:
    with lzma.open(CORPUS / f"qemu-{version}.jsonl.xz") as lines:
        return list(read_cases(lines))


def parameters() -> Iterator[object]:
    for version in VERSIONS:
        for case in corpus(version):
            if case.category not in CATEGORIES or not case.stable:
                continue
            reason = NOT_YET.get(case.name)
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
