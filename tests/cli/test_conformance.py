"""The command that holds programs against recordings of real QEMUs."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LIMIT

CORPUS = Path(__file__).parents[1] / "data" / "corpus"


def conformance(*args: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_qmp", "conformance", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT * 5,
    )
    return done.returncode, done.stdout, done.stderr


def test_table_of_categories_and_versions() -> None:
    files = [CORPUS / f"qemu-{version}.jsonl.xz" for version in ("7.2", "11.1")]
    status, out, _ = conformance(*files, "--only", "hs", "--only", "id")
    assert status == 0
    head, hs, _, everything = out.splitlines()
    assert head.split() == ["category", "7.2", "11.1"]
    assert hs.split()[0] == "hs"
    assert hs.count("(100 %)") == 2
    assert everything.split()[0] == "all"


def test_markdown() -> None:
    file = CORPUS / "qemu-7.2.jsonl.xz"
    _, out, _ = conformance(file, "--only", "pretty", "--markdown")
    assert out.splitlines()[:3] == ["| category | 7.2 |", "|---|---|", "| pretty | 1/1 (100 %) |"]


def test_what_differs_is_shown() -> None:
    file = CORPUS / "qemu-7.2.jsonl.xz"
    status, out, err = conformance(file, "--only", "hs/plain", "--emulate", "10.0", "-v")
    assert status == 1
    assert "0/1 (0 %)" in out
    assert err.startswith("7.2 hs/plain: Difference: step 0")


def test_json() -> None:
    file = CORPUS / "qemu-10.0.jsonl.xz"
    _, out, _ = conformance(file, "--only", "conn", "--json")
    found = json.loads(out)
    assert found["differs"] == 0
    assert found["same"] == len(found["results"]) - found["skipped"] > 5
    assert {result["version"] for result in found["results"]} == {"10.0"}


def test_the_fake_as_a_program() -> None:
    file = CORPUS / "qemu-7.2.jsonl.xz"
    status, out, err = conformance(file, "--only", "conn", "--only", "run/quit", "--drop-in", "-v")
    assert (status, err) == (0, "")
    assert "(100 %)" in out


@pytest.mark.needs_qemu
def test_the_real_qemu() -> None:
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True)
    if b"version 7.2.22" not in version.stdout:
        pytest.skip("the QEMU on the PATH is not the one that was recorded")
    names = [
        *("--only", "conn", "--only", "run/sigterm", "--only", "pretty", "--only", "env"),
        *("--against", "qemu-system-x86_64", "-v"),
    ]
    status, out, err = conformance(CORPUS / "qemu-7.2.jsonl.xz", *names)
    assert (status, err) == (0, "")
    assert "(100 %)" in out


def test_a_program_that_is_no_qemu() -> None:
    file = CORPUS / "qemu-7.2.jsonl.xz"
    status, _, err = conformance(file, "--only", "hs/plain", "--against", "false", "-v")
    assert status == 1
    assert "ended with status 1" in err


def test_bad_arguments(tmp_path: Path) -> None:
    file = CORPUS / "qemu-7.2.jsonl.xz"
    assert "there is no such program" in conformance(file, "--against", "no-such-qemu")[2]
    (tmp_path / "c.jsonl").write_text("{}\n")
    assert "no corpus of recorded cases" in conformance(tmp_path / "c.jsonl")[2]
    assert "No such file" in conformance(tmp_path / "nothing.jsonl")[2]


def test_a_case_of_an_unknown_version(tmp_path: Path) -> None:
    with lzma.open(CORPUS / "qemu-7.2.jsonl.xz", "rt") as lines:
        case = next(line for line in lines if '"hs/plain"' in line)
    (tmp_path / "c.jsonl").write_text(case.replace('\\"major\\": 7', '\\"major\\": 5'))
    status, _, err = conformance(tmp_path / "c.jsonl")
    assert status == 2
    assert "is of QEMU 5.2, which the fake is not" in err
