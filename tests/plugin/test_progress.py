"""Progress in a terminal comes and goes, and nothing of it is anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect
import pyte
import pytest

from pytest_qmp.progress_line import TerminalLine, fitted

from .conftest import Run

# Each test goes on only when the line was seen: `go` is a FIFO.
SOURCE = """
import logging
import pytest
from pytest_qmp.vm import progress as module
module.PATIENCE, module._REDRAW_SECONDS = 0.05, 0.02

def long(what):
    with module.progress(what) as report:
        report(43 << 20, 86 << 20, "bytes")
        open("go").read()

def test_first():
    print("this is captured")

@pytest.mark.parametrize("number", range({count}))
def test_long(number):
    logging.warning("this is logged")
    long(f"migrating vm{{number}}")

def test_fails():
    long("on the way to a failure")
    print("this is shown")
    assert False

def test_last():
    pass
"""

LOOK_SECONDS = 60
_NONE: Mapping[str, str] = {}


class Terminal:
    """A pytest in a terminal of our own, and what a person sees there."""

    def __init__(
        self, folder: Path, *args: str, lines: int = 24, env: Mapping[str, str] = _NONE
    ) -> None:
        self.go = folder / "go"
        os.mkfifo(self.go)
        self.screen = pyte.HistoryScreen(80, lines, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        kept = {"CI", "BUILD_NUMBER", "PYTEST_ADDOPTS", "COLUMNS", "LINES", "NO_COLOR"}
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable,
            ["-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *args],
            cwd=str(folder),
            env={
                **{name: value for name, value in os.environ.items() if name not in kept},
                "TERM": "xterm-256color",
                **env,
            },
            dimensions=(lines, 80),
            timeout=LOOK_SECONDS,
        )

    def look_until(self, there: Callable[[], bool]) -> None:
        """Reads until that is so, or there is no more."""
        while not there():
            try:
                self._stream.feed(self.child.read_nonblocking(4096, timeout=LOOK_SECONDS))
            except pexpect.EOF:
                return

    def look_for(self, text: str) -> None:
        """Reads until that can be seen."""
        self.look_until(lambda: any(text in line for line in self.screen.display))
        assert any(text in line for line in self.screen.display), self.everything()

    def let_go(self) -> None:
        """Lets the test that waits go on."""
        self.go.write_text("on")

    def everything(self) -> str:
        """All that can be seen, with what has scrolled away."""
        above = ["".join(line[x].data for x in range(80)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    def finish(self) -> str:
        """Reads to the end."""
        self.look_until(lambda: False)
        self.child.close()
        return self.everything()


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    """With tests that take long."""
    pytester.makeini("[pytest]")
    pytester.makepyfile(test_it=SOURCE.format(count=2))
    return pytester.path


@pytest.mark.parametrize("lines", [24, 7], ids=["room", "scrolling"])
def test_a_line_comes_and_goes(folder: Path, lines: int) -> None:
    terminal = Terminal(folder, lines=lines)
    for what in ("migrating vm0", "migrating vm1", "on the way to a failure"):
        terminal.look_for(f"{what}: 50 %, 43 of 86 MiB, ")
        (dots,) = (line for line in terminal.screen.display if line.startswith("test_it.py"))
        # The line is below, and the cursor is where pytest writes on.
        cursor = terminal.screen.cursor
        assert terminal.screen.display[cursor.y + 1].startswith(what)
        assert (terminal.screen.display[cursor.y], cursor.x) == (dots, len(dots.rstrip()))
        terminal.let_go()
    seen = terminal.finish()
    assert "test_it.py ...F." in seen
    assert "[100%]" in seen
    assert "this is shown" in seen
    assert "1 failed, 4 passed" in seen
    assert "migrating" not in seen
    assert "43 of 86" not in seen
    assert terminal.child.exitstatus == 1


def test_of_a_machine_and_with_names_of_tests(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile(
        test_it="""
        def test_long(qmp_vm):
            from pytest_qmp.vm import progress as module
            module.PATIENCE, module._REDRAW_SECONDS = 0.05, 0.02
            with module.progress("migrating " + qmp_vm.label) as report:
                report(43 << 20, 86 << 20, "bytes")
                open("go").read()

        def test_last(qmp_vm):
            pass
        """
    )
    terminal = Terminal(pytester.path, "-v", "--qmp-backend=fake", lines=9)
    terminal.look_for("migrating vm0: 50 %")
    terminal.let_go()
    seen = terminal.finish().splitlines()
    for name in ("test_long", "test_last"):
        assert any(one.startswith(f"test_it.py::{name} PASSED") for one in seen), seen
    assert not any("43 of 86" in one for one in seen)


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["-s"], {}),
        (["-o", "log_cli=true"], {}),
        (["-p", "no:terminal"], {}),
        ([], {"CI": "true"}),
        (["-n1"], {}),
    ],
    ids=lambda value: " ".join(value) or "-",
)
def test_nothing_is_shown_where_it_would_disturb(
    folder: Path, args: list[str], env: dict[str, str]
) -> None:
    # Each test goes on by itself, long after a line would have come.
    source = SOURCE.format(count=2).replace('open("go").read()', "threading.Event().wait(0.15)")
    (folder / "test_it.py").write_text(f"import threading\n{source}")
    terminal = Terminal(folder, *args, env=env)
    shown: list[str] = []

    def look() -> bool:
        shown.extend(line for line in terminal.screen.display if "43 of 86" in line)
        return False

    terminal.look_until(look)
    assert shown == []
    assert "43 of 86" not in terminal.finish()
    assert terminal.child.exitstatus == 1


def test_a_pipe_gets_nothing(run: Run) -> None:
    result = run(
        """
        import threading
        from pytest_qmp.vm import progress as module

        def test_it(qmp_vm):
            module.PATIENCE = 0.05
            threads = threading.active_count()
            with module.progress("this"):
                assert threading.active_count() == threads
        """,
        "--qmp-backend=fake",
    )
    result.assert_outcomes(passed=1)
    assert "\x1b" not in result.stdout.str()


def test_a_terminal_that_is_gone_fails_nothing() -> None:
    reader, writer = os.openpty()
    line = TerminalLine(writer)
    os.close(reader)
    os.close(writer)
    line.show("this", "1 s")
    line.clear()
    line.close()
    line.close()


@pytest.mark.parametrize("columns", range(40))
def test_never_wider_than_the_terminal(columns: int) -> None:
    text = fitted("機械 vm0\x1b[2J\nwith a long name", "12 %, 3 s", columns)
    assert sum(2 if one in "機械" else 1 for one in text) <= columns
    assert text.isprintable()
