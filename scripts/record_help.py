"""Asks a QEMU for the lists of names that it prints, for the fake to print.

``python scripts/record_help.py --version 7.2 QEMU-SYSTEM-X86_64`` writes
``pytest_qmp/fake/help/7.2.json.gz``: what ``-machine help``, ``-device help`` and the like print.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
from pathlib import Path

HELP = Path(__file__).parents[1] / "pytest_qmp" / "fake" / "help"
TOPICS = ("machine", "cpu", "device", "accel", "object", "chardev", "netdev", "display")
#: What a QEMU says about its installation, not about itself.
NOISE = re.compile(r"^qemu: module .*\n", re.MULTILINE)


def main() -> None:
    """Records the lists of one QEMU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True, help="as given to emulate, such as 7.2")
    parser.add_argument("qemu")
    given = parser.parse_args()
    texts = {}
    for topic in TOPICS:
        done = subprocess.run(
            [given.qemu, f"-{topic}", "help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        texts[topic] = NOISE.sub("", done.stdout)
    text = json.dumps(texts, indent=0).encode()
    (HELP / f"{given.version}.json.gz").write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
