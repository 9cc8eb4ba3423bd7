"""The memory of a run's machines: what the host has, and who gets how much of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_qmp import VMConfig, VMLaunchError
from pytest_qmp.qmp.deadline import limits
from pytest_qmp.vm.host_memory import available_memory, format_memory, total_memory
from pytest_qmp.vm.memory_ledger import MemoryLedger, guest_memory
from pytest_qmp.vm.shared_state import SharedState, process_started

GIB = 1 << 30


def files(root: Path, **contents: str) -> Path:
    """A root folder with those files; ``__`` in a name stands for a slash, ``_o_`` for a dot."""
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("_o_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   4194304 kB\n"


def test_the_host_has_what_the_kernel_says(tmp_path: Path) -> None:
    root = files(tmp_path, proc__meminfo=MEMINFO)
    assert (total_memory(root), available_memory(root)) == (8 * GIB, 4 * GIB)


def test_a_control_group_has_less(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/box/run\n",
        sys__fs__cgroup__box__memory_o_max=f"{2 * GIB}\n",
        sys__fs__cgroup__box__memory_o_current=f"{GIB}\n",
        sys__fs__cgroup__box__memory_o_stat=f"anon 1\ninactive_file {GIB // 2}\n",
        sys__fs__cgroup__box__run__memory_o_max="max\n",
        sys__fs__cgroup__box__run__memory_o_current="5\n",
        sys__fs__cgroup__box__run__memory_o_stat="inactive_file 1\n",
    )
    assert (total_memory(root), available_memory(root)) == (2 * GIB, 3 * GIB // 2)


def test_a_control_group_of_the_old_kind(tmp_path: Path) -> None:
    folder = "sys__fs__cgroup__memory__memory_o_"
    root = files(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="4:cpu,memory:/not/seen/from/here\n0::/\n",
        **{
            f"{folder}limit_in_bytes": f"{3 * GIB}",
            f"{folder}usage_in_bytes": f"{GIB}",
            f"{folder}stat": "total_inactive_file 0\n",
        },
    )
    assert (total_memory(root), available_memory(root)) == (3 * GIB, 2 * GIB)


def test_a_host_that_does_not_say_has_what_is_built_in(tmp_path: Path) -> None:
    assert total_memory(tmp_path) == available_memory(tmp_path) > 0


def test_this_host() -> None:
    assert 0 < available_memory() <= total_memory()
    assert format_memory(3 * GIB // 2) == "1.5 GiB"


@pytest.mark.parametrize(
    ("config", "mib"),
    [
        (VMConfig(), 128),
        (VMConfig(memory="1G"), 1024),
        (VMConfig(args=["-m", "2G"]), 2048),
        (VMConfig(memory="1G", args=["-m", "64", "--m", "maxmem=4G,size=96M"]), 96),
        (VMConfig(args=["-m", "lots"]), 128),
        (VMConfig(args=["-m"]), 128),
    ],
)
def test_what_a_guest_gets(config: VMConfig, mib: int) -> None:
    assert guest_memory(config) == mib << 20


# -- the ledger ------------------------------------------------------------------------------------

Ledger = Callable[..., MemoryLedger]


@pytest.fixture(params=["alone", "shared"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """Makes ledgers of a host with 8 GiB, 4 of them to spare; those with one file are one run's."""
    state = SharedState(tmp_path / "memory.json" if request.param == "shared" else None)

    def ledger(maximum: int | None = None) -> MemoryLedger:
        return MemoryLedger(state, maximum, total=lambda: 8 * GIB, available=lambda: 4 * GIB)

    return ledger


def test_what_fits_is_had_at_once_and_given_back(ledger: Ledger) -> None:
    book = ledger()
    for _ in range(3):
        one, two = book.reserve(3 * GIB, "a"), book.reserve(GIB, "b")
        two.release()
        two.release()
        one.release()


def test_more_than_the_host_has_fails_at_once(ledger: Ledger) -> None:
    with pytest.raises(VMLaunchError, match=r"a asks for 9 GiB .* has no more than 8 GiB: give"):
        ledger().reserve(9 * GIB, "a")


def test_more_than_the_maximum_fails_at_once(ledger: Ledger) -> None:
    with pytest.raises(VMLaunchError, match=r"a asks for 3 GiB .* --qmp-max-memory .* 2 GiB"):
        ledger(2 * GIB).reserve(3 * GIB, "a")


def test_one_alone_may_have_more_than_is_to_spare_now(ledger: Ledger) -> None:
    # Nobody of ours could give anything back, and QEMU takes memory only as the guest uses it.
    ledger().reserve(6 * GIB, "a")


def test_more_than_the_own_machines_leave_fails_at_once(ledger: Ledger) -> None:
    book = ledger()
    book.reserve(3 * GIB, "the first")
    with pytest.raises(
        VMLaunchError, match=r"never will be 2 GiB .* for the second.* for the first \(3 GiB\)"
    ):
        book.reserve(2 * GIB, "the second")


def test_what_an_ended_machine_had_is_free_again(ledger: Ledger) -> None:
    book = ledger()
    book.reserve(3 * GIB, "the first").is_over = lambda: True
    book.reserve(3 * GIB, "the second")


def test_the_maximum_counts_too(ledger: Ledger) -> None:
    book = ledger(GIB)
    book.reserve(GIB, "a")
    with pytest.raises(VMLaunchError, match="of 1 GiB, 1 GiB are reserved"):
        book.reserve(1, "b")


# -- between processes -----------------------------------------------------------------------------

