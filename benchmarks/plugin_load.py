"""What loading the plugin costs a run that does not use it: ``--collect-only`` of one empty test.

Runs pytest with and without the plugin, and with pytest-timeout alone as a peer, interleaved, and
prints medians in milliseconds and what each adds. Usage: ``python benchmarks/plugin_load.py``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 31
RIVALS = {
    "bare": [],
    "pytest-qmp": ["-p", "pytest_qmp.plugin"],
    "pytest-timeout": ["-p", "pytest_timeout"],
}


def once(folder: str, plugins: list[str]) -> float:
    """Seconds that one run takes."""
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    started = time.perf_counter()
    subprocess.run(
        [*argv, *plugins],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


def main() -> None:
    """Measures and prints."""
    times: dict[str, list[float]] = {name: [] for name in RIVALS}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_empty.py").write_text("def test_empty():\n    pass\n")
        for _ in range(ROUNDS):
            for name, plugins in RIVALS.items():
                times[name].append(once(folder, plugins))
    bare = statistics.median(times["bare"])
    for name, taken in times.items():
        middle = statistics.median(taken)
        added = statistics.median(
            one - floor for one, floor in zip(taken, times["bare"], strict=True)
        )
        print(f"{name:16} {middle * 1000:7.1f} ms  {added * 1000:+6.1f} ms  {middle / bare:5.2f} x")


if __name__ == "__main__":
    main()
