"""A small program that speaks QMP: the one that the guide tests."""

from pathlib import Path

from pytest_qmp import QMPClient


def save_names_of_disks(address: str, path: Path) -> None:
    """Writes the name of each disk to a file while the machine is paused."""
    with QMPClient.connect(address) as qmp:
        qmp.execute("stop")
        try:
            disks = qmp.execute("query-block")
            path.write_text("\n".join(disk["device"] for disk in disks))
        finally:
            qmp.execute("cont")
