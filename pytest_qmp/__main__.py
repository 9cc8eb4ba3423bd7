"""``python -m pytest_qmp``: the same as the command ``pytest-qmp``."""

from __future__ import annotations

import sys

from pytest_qmp.cli import main

if __name__ == "__main__":
    sys.exit(main())
