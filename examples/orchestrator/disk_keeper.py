"""The program under test: gives a running machine a disk, and takes it away again.

    python disk_keeper.py attach qmp.sock data disk.img
    python disk_keeper.py detach qmp.sock data

It stands for an orchestrator of your own: one that speaks QMP, has to leave no half-done work
behind, and must not wait for ever for a guest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_qmp import QMPClient, QMPCommandError, QMPError, QMPTimeoutError

#: Seconds that a guest may take to let go of a disk.
PATIENCE = 5.0


class DiskError(Exception):
    """It could not be done; the machine is as it was before."""


def attach(qmp: QMPClient, name: str, image: Path) -> None:
    """Plug in the image as a disk of that name."""
    qmp.execute(
        "blockdev-add",
        driver="raw",
        node_name=name,
        file={"driver": "file", "filename": str(image)},
    )
    try:
        qmp.execute("device_add", driver="virtio-blk-pci", id=name, drive=name)
    except QMPCommandError as error:
        qmp.execute("blockdev-del", node_name=name)
        raise DiskError(f"QEMU takes no disk {name}: {error.desc}") from error


def detach(qmp: QMPClient, name: str, patience: float = PATIENCE) -> None:
    """Unplug the disk of that name; the guest has to agree."""
    qmp.execute("device_del", id=name)
    try:
        event = qmp.wait_for_event(
            ["DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"],
            match={"data": {"device": name}},
            timeout=patience,
        )
    except QMPTimeoutError as error:
        raise DiskError(f"the guest does not let go of the disk {name}") from error
    if event.name == "DEVICE_UNPLUG_GUEST_ERROR":
        raise DiskError(f"the guest keeps the disk {name}")
    qmp.execute("blockdev-del", node_name=name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["attach", "detach"])
    parser.add_argument("address", help="where QEMU listens for QMP")
    parser.add_argument("name")
    parser.add_argument("image", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    try:
        with QMPClient.connect(options.address, timeout=10) as qmp:
            if options.action == "attach":
                attach(qmp, options.name, options.image)
            else:
                detach(qmp, options.name)
    except (DiskError, QMPError) as error:
        print(f"disk_keeper: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
