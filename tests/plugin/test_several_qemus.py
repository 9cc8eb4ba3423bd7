"""``--qmp-qemu`` given several times: what runs on what, in which order, and under which id."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_qmp.vm.host import labels_of_binaries
from tests.plugin.conftest import Run

TESTS = """
def test_first(_qmp_qemu):
    print("on", _qmp_qemu)

class TestMore:
    def test_second(self, _qmp_qemu):
        print("on", _qmp_qemu)

def test_without():
    pass
"""


def binary(path: Path, version: str) -> str:
    """Something that tells its version as QEMU does, and no more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version} (Debian)'\n")
    path.chmod(0o755)
    return str(path)


def test_versions_are_told_in_the_ids(tmp_path: Path) -> None:
    one = binary(tmp_path / "a" / "qemu-system-x86_64", "7.2.22")
    two = binary(tmp_path / "b" / "qemu-system-x86_64", "10.0.13")
    arm = binary(tmp_path / "b" / "qemu-system-aarch64", "10.0.13")
    own = binary(tmp_path / "my-qemu", "11.1.3")
    assert labels_of_binaries([one, two, arm, own]) == [
        "x86_64-7.2.22",
        "x86_64-10.0.13",
        "aarch64-10.0.13",
        "my-qemu-11.1.3",
    ]


def test_equal_versions_are_told_apart_by_what_differs_in_their_paths(tmp_path: Path) -> None:
    places = ("plain/bin", "debug/bin")
    paths = [binary(tmp_path / one / "qemu-system-x86_64", "10.0.13") for one in places]
    assert labels_of_binaries(paths) == ["x86_64-10.0.13-plain", "x86_64-10.0.13-debug"]
    assert labels_of_binaries([paths[0], paths[0]]) == ["x86_64-10.0.13", "x86_64-10.0.13-2"]


def test_a_binary_that_is_not_there_keeps_its_name(tmp_path: Path) -> None:
    assert labels_of_binaries([str(tmp_path / "qemu-x"), "qemu-y"]) == ["qemu-x", "qemu-y"]


@pytest.mark.parametrize("workers", [[], ["-n", "2"], ["-n", "2", "--dist", "loadgroup"]])
def test_each_test_runs_on_each_grouped_in_the_order_given(
    run: Run, tmp_path: Path, workers: list[str]
) -> None:
    new = binary(tmp_path / "a" / "qemu-system-x86_64", "10.0.13")
    old = binary(tmp_path / "b" / "qemu-system-x86_64", "7.2.22")
    more = ["-v", "-s", *(workers or ["-p", "no:xdist"])]
    result = run(TESTS, f"--qmp-qemu={new}", f"--qmp-qemu={old}", *more)
    result.assert_outcomes(passed=5)
    found = re.findall(r"test_\w+\[\S+?\]", result.stdout.str())
    expected = [
        f"test_{name}[x86_64-{version}]"
        for version in ("10.0.13", "7.2.22")
        for name in ("first", "second")
    ]
    assert set(found) == set(expected)
    if not workers:
        assert list(dict.fromkeys(found)) == expected
        seen = re.findall(r"\bon (/\S+)", result.stdout.str())
        assert seen == [new, new, old, old]


def test_one_of_them_is_chosen_by_its_version(run: Run, tmp_path: Path) -> None:
    new = binary(tmp_path / "a" / "qemu-system-x86_64", "10.0.13")
    old = binary(tmp_path / "b" / "qemu-system-x86_64", "7.2.22")
    result = run(TESTS, f"--qmp-qemu={new}", f"--qmp-qemu={old}", "-k", "7.2", "-s")
    result.assert_outcomes(passed=2, deselected=3)
    assert set(re.findall(r"\bon (/\S+)", result.stdout.str())) == {old}


def test_in_several_modules_all_of_one_binary_come_first(
    run: Run, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    new = binary(tmp_path / "a" / "qemu-system-x86_64", "10.0.13")
    old = binary(tmp_path / "b" / "qemu-system-x86_64", "7.2.22")
    body = "def test_one(_qmp_qemu): print('on', _qmp_qemu)\n"
    pytester.makepyfile(test_aa=body, test_bb=body)
    result = run("", f"--qmp-qemu={new}", f"--qmp-qemu={old}", "-s", "-p", "no:xdist")
    result.assert_outcomes(passed=4)
    assert re.findall(r"\bon (/\S+)", result.stdout.str()) == [new, new, old, old]
