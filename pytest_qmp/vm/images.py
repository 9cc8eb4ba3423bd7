"""Images of disks, made by qemu-img."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pytest_qmp.errors import VMConfigError, VMError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.qmp.deadline import Deadline, limits
from pytest_qmp.vm.drive import PathLike, disk_bytes, format_of_image

__all__ = ["create_disk", "find_qemu_img"]

_TOOL = "qemu-img"
_SECONDS = 60.0


def create_disk(
    path: PathLike,
    size: int | str | None = None,
    format: str = "qcow2",
    *,
    backing: PathLike | None = None,
    backing_format: str | None = None,
    options: Mapping[str, object] | None = None,
    qemu: PathLike | None = None,
    timeout: float | Deadline | None = _SECONDS,
) -> Path:
    """Makes the image of a disk; a raw one without any tool, every other with qemu-img.

    Args:
        path: of the image, which must not be there.
        size: such as ``"10G"``, or in bytes; None takes that of the backing image.
        format: ``qcow2``, ``raw`` (a file with a hole: it takes no space), or another that
            qemu-img knows.
        backing: an image that the new one is laid over; it is never written.
        backing_format: its format; None looks at the file: qcow2 or raw.
        options: of the format, as ``{"cluster_size": "4k"}``.
        qemu: a QEMU binary, beside which its own qemu-img is looked for first.
        timeout: seconds.

    Returns:
        The path, absolute.

    Raises:
        VMConfigError: it is no size; or neither a size nor a backing image was given.
        VMError: there is no qemu-img; it could not make the image; there is such a file already.
    """
    __tracebackhide__ = True
    target = Path(os.path.abspath(path))
    if size is None and backing is None:
        raise VMConfigError("a disk needs a size, as '1G', or a backing image that has one")
    if os.path.lexists(target):
        raise VMError(
            f"there is a {target} already, and a disk is only made where there is nothing: remove "
            "it, or give the new one another name"
        )
    if format == "raw" and backing is None and not options and size is not None:
        _make_hole(target, disk_bytes(size))
        return target
    command = [find_qemu_img(qemu), "create", "-q", "-f", format]
    if backing is not None:
        below = os.path.abspath(backing)
        command += ["-b", below, "-F", backing_format or format_of_image(below)]
    if options:
        command += ["-o", ",".join(f"{name}={_quoted(value)}" for name, value in options.items())]
    command.append(str(target))
    if size is not None:
        command.append(str(disk_bytes(size)))
    _run(command, f"make the disk {target}", limits.deadline(timeout))
    return target


def _quoted(value: object) -> str:
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    return text.replace(",", ",,")


def _make_hole(target: Path, size: int) -> None:
    try:
        with target.open("xb") as file:
            file.truncate(size)
    except OSError as error:
        raise VMError(f"can't make the disk {target}: {error.strerror}") from error


def find_qemu_img(qemu: PathLike | None = None) -> str:
    """The path of qemu-img: the one beside a QEMU binary, else the one on the PATH.

    Raises:
        VMError: there is none; the text says what to install.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(qemu)), _TOOL) if qemu else ""
    found = shutil.which(beside) if beside else None
    found = found or shutil.which(_TOOL)
    if found is None:
        from pytest_qmp.vm.survey import install_hint

        looked = f"beside {os.fspath(qemu)} and on the PATH" if qemu else "on the PATH"
        raise VMError(
            f"there is no {_TOOL}: looked {looked} ({os.environ.get('PATH', '')}). Install it: "
            f"{install_hint(_TOOL)}"
        )
    return found


def _run(command: list[str], purpose: str, deadline: Deadline) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline.remaining(),
            check=False,
            **keeper.kept(),
        )
    except subprocess.TimeoutExpired:
        raise VMError(f"waited {deadline.words} for {command[0]} to {purpose}, in vain") from None
    except OSError as error:
        raise VMError(f"can't run {command[0]}: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
        raise VMError(f"can't {purpose}: {said.removeprefix(f'{_TOOL}: ')}")
