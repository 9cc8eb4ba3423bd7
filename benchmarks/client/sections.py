"""What is measured: one function a table."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.client.clients import Client, EventKeeping, Pipelining
from benchmarks.client.servers import EVENT, EventStorm, RealQEMU
from benchmarks.client.timing import Kind, Rival, Section, compare

__all__ = ["SECTIONS"]

_DEPTH = 8
_SLOW_PEER_ROUNDS = 3


def _connecting(
    client: Client, address: str, run: Callable[[], object], work: int, rounds: int | None = None
) -> Rival:
    """One that connects for its turn, so that QEMU serves no other monitor meanwhile."""
    return Rival(
        client.name, client.kind, run, partial(client.open, address), client.close, work, rounds
    )


def round_trip(clients: Sequence[Client], quick: bool) -> Section:
    """query-status against a QEMU with one monitor, which the clients use in turn."""
    calls = 50
    with RealQEMU() as qemu:
        rivals = [
            _connecting(
                client, qemu.address(), partial(client.execute, "query-status", calls), calls
            )
            for client in clients
        ]
        rows = compare(rivals, 20 if quick else 200)
    return Section("Round trip of query-status", "us", rows, "≤ 1.15 x floor, async ≤ 1.5 x")


def round_trip_together(clients: Sequence[Client], quick: bool) -> Section:
    """The same against a QEMU with a monitor for each client, as FLOORS had it: QEMU is slower."""
    calls = 50
    with RealQEMU(len(clients)) as qemu, ExitStack() as stack:
        rivals = []
        for number, client in enumerate(clients):
            client.open(qemu.address(number))
            stack.callback(client.close)
            run = partial(client.execute, "query-status", calls)
            rivals.append(Rival(client.name, client.kind, run, work=calls))
        rows = compare(rivals, 10 if quick else 100)
    title = f"The same, {len(clients)} monitors on that QEMU"
    return Section(title, "us", rows, "≤ 1.15 x floor, async ≤ 1.5 x")


def pipelined(clients: Sequence[Client], quick: bool) -> Section:
    """query-status, several at once."""
    calls = 8 * _DEPTH
    with RealQEMU() as qemu:
        rivals = [
            _connecting(
                client,
                qemu.address(),
                partial(client.pipeline, "query-status", _DEPTH, calls),
                calls,
            )
            for client in clients
            if isinstance(client, Pipelining) and client.kind != "step"
        ]
        rows = compare(rivals, 20 if quick else 200)
    return Section(f"Pipelined, {_DEPTH} at once, a command", "us", rows)


def large_reply(clients: Sequence[Client], quick: bool) -> Section:
    """query-qmp-schema, some 207 kB."""
    with RealQEMU() as qemu:
        rivals = [
            _connecting(client, qemu.address(), partial(client.execute, "query-qmp-schema", 1), 1)
            for client in clients
        ]
        rows = compare(rivals, 5 if quick else 40)
    return Section("Reply of 207 kB (query-qmp-schema)", "ms", rows, "≤ 1.25 x floor")


def connecting(clients: Sequence[Client], quick: bool) -> Section:
    """Connect, greeting, qmp_capabilities, close."""
    with RealQEMU() as qemu:
        rivals = []
        for client in clients:

            def visit(client: Client = client) -> None:
                client.open(qemu.address())
                client.close()

            # QEMU looks after the one who left before it listens again.
            rivals.append(Rival(client.name, client.kind, visit, partial(time.sleep, 0.002)))
        rows = compare([rival for rival in rivals if "way" not in rival.name], 30 if quick else 300)
    return Section("Connect, negotiate, close", "ms", rows, "≤ 1.2 x floor")


def events(clients: Sequence[Client], quick: bool) -> Iterator[Section]:
    """A flood of events: until they are kept, and until each was looked at."""
    count = 10_000 if quick else 100_000
    keepers = [client for client in clients if isinstance(client, EventKeeping)]
    size = f"{count:,} events of {len(EVENT)} bytes"
    with EventStorm(count) as storm:

        def rivals(run: Callable[[EventKeeping], None]) -> list[Rival]:
            return [
                _connecting(
                    client,
                    storm.address(),
                    partial(run, client),
                    count,
                    _SLOW_PEER_ROUNDS if client.kind == "peer" else None,
                )
                for client in keepers
            ]

        rounds = 3 if quick else 9
        kept = compare(rivals(lambda client: client.keep_storm()), rounds)
        looked = compare(rivals(lambda client: _keep_and_look(client, count)), rounds)
        memory = tuple(_memory(keepers, storm))
    yield Section(f"Kept, {size}", "k/s", kept, "≥ 1,000 k/s, ≤ 250 bytes each", memory)
    yield Section(f"Kept and each looked at, {size}", "k/s", looked, "≥ 150 k/s")


def _keep_and_look(client: EventKeeping, count: int) -> None:
    client.keep_storm()
    found = client.look()
    if found != count:
        raise RuntimeError(f"{client.name} kept {found} of {count} events")


def _memory(keepers: Sequence[EventKeeping], storm: EventStorm) -> Iterator[str]:
    for client in keepers:
        if client.kind == "floor":
            continue
        client.open(storm.address())
        tracemalloc.start()
        try:
            client.keep_storm()
            each = tracemalloc.get_traced_memory()[0] / storm.count
        finally:
            tracemalloc.stop()
            client.close()
        yield f"{client.name}: {each:,.0f} bytes of memory an event kept."


def importing(clients: Sequence[Client], quick: bool) -> Section:
    """A new interpreter that imports the client, beside one that imports socket and json."""
    installed = {client.package for client in clients}
    statements: list[tuple[str, Kind, str]] = [
        ("import socket, json", "floor", ""),
        ("from pytest_qmp import QMPClient", "ours", ""),
        ("from pytest_qmp import AsyncQMPClient", "ours", ""),
        ("import qemu.qmp", "peer", "qemu.qmp"),
        ("import qmp", "peer", "qmp"),
    ]
    with tempfile.TemporaryDirectory() as cache:
        # All of them compiled, whatever this environment says of that.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        rivals = [
            Rival(
                statement,
                kind,
                partial(
                    subprocess.run, [sys.executable, "-c", statement], env=environment, check=True
                ),
            )
            for statement, kind, package in statements
            if not package or package in installed
        ]
        rows = compare(rivals, 5 if quick else 31)
    return Section("Interpreter and import", "ms", rows)


SECTIONS: dict[str, Callable[[Sequence[Client], bool], Section | Iterator[Section]]] = {
    "round-trip": round_trip,
    "round-trip-together": round_trip_together,
    "pipelined": pipelined,
    "large-reply": large_reply,
    "connect": connecting,
    "events": events,
    "import": importing,
}