OTHER = """
import sys
from pathlib import Path
from pytest_qmp.vm.memory_ledger import MemoryLedger
from pytest_qmp.vm.shared_state import SharedState
book = MemoryLedger(
    SharedState(Path(sys.argv[1])), total=lambda: 8 << 30, available=lambda: 4 << 30
)
held = []
for line in sys.stdin:
    if line.strip() == "release":
        held.pop().release()
    else:
        held.append(book.reserve(int(line) << 30, "the other"))
    print("done", flush=True)
"""


class Other:
    """A worker in a process of its own, which holds memory or waits for some."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def done(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "memory.json"


@pytest.fixture
def other(file: Path) -> Iterator[Other]:
    other = Other(file)
    yield other
    other.end()


@pytest.fixture
def book(file: Path) -> MemoryLedger:
    return MemoryLedger(SharedState(file), total=lambda: 8 * GIB, available=lambda: 4 * GIB)


def wait_until(met: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not met():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_it_waits_until_another_process_gives_back(book: MemoryLedger, other: Other) -> None:
    other.tell("3")
    other.done()
    said: list[str] = []
    release = threading.Timer(1.2, other.tell, ["release"])
    release.start()
    started = time.monotonic()
    book.reserve(2 * GIB, "mine", on_wait=said.append, timeout=20)
    assert time.monotonic() - started > 1
    assert said == [
        "waiting for 2 GiB of memory for mine: of 4 GiB, 3 GiB are reserved, for the other (3 GiB)"
    ]
    release.join()


def test_a_wait_has_a_limit_and_leaves_nothing(
    book: MemoryLedger, other: Other, file: Path
) -> None:
    other.tell("3")
    other.done()
    with pytest.raises(VMLaunchError, match=r"waited 0.1 s for 2 GiB of memory for mine: of 4 GiB"):
        book.reserve(2 * GIB, "mine", timeout=0.1)
    with SharedState(file).locked() as state:
        assert [one["who"] for one in state["entries"]] == ["the other"]


def test_a_wait_does_not_outlive_its_test(book: MemoryLedger, other: Other) -> None:
    other.tell("3")
    other.done()
    end = limits.end_waits_by(time.monotonic() + 0.1, " (all that the test has left)")
    try:
        with pytest.raises(
            VMLaunchError, match=r"waited 0\.\d+ s \(all that the test has left\) for"
        ):
            book.reserve(2 * GIB, "mine")
    finally:
        limits.lift(end)


def test_what_a_killed_process_had_is_free_again(book: MemoryLedger, other: Other) -> None:
    other.tell("3")
    other.done()
    other.end()
    book.reserve(4 * GIB, "mine", timeout=0)


def test_a_number_that_is_another_process_by_now_does_not_count(
    book: MemoryLedger, file: Path
) -> None:
    entry = {"ticket": "x", "pid": os.getpid(), "started": "1", "size": 4 * GIB, "who": "dead"}
    with SharedState(file).locked() as state:
        state["entries"] = [{**entry, "holds": True}]
    book.reserve(4 * GIB, "mine", timeout=0)


def test_first_come_first_served(book: MemoryLedger, other: Other, file: Path) -> None:
    """A small one does not keep overtaking a large one."""
    mine = book.reserve(2 * GIB, "mine")
    other.tell("3")

    def waits() -> bool:
        with SharedState(file).locked() as state:
            return len(state["entries"]) == 2

    wait_until(waits)
    third = Other(file)
    try:
        third.tell("1")
        wait_until(lambda: "entries" in file.read_text() and file.read_text().count("ticket") == 3)
        mine.release()
        other.done()
        third.done()
    finally:
        third.end()


def test_who_holds_some_goes_before_who_waits_with_nothing(
    book: MemoryLedger, other: Other, file: Path
) -> None:
    book.reserve(GIB, "mine")
    other.tell("4")
    wait_until(lambda: file.read_text().count("ticket") == 2)
    book.reserve(GIB, "mine too", timeout=0)


def test_two_that_wait_for_each_other_do_not_wait_for_ever(
    book: MemoryLedger, other: Other, file: Path
) -> None:
    book.reserve(2 * GIB, "mine")
    other.tell("2")
    other.done()
    other.tell("1")
    wait_until(lambda: file.read_text().count("ticket") == 3)
    with pytest.raises(VMLaunchError, match=r"never will be .*all of these wait"):
        book.reserve(GIB, "mine too", timeout=20)


# -- what is shared --------------------------------------------------------------------------------


def test_many_processes_lose_no_change(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from pytest_qmp.vm.shared_state import SharedState\n"
        "for _ in range(100):\n"
        "    with SharedState(Path(sys.argv[1])).locked() as state:\n"
        "        state['count'] = state.get('count', 0) + 1\n"
    )
    path = tmp_path / "count.json"
    command = [sys.executable, "-c", script, str(path)]
    for process in [subprocess.Popen(command) for _ in range(4)]:
        assert process.wait(60) == 0
    with SharedState(path).locked() as state:
        assert state == {"count": 400}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["count.json", "count.lock"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_exception_in_the_block_changes_nothing(tmp_path: Path) -> None:
    shared = SharedState(tmp_path / "x.json")

    def fail_half_way() -> None:
        with shared.locked() as state:
            state["half"] = "done"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with shared.locked() as state:
        assert state == {}


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "x.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"), SharedState(tmp_path / "x.json").locked():
        pass
    assert not victim.exists()


def test_a_process_is_known_by_its_start() -> None:
    assert process_started(os.getpid()) == process_started(os.getpid()) is not None
    ended = subprocess.Popen(["true"])
    try:
        wait_until(lambda: process_started(ended.pid) is None)
    finally:
        ended.wait()
    assert process_started(ended.pid) is None
