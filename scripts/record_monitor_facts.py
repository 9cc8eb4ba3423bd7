"""Asks a QEMU for what its monitor says the same way at all times, for the fake to answer from.

``python scripts/record_monitor_facts.py --version 7.2 QEMU-SYSTEM-X86_64`` writes
``pytest_qmp/fake/facts/7.2-monitor.json.xz``:

- ``trace``: the trace events in QEMU's order, each with whether it is per CPU and was compiled in;
- ``options``: the answer of query-command-line-options;
- ``help``: what ``help`` and ``help NAME`` of the human monitor print, and ``info``, and
  ``info registers`` before the guest has run;
- ``answers``: the replies of commands that depend on the build alone.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

from pytest_qmp import QMPClient, QMPCommandError

FACTS = Path(__file__).parents[1] / "pytest_qmp" / "fake" / "facts"
ARGS = ["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-M", "pc", "-m", "16"]
ANSWERS = [
    ("query-stats-schemas", {}),
    ("request-ebpf", {"id": "rss"}),
    ("x-query-roms", {}),
    ("x-query-irq", {}),
    ("x-query-interrupt-controllers", {}),
]


def record(client: QMPClient) -> dict[str, Any]:
    """All that is asked of one QEMU."""

    def human(line: str) -> str:
        return str(client.execute("human-monitor-command", {"command-line": line}))

    events = client.execute("trace-event-get-state", {"name": "*"})
    texts = {line: human(line) for line in ("help", "info")}
    for line in texts["help"].splitlines():
        if line and not line[0].isspace():
            for name in re.split(r"[|]", line.split()[0]):
                found = human(f"help {name}")
                # Lines that go on with a command's arguments name none.
                if not found.startswith("unknown command"):
                    texts[f"help {name}"] = found
    answers = {}
    for command, arguments in ANSWERS:
        try:
            answers[command] = client.execute(command, arguments)
        except QMPCommandError:
            continue
    texts["info registers"] = human("info registers")
    return {
        "trace": [
            [one["name"], one.get("vcpu", False), one["state"] != "unavailable"] for one in events
        ],
        "options": client.execute("query-command-line-options"),
        "help": texts,
        "answers": answers,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("qemu")
    parser.add_argument("--version", required=True)
    options = parser.parse_args()
    ours, theirs = socket.socketpair()
    monitor = ["-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"]
    process = subprocess.Popen([options.qemu, *ARGS, *monitor], pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        with QMPClient.connect(ours, timeout=30) as client:
            facts = record(client)
            client.execute("quit")
    finally:
        process.kill()
        process.wait()
    path = FACTS / f"{options.version}-monitor.json.xz"
    text = json.dumps(facts, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
