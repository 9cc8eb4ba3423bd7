"""What is made at a machine's start of what its config asks for: images, a seed, shared folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from pytest_qmp.errors import VMConfigError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.drive import Drive
from pytest_qmp.vm.shares import checked_shares

__all__ = ["SEED_ID", "Preparation"]

#: The id of the drive with cloud-init's seed.
SEED_ID = "cloud-init"


class Preparation:
    """What one start of a machine needs besides QEMU, until the machine has ended.

    Args:
        qemu: path of the binary.
        stderr: descriptor for what other programs have to say.
    """

    def __init__(self, qemu: str, stderr: int) -> None:
        self._qemu = qemu
        self._stderr = stderr
        self._folder: str | None = None
        self._releases: list[Callable[[], None]] = []

    def prepare(self, config: VMConfig, deadline: Deadline) -> VMConfig:
        """Makes it all.

        Args:
            config: what was asked for.
            deadline: of the start.

        Returns:
            The config to start: with the images that were made, and arguments for the rest.

        Raises:
            VMConfigError: an image can't be read, or what was asked for contradicts itself.
            VMError: a tool is missing or fails, or QEMU has no such device.
        """
        __tracebackhide__ = True
        drives = [one if isinstance(one, Drive) else Drive(one) for one in config.drives]
        if any(one.made_at_start for one in drives):
            drives = [self._made(one, number, deadline) for number, one in enumerate(drives)]
        if config.has_cloud_init:
            drives.append(self._seed(config))
        config = config.replace(drives=drives, user_data=None, meta_data=None, network_config=None)
        if not config.shares:
            return config
        from pytest_qmp.vm.share_argv import shared_by_9p
        from pytest_qmp.vm.virtiofs import shared_by_virtiofs

        _require_folders(config)
        config = shared_by_9p(config, self._qemu)
        return shared_by_virtiofs(config, self._qemu, self._stderr, self._releases, deadline)

    def _path(self, name: str) -> str:
        if self._folder is None:
            self._folder = keeper.make_folder("pytest-qmp-vm-")
        return os.path.join(self._folder, name)

    def _made(self, drive: Drive, number: int, deadline: Deadline) -> Drive:
        __tracebackhide__ = True
        if not drive.made_at_start:
            return drive
        from pytest_qmp.vm.images import create_disk

        if drive.overlay:
            kind = "qcow2"
            backing, below = drive.path, drive.image_format()
        else:
            kind, backing, below = drive.image_format(), None, None
        path = create_disk(
            self._path(f"drive{number}.{kind}"),
            drive.size,
            kind,
            backing=backing,
            backing_format=below,
            qemu=self._qemu,
            timeout=deadline,
        )
        return replace(drive, path=path, format=kind, overlay=False, size=None)

    def _seed(self, config: VMConfig) -> Drive:
        __tracebackhide__ = True
        from pytest_qmp.vm.seed import create_seed_image

        path = create_seed_image(
            self._path("cloud-init.iso"),
            config.user_data,
            config.meta_data,
            config.network_config,
        )
        return Drive(path, format="raw", read_only=True, id=SEED_ID)

    def close(self) -> None:
        """Ends and removes all of it. Idempotent."""
        while self._releases:
            self._releases.pop()()
        if self._folder is not None:
            keeper.remove_folder(self._folder)
            self._folder = None


def _require_folders(config: VMConfig) -> None:
    __tracebackhide__ = True
    for share in checked_shares(config.shares):
        if not os.path.isdir(share.path):
            seen = "that is no folder" if os.path.exists(share.path) else "there is none"
            raise VMConfigError(
                f"can't share the folder {os.fspath(share.path)!r}: {seen}. A relative path is "
                f"looked up from {os.getcwd()}"
            )
