"""A machine's own disks: images that go with it, and block nodes added while it runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_qmp.errors import VMConfigError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.messages import argument_name
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.drive import PathLike, disk_bytes, format_of_image

__all__ = ["BlockNode", "MachineDisks"]


class BlockNode(str):
    """A block node that ``vm.blockdev`` added: its name, as a text.

    It can stand wherever QEMU wants the name of a node. At the end of a ``with`` block it is
    removed.
    """

    _disks: MachineDisks

    def remove(self, *, timeout: Timeout = DEFAULT) -> None:
        """Removes the node (``blockdev-del``); see ``vm.blockdev_del``."""
        __tracebackhide__ = True
        self._disks.blockdev_del(self, timeout=timeout)

    def __enter__(self) -> BlockNode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if kind is None:
            self.remove()


class MachineDisks(MachineCommands):
    """The disks of ``VirtualMachine``.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._disk_folder: str | None = None
        self._disk_numbers = itertools.count(1)
        self._node_numbers = itertools.count(1)

    def create_disk(
        self,
        size: int | str | None = None,
        format: str = "qcow2",
        *,
        backing: PathLike | None = None,
        backing_format: str | None = None,
        name: str | None = None,
        options: Mapping[str, object] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Path:
        """Makes the image of a disk in a folder of the machine's own, removed with the machine.

        By qemu-img, which is looked for beside the machine's QEMU and on the PATH; a raw image
        needs none. Nothing is plugged in: ``blockdev`` and ``hotplug`` do that.

        Args:
            size: such as ``"10G"``, or in bytes; None takes that of the backing image.
            format: ``qcow2``, ``raw``, or another that qemu-img knows.
            backing: an image that the new one is laid over; it is never written.
            backing_format: its format; None looks at the file: qcow2 or raw.
            name: of the file; None: one that is free.
            options: of the format, as ``{"cluster_size": "4k"}``.
            timeout: seconds.

        Returns:
            The path.

        Raises:
            VMConfigError: it is no size or no name, or the backing image can't be read.
            VMError: there is no qemu-img, or it could not make the image.
        """
        __tracebackhide__ = True
        from pytest_qmp.vm.images import create_disk

        folder = self._own_folder()
        if name is None:
            name = f"disk{next(self._disk_numbers)}.{format}"
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise VMConfigError(
                f"create_disk() takes the name of a file in the machine's folder, not {name!r}: "
                "pytest_qmp.create_disk(path, size) makes one anywhere"
            )
        return create_disk(
            os.path.join(folder, name),
            size,
            format,
            backing=backing,
            backing_format=backing_format,
            options=options,
            qemu=self.argv[0] if self.backend == "qemu" else None,
            timeout=self._deadline(timeout),
        )

    def _own_folder(self) -> str:
        if self._disk_folder is None:
            self._disk_folder = folder = keeper.make_folder("pytest-qmp-disks-")
            self._releases.append(lambda: keeper.remove_folder(folder))
        return self._disk_folder

    def blockdev(
        self,
        driver: str | PathLike | Mapping[str, Any] | None = None,
        /,
        *,
        file: PathLike | Mapping[str, Any] | None = None,
        node_name: str | None = None,
        timeout: Timeout = DEFAULT,
        **options: Any,
    ) -> BlockNode:
        """Adds a block node (``blockdev-add``), for ``hotplug``, a job or an export.

        >>> from pytest_qmp import VirtualMachine
        >>> with VirtualMachine(backend="fake") as vm:
        ...     vm.blockdev("null-co", size="1G")
        'node1'

        Args:
            driver: such as ``qcow2`` or ``null-co``; a path (a ``Path``, or a text with a slash in
                it) is that of an image, of which the format is looked up; a mapping is the whole
                argument of ``blockdev-add``; None goes with ``file``.
            file: what the node reads and writes: the path of an image; a ``BlockNode``; or a
                mapping that describes another node.
            node_name: its name; None: one that is free.
            timeout: seconds.
            options: of the driver, with ``_`` for ``-``: ``read_only=True``,
                ``cache={"direct": True}``. A size may be a text such as ``"1G"``.

        Returns:
            The node: its name, as a text.

        Raises:
            QMPCommandError: QEMU refused it; the text has its words.
            VMConfigError: the image's format can't be looked up in the file.
            TypeError: neither a driver nor a file was given.
        """
        __tracebackhide__ = True
        if isinstance(driver, Mapping):
            arguments = dict(driver)
        else:
            if driver is not None and (not isinstance(driver, str) or os.sep in driver):
                if file is not None:
                    raise TypeError(
                        f"two images were given: {os.fspath(driver)!r} and file={file!r}"
                    )
                driver, file = None, driver
            arguments = {"driver": driver} if driver is not None else {}
        if file is not None:
            arguments["file"] = _below(file)
            if "driver" not in arguments:
                arguments["driver"] = _format_of(file)
        if "driver" not in arguments:
            raise TypeError(
                "blockdev() needs a driver or an image: blockdev('null-co', size='1G'), "
                "blockdev(Path('disk.qcow2')), blockdev(file='disk.qcow2')"
            )
        for key, value in options.items():
            arguments[argument_name("blockdev-add", key)] = _plain(value)
        if isinstance(arguments.get("size"), str):
            arguments["size"] = disk_bytes(arguments["size"])
        if node_name is not None:
            arguments["node-name"] = node_name
        deadline = self._deadline(timeout)
        if "node-name" not in arguments:
            arguments["node-name"] = self._free_node_name(deadline)
        self.qmp.execute("blockdev-add", arguments, timeout=deadline)
        node = BlockNode(arguments["node-name"])
        node._disks = self
        return node

    def blockdev_del(self, node: str, *, timeout: Timeout = DEFAULT) -> None:
        """Removes a block node that ``blockdev`` added (``blockdev-del``).

        Args:
            node: its name, or what ``blockdev`` returned.
            timeout: seconds.

        Raises:
            QMPCommandError: there is none, or it is in use; the text has QEMU's words.
        """
        __tracebackhide__ = True
        self.qmp.execute("blockdev-del", {"node-name": str(node)}, timeout=timeout)

    def _free_node_name(self, deadline: Deadline) -> str:
        __tracebackhide__ = True
        nodes = self.qmp.execute("query-named-block-nodes", {"flat": True}, timeout=deadline)
        taken = {one["node-name"] for one in nodes}
        return next(name for number in self._node_numbers if (name := f"node{number}") not in taken)


def _below(file: PathLike | Mapping[str, Any]) -> object:
    """What ``blockdev-add`` is told of an image, of a node, or of a node to be made."""
    if isinstance(file, BlockNode):
        return str(file)
    if isinstance(file, Mapping):
        return _plain(file)
    return {"driver": "file", "filename": os.path.abspath(file)}


def _format_of(file: PathLike | Mapping[str, Any]) -> str:
    if isinstance(file, (BlockNode, Mapping)):
        raise TypeError(
            "the format of what is not a file can't be looked up: name the driver, as in "
            "blockdev('qcow2', file=node)"
        )
    return format_of_image(file)


def _plain(value: object) -> object:
    """The same with texts for paths and nodes, however deep they are."""
    if isinstance(value, os.PathLike):
        return os.path.abspath(value)
    if isinstance(value, BlockNode):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
