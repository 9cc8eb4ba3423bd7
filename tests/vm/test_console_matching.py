"""What an expect finds: what one search of the whole text finds, however the text came."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qmp import ConsoleEOFError, ConsoleTimeoutError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm import expecter
from pytest_qmp.vm.console import Console
from pytest_qmp.vm.pattern_bounds import bounds_of
from pytest_qmp.vm.searching import Searcher
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.unread import UnreadText
from tests.vm.tty import console_on

# -- against a search of the whole text ------------------------------------------------------------

TEXTS = st.text(alphabet="ab\n\r #é€", max_size=80)
CHARACTERS = ["a", "b", "#", "é", r"\n", " ", ".", r"\w", r"\s", r"\S", "[^a]", "[ab]", r"[^\n]"]
PLACES = ["^", "$", r"\b", r"\B", r"\Z", "(?<=a)", "(?<!ab)", r"(?<=\n)"]
EXPRESSIONS = st.recursive(
    st.sampled_from(CHARACTERS + PLACES),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        inner.map(lambda one: f"(?={one})"),
        inner.map(lambda one: f"(?!{one})"),
        inner.map(lambda one: f"({one})"),
    ),
    max_leaves=6,
)
REPEATS = st.tuples(
    st.sampled_from(CHARACTERS), st.sampled_from(["*", "+", "?", "*?", "+?", "{1,3}", "{0,2}?"])
).map("".join)
PATTERNS = st.builds(
    re.compile,
    st.lists(EXPRESSIONS | REPEATS, min_size=1, max_size=4).map("".join),
    st.sampled_from([0, re.DOTALL, re.MULTILINE, re.DOTALL | re.IGNORECASE]),
)
WANTED = st.lists(
    PATTERNS | st.text(alphabet="ab\n#", min_size=1, max_size=4), min_size=1, max_size=3
)


def reference(wanted: list[Any], text: str) -> tuple[int, int, int] | None:
    best = None
    for index, one in enumerate(wanted):
        found = re.search(re.escape(one), text) if isinstance(one, str) else one.search(text)
        if found is not None and (best is None or found.start() < best[1]):
            best = index, found.start(), found.end()
    return best


def step(unread: UnreadText, stream: OutputStream, wanted: list[Any]) -> Any:
    steps = expecter.expecting(unread, stream, Searcher(wanted), Deadline(0), lambda: math.inf)
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    except expecter.Ending:
        return None
    raise AssertionError("it waits, with no time left")


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, wanted=WANTED, first=st.integers(1, 9), largest=st.integers(1, 40))
def test_every_match_is_that_of_a_search_of_the_whole(
    text: str, wanted: list[Any], first: int, largest: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expecter, "_FIRST_PIECE", first)
        patch.setattr(expecter, "_LARGEST_PIECE", largest)
        patch.setattr("pytest_qmp.vm.unread._KEPT", 4)
        stream = OutputStream()
        stream.feed(text.encode())
        unread = UnreadText(stream, lambda text: None)
        rest = text
        for _ in range(8):
            expected = reference(wanted, rest)
            found = step(unread, stream, wanted)
            if expected is None or found is None:
                assert found is None
                assert expected is None
                break
            before = unread.before(found.start)
            if isinstance(before, tuple):
                before = stream.read_at(before[0], before[1] - before[0]).decode()
            matched = unread.text[found.start : found.end]
            index, start, end = expected
            assert (found.index, before, matched) == (index, rest[:start], rest[start:end])
            unread.consume(found.end)
            rest = rest[end:]
            if not end:
                break
        stream.close()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60), size=st.integers(1, 7))
def test_text_is_decoded_as_in_one_go(data: bytes, size: int) -> None:
    stream = OutputStream()
    stream.feed(data)
    stream.feed(b"")
    pieces: list[str] = []
    unread = UnreadText(stream, pieces.append)
    while unread.take(size):
        pass
    text = data.decode("utf-8", "replace")
    assert unread.text == text == "".join(pieces)
    for end in range(len(text) + 1):
        copy = UnreadText(stream, lambda text: None)
        while copy.take(size):
            pass
        copy.consume(end)
        assert data[: copy.start].decode("utf-8", "replace") == text[:end]
        assert data[copy.start :].decode("utf-8", "replace") == text[end:]
    stream.close()


@pytest.mark.parametrize(
    ("pattern", "width", "newlines"),
    [
        (r"login: ", 7, 0),
        (r"a{2,5}\n?", 6, 1),
        (r"(\w+)@\w+", math.inf, 0),
        (r"(?s).*x", math.inf, math.inf),
        (r".*x", math.inf, 0),
        (r"a(?=bc)", 3, 0),
        (r"(ab)\1", 4, 0),
        (r"a$", 3, 1),
        (r"[^a]|\s", 1, 1),
        (r"(?m)x$", 3, 1),
    ],
)
def test_how_far_a_pattern_can_look(pattern: str, width: float, newlines: float) -> None:
    bounds = bounds_of(re.compile(pattern))
    assert (bounds.width, bounds.newlines) == (width, newlines)


# -- at a console ----------------------------------------------------------------------------------


@pytest.fixture
def console() -> Iterator[tuple[Console, socket.socket]]:
    ours, theirs = socket.socketpair()
    with console_on(ours) as one:
        yield one, theirs
    theirs.close()


Pair = tuple[Console, socket.socket]


def test_a_match_followed_by_much_text_is_found(console: Pair) -> None:
    spawn, guest = console
    spawn.searchwindowsize = 4096
    guest.sendall(b"x" * 5000 + b"login: " + b"y" * 100_000)
    spawn.expect("login: ")
    assert spawn.before == "x" * 5000
    spawn.expect("y{100000}", searchwindowsize=None)


@pytest.mark.parametrize(
    ("pieces", "patterns", "found"),
    [
        (["fo", "obar\n"], ["foobar", "foo"], "foobar"),
        (["total 12", "34", "5 kB"], [r"\d+"], "12345"),
        (["gue", "st#", " "], ["guest# *$"], "guest# "),
        (["o", "k\r", "\n"], ["okay", "ok"], "ok"),
    ],
)
def test_pieces_that_come_at_once_are_one(
    console: Pair, pieces: list[str], patterns: list[str], found: str
) -> None:
    spawn, guest = console
    for piece in pieces:
        guest.sendall(piece.encode())
    spawn.expect(patterns)
    assert spawn.after == found


def test_what_nothing_can_change_is_taken_at_once(console: Pair) -> None:
    spawn, guest = console
    spawn.expect_exact([pexpect.TIMEOUT], timeout=0)
    began = time.monotonic()
    for _ in range(50):
        guest.sendall(b"MemTotal: 123 kB\r\nguest# ")
        assert spawn.expect([r"Mem\w+: +(\d+) kB", "never"]) == 0
        spawn.expect_exact(["guest# ", "other"])
    # Waiting for what may follow would take 10 ms each time.
    assert time.monotonic() - began < 50 * 2 * expecter._QUIET_SECONDS


def test_short_lines_of_a_long_backlog_cost_their_own_length(console: Pair) -> None:
    spawn, guest = console
    data = b"".join(b"line %d\r\n" % number for number in range(60_000)) + b"end"
    writer = threading.Thread(target=guest.sendall, args=(data,))
    writer.start()
    assert spawn.expect(["end$", "nothing"], timeout=60) == 0
    writer.join()
    spawn.buffer = ""
    guest.sendall(data[:200_000])
    spawn.expect_exact("line 10000\r\n")
    for number in range(10_001, 12_000):
        assert spawn.readline() == f"line {number}\r\n"
    for number in range(12_000, 13_000):
        spawn.expect(r"(.*?)\r\n")
        assert spawn.match[1] == f"line {number}"


def test_a_long_log_costs_no_memory(console: Pair) -> None:
    spawn, guest = console
    piece = b"[    1.000000] something that a kernel says\r\n" * 12_000
    writer = threading.Thread(target=guest.sendall, args=(piece * 10,))
    tracemalloc.start()
    writer.start()
    with pytest.raises(ConsoleTimeoutError):
        spawn.expect([r"panic: \w+", "nothing"], timeout=1)
    writer.join()
    guest.sendall(b"panic: oh\n")
    spawn.expect(r"panic: (\w+)")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000
    assert spawn.before is not None
    assert len(spawn.before) == 10 * len(piece)


def test_what_was_looked_through_in_vain_is_there_for_the_next(console: Pair) -> None:
    spawn, guest = console
    data = b"first\n" + b"line\n" * 400_000
    writer = threading.Thread(target=guest.sendall, args=(data,))
    writer.start()
    writer.join()
    spawn.expect([r"never \w+", pexpect.TIMEOUT], timeout=0.1)
    # The same again costs nothing: only what has come since is looked at.
    began = time.monotonic()
    for _ in range(200):
        assert spawn.expect([r"never \w+", pexpect.TIMEOUT], timeout=0) == 1
    assert time.monotonic() - began < 2
    guest.sendall(b"never say\n")
    assert spawn.expect([r"never \w+", pexpect.TIMEOUT]) == 0
    assert spawn.before == data.decode()
    spawn.buffer = ""
    guest.sendall(data)
    spawn.expect([r"never \w+", pexpect.TIMEOUT], timeout=0.5)
    spawn.expect_exact("first")
    assert spawn.before == ""


def test_a_guest_that_writes_bit_by_bit_costs_no_more(console: Pair) -> None:
    spawn, guest = console

    def write() -> None:
        for number in range(4000):
            guest.sendall(b"%04d " % number * 50)

    writer = threading.Thread(target=write)
    writer.start()
    began = time.process_time()
    # It may begin anywhere, so that all of it has to be kept and searched.
    spawn.expect("0001.*3999 $", timeout=60)
    writer.join()
    assert time.process_time() - began < 10


def test_all_of_the_surface(console: Pair) -> None:
    spawn, guest = console
    guest.sendall(b"one\r\ntwo\r\nthree four")
    assert spawn.readline() == "one\r\n"
    assert spawn.read(2) == "tw"
    assert spawn.buffer == "o\r\nthree four"
    spawn.buffer = "given"
    spawn.expect_exact("giv")
    assert spawn.expect_list([re.compile("x"), re.compile("e(n)")]) == 1
    assert (spawn.match_index, spawn.match[1], spawn.before) == (1, "n", "")
    guest.sendall(b"\nTAIL\nnext")
    spawn.expect(re.compile("^tail$", re.IGNORECASE | re.MULTILINE))
    assert spawn.expect([pexpect.TIMEOUT, "never"], timeout=0) == 0
    assert spawn.after is pexpect.TIMEOUT
    assert spawn.before == "\nnext"
    assert spawn.read_nonblocking(2) == "\nn"
    guest.shutdown(socket.SHUT_WR)
    assert list(spawn) == ["ext"]
    assert spawn.expect([pexpect.EOF]) == 0
    with pytest.raises(ConsoleEOFError):
        spawn.expect("more")
    with pytest.raises(pexpect.EOF):
        spawn.read_nonblocking(1, 0)
    for wrong in (5, ["x", 5]):
        with pytest.raises(TypeError, match="as pattern"):
            spawn.expect(wrong)
        with pytest.raises(TypeError, match="as pattern"):
            spawn.expect_exact(wrong)


def test_logfile_gets_each_text_once(console: Pair) -> None:
    import io

    spawn, guest = console
    spawn.logfile_read = io.StringIO()
    guest.sendall("a é\r\n".encode() * 5000)
    for _ in range(300):
        spawn.expect("\n")
    guest.sendall(b"end")
    spawn.expect("end")
    assert spawn.logfile_read.getvalue() == "a é\r\n" * 5000 + "end"


def test_an_awaitable(console: Pair) -> None:
    spawn, guest = console

    async def talk() -> list[int]:
        waiting = asyncio.ensure_future(spawn.expect(["no", "yes"], async_=True))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        guest.sendall(b"yes")
        first = await waiting
        with pytest.raises(ConsoleTimeoutError, match="'more'"):
            await spawn.expect("more", timeout=0.05, async_=True)
        guest.sendall(b"exactly")
        return [first, await spawn.expect_exact("act", async_=True)]

    assert asyncio.run(talk()) == [1, 0]
    assert spawn.before == "ex"


def test_a_text_that_is_a_pattern_twice_is_found_twice(console: Pair) -> None:
    spawn, guest = console
    guest.sendall(b"# # ")
    spawn.expect("# ")
    spawn.expect("# ")
    with pytest.raises(ConsoleTimeoutError):
        spawn.expect("# ", timeout=0)


def test_seen_takes_nothing(console: Pair) -> None:
    spawn, guest = console
    guest.sendall(b"hello world\n")
    spawn.expect("hello")
    assert spawn.seen("h(el)lo", timeout=0)[1] == "el"
    assert spawn.seen("nothing", timeout=0) is None
    spawn.expect("world")


def test_the_last_lines_are_what_a_person_sees(console: Pair) -> None:
    spawn, guest = console
    guest.sendall(b"loading  10%\rloading 100%\r\nloginx\b: \x1b[31mred\x1b[0m\r\na\tb\x1b[K\r\n")
    with pytest.raises(ConsoleTimeoutError) as caught:
        spawn.expect("nothing", timeout=0.01)
    assert str(caught.value).endswith("  | loading 100%\n  | login: red\n  | a       b")
