"""Progress of long things: shown late, by the newest, and taken away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_qmp.vm import progress as module
from pytest_qmp.vm.progress import progress, set_progress_sink


class Seen:
    """A sink that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str] | None] = []
        self.news = threading.Condition()

    def show(self, what: str, figures: str) -> None:
        with self.news:
            self.told.append((what, figures))
            self.news.notify_all()

    def clear(self) -> None:
        with self.news:
            self.told.append(None)
            self.news.notify_all()

    def wait_for(self, what: str, *figures: str) -> str:
        def there() -> str:
            for one in self.told:
                if one and one[0] == what and all(part in one[1] for part in figures):
                    return one[1]
            return ""

        with self.news:
            assert self.news.wait_for(there, 20), (what, figures, self.told)
            return there()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "_REDRAW_SECONDS", 0.02)
    sink = Seen()
    before = set_progress_sink(sink)
    yield sink
    set_progress_sink(before)


def test_says_what_how_far_and_how_long_and_takes_it_away(seen: Seen) -> None:
    with progress("migrating vm0") as report:
        seen.wait_for("migrating vm0", "0 s")
        report(1 << 20, 4 << 20, "bytes")
        seen.wait_for("migrating vm0", "25 %", "1 of 4 MiB", "left")
        report(3.5 * (1 << 20), 4 << 20, "bytes")
        seen.wait_for("migrating vm0", "87 %", "3.5 of 4 MiB")
        report(12, None, "clusters")
        seen.wait_for("migrating vm0", "12 clusters, 0 s")
        report(1, 2)
        seen.wait_for("migrating vm0", "50 %, 0 s, about 0 s left")
    assert seen.told[-1] is None
    assert seen.told.count(None) == 1


def test_what_is_soon_done_is_not_told(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    with progress("a moment") as report:
        report(1, 2)
    assert seen.told == []


def test_the_newest_is_shown_and_then_the_one_around_it(seen: Seen) -> None:
    with progress("outer"):
        seen.wait_for("outer")
        with progress("inner"):
            seen.wait_for("inner")
        assert seen.told[-1] is None
        del seen.told[:]
        seen.wait_for("outer")
    assert seen.told[-1] is None


def test_several_threads_and_an_error_leave_nothing_shown(seen: Seen) -> None:
    def work(number: int) -> None:
        with progress(f"work {number}") as report:
            for done in range(50):
                report(done, 50)
                time.sleep(0.002)
            raise KeyError(number)

    def fail(number: int) -> None:
        with pytest.raises(KeyError):
            work(number)

    threads = [threading.Thread(target=fail, args=(one,)) for one in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.told
    assert seen.told[-1] is None


def test_the_thread_that_shows_ends_with_the_last(seen: Seen) -> None:
    with progress("this"):
        seen.wait_for("this")
        (thread,) = (one for one in threading.enumerate() if one.name == "qmp-progress")
    thread.join(20)
    assert not thread.is_alive()


def test_a_sink_taken_away_in_the_middle_is_cleared(seen: Seen) -> None:
    with progress("this") as report:
        seen.wait_for("this")
        assert set_progress_sink(None) is seen
        assert seen.told[-1] is None
        report(1, 2)
    assert seen.told[-1] is None


def test_nobody_watching_costs_nothing_and_starts_nothing() -> None:
    before = set_progress_sink(None)
    try:
        threads = set(threading.enumerate())
        with progress("this") as report:
            report(1, 2)
            assert set(threading.enumerate()) <= threads
    finally:
        set_progress_sink(before)


def test_a_forked_child_shows_nothing(seen: Seen) -> None:
    child = os.fork()
    if child == 0:
        with progress("in the child"):
            os._exit(len([one for one in threading.enumerate() if one.name == "qmp-progress"]))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59, "59 s"), (61, "1:01 min"), (3725, "1:02:05 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert module._duration(seconds) == text
