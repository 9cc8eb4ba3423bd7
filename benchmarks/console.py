"""What reading a console costs: expects over a log, beside a bare socket and pexpect as it comes.

A log comes through a socket, as from QEMU; its last line is what is looked for. All readers take
turns in one run; times are medians, rates are MB/s, and the ratio is that to the floor within a
round. Then the memory that a log of 50 MB takes: what Python allocates at most (tracemalloc) and
what the process grows by. Usage: ``python benchmarks/console.py [--quick]``.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pexpect import socket_pexpect

from pytest_qmp.vm.console import Console
from pytest_qmp.vm.stream import OutputStream
from pytest_qmp.vm.supervisor import drain
from pytest_qmp.vm.verdict_board import VerdictBoard

MEGABYTE = 1_000_000
LAST = "guest login: "
LITERAL = "guest login: "
LINE = r"guest \w+: "
MANY_LINES = r"Linux version 9\.9.*guest \w+: "
ROUNDS = 5

Reader = Callable[[socket.socket, str], None]


def log_of(size: int) -> bytes:
    """Lines as a booting kernel writes them."""
    lines = []
    length = 0
    for number in range(size):
        line = f"[{number / 1000:12.6f}] systemd[1]: Started unit {number:08x} of the guest.\r\n"
        lines.append(line)
        length += len(line)
        if length >= size:
            break
    return "".join(lines).encode() + LAST.encode()


@contextmanager
def writing(data: bytes) -> Iterator[socket.socket]:
    """A socket to which somebody writes that, and then nothing."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=theirs.sendall, args=(data,))
    thread.start()
    try:
        yield ours
    finally:
        thread.join()
        theirs.close()
        ours.close()


def floor(sock: socket.socket, pattern: str) -> None:
    """Reads all of it, then searches once."""
    wanted = re.compile(pattern.encode(), re.DOTALL)
    pieces = [b""]
    while not b"".join(pieces[-2:]).endswith(LAST.encode()):
        pieces.append(sock.recv(1 << 18))
    if wanted.search(b"".join(pieces)) is None:
        raise SystemExit("the floor has missed it")


@contextmanager
def console_on(sock: socket.socket) -> Iterator[Console]:
    """Ours, drained in the background as a machine's is."""
    stream = OutputStream()
    attendance = drain(sock, stream.feed)
    board = VerdictBoard((), lambda verdict, limit: "", watched=False, firmware_resets=False)
    console = Console("log", sock, stream, timeout=600, explain_end=lambda: "", board=board)
    try:
        yield console
    finally:
        attendance.stop()
        console.close()
        stream.close()


def ours(sock: socket.socket, pattern: str) -> None:
    """``expect`` at a console."""
    with console_on(sock) as console:
        console.expect(pattern)


def ours_exact(sock: socket.socket, pattern: str) -> None:
    """``expect_exact`` at a console."""
    with console_on(sock) as console:
        console.expect_exact(pattern)


def pexpect_plain(sock: socket.socket, pattern: str) -> None:
    """pexpect as it comes."""
    spawn = socket_pexpect.SocketSpawn(sock, timeout=600)
    spawn.expect(pattern.encode())


def pexpect_window(sock: socket.socket, pattern: str) -> None:
    """pexpect with its fast setting, which misses what much text follows in one read."""
    spawn = socket_pexpect.SocketSpawn(sock, timeout=600, maxread=65536, searchwindowsize=4096)
    spawn.expect(pattern.encode())


def pexpect_exact(sock: socket.socket, pattern: str) -> None:
    """pexpect as it comes, for a plain text."""
    spawn = socket_pexpect.SocketSpawn(sock, timeout=600)
    spawn.expect_exact(pattern.encode())


def measure(title: str, size: int, pattern: str, readers: dict[str, Reader], rounds: int) -> None:
    """Prints one table."""
    data = log_of(size)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            with writing(data) as sock:
                began = time.perf_counter()
                reader(sock, pattern)
                times[name].append(time.perf_counter() - began)
    print(f"\n{title}, {size / MEGABYTE:g} MB", flush=True)
    bare = times["bare socket"]
    for name, taken in times.items():
        middle = statistics.median(taken)
        ratio = statistics.median(one / base for one, base in zip(taken, bare, strict=True))
        rate = size / MEGABYTE / middle
        print(f"  {name:34} {middle * 1000:10.1f} ms {rate:8.1f} MB/s {ratio:9.2f} x")


def drained(title: str, size: int, rounds: int) -> None:
    """The same where all has come before anybody looks: what the search alone costs."""
    data = log_of(size)
    print(f"\n{title}, {size / MEGABYTE:g} MB, all there before")
    for name, pattern, exact in (
        ("expect_exact, a plain text", LITERAL, True),
        ("expect, a plain text", LITERAL, False),
        ("expect, within a line", LINE, False),
        ("expect, over many lines", MANY_LINES, False),
    ):
        taken = []
        for _ in range(rounds):
            stream = OutputStream()
            first = b"Linux version 9.9\r\n" if pattern is MANY_LINES else b""
            stream.feed(first + data)
            board = VerdictBoard(
                (), lambda verdict, limit: "", watched=False, firmware_resets=False
            )
            ours, theirs = socket.socketpair()
            console = Console("log", ours, stream, timeout=60, explain_end=lambda: "", board=board)
            began = time.perf_counter()
            (console.expect_exact if exact else console.expect)(pattern)
            taken.append(time.perf_counter() - began)
            stream.close()
            ours.close()
            theirs.close()
        middle = statistics.median(taken)
        print(f"  {name:34} {middle * 1000:10.1f} ms {size / MEGABYTE / middle:8.1f} MB/s")


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory(size: int) -> None:
    """What a log of that size takes; in a process of its own."""
    data = log_of(size)
    with writing(data) as sock, console_on(sock) as console:
        before = resident()
        console.expect_exact(LITERAL)
        print(f"  the process grew by {(resident() - before) / MEGABYTE:.1f} MB")
    with writing(data) as sock, console_on(sock) as console:
        tracemalloc.start()
        console.expect(LINE)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"  Python allocated {peak / MEGABYTE:.1f} MB at most")
        if len(console.before or "") < size - 100:
            raise SystemExit("the text before the match is not whole")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less, in some seconds")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory(options.memory)
        return
    rounds = 3 if options.quick else ROUNDS
    exact: dict[str, Reader] = {
        "bare socket": floor,
        "expect_exact": ours_exact,
        "pexpect, expect_exact": pexpect_exact,
    }
    within: dict[str, Reader] = {
        "bare socket": floor,
        "expect": ours,
        "pexpect, searchwindowsize 4096": pexpect_window,
    }
    slow = {**within, "pexpect as it comes": pexpect_plain}
    measure("A plain text", 5 * MEGABYTE, LITERAL, exact, rounds)
    measure("A regular expression", MEGABYTE // 10, LINE, slow, rounds)
    measure("A regular expression", MEGABYTE, LINE, within if options.quick else slow, rounds)
    measure("A regular expression", 5 * MEGABYTE, LINE, within, rounds)
    drained("The search alone", 5 * MEGABYTE, rounds)
    print("\nMemory of a log of 50 MB, read to its end")
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, "--memory", str(50 * MEGABYTE)], check=True)


if __name__ == "__main__":
    main()
