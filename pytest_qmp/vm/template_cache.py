"""Templates kept from one run to the next, in a folder; what is not whole is not used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytest_qmp.errors import VMError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.restore_files import memory_file, seal, unnamed_file
from pytest_qmp.vm.template import Boot, Template
from pytest_qmp.vm.template_key import UnknownContentError, boot_key, config_key

__all__ = ["TemplateCache"]

_MANIFEST = "manifest.json"
#: What is in a folder that is ours to clear up.
_TAG = "pytest-qmp-templates.tag"
_FORMAT = 1
_PIECE = 1 << 20
_EMPTY = bytes(_PIECE)
_HOLE = bytes(4096)


class TemplateCache:
    """A folder with a template in each of its folders, named by all that it depends on.

    What an entry holds is compared with what was written, each time, while it is read into files
    that nobody can change; an entry that is not whole is removed.

    Args:
        folder: made if it is not there.
        say: is told what went wrong; without the cache it goes on all the same.
        most: how many templates are kept; those that were used longest ago go first.

    Raises:
        VMError: the folder can't be used, or has other things in it.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], most: int = 8) -> None:
        self._folder = folder
        self._say = say
        self._most = most
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tag = folder / _TAG
            if not tag.exists():
                if any(folder.iterdir()):
                    raise VMError(
                        f"{folder} has other things in it, and is no folder of templates: name "
                        "one that is empty, or that is not there yet"
                    )
                (folder / ".gitignore").write_text("*\n")
                tag.write_text("Templates of pytest-qmp. To remove it all is safe.\n")
        except OSError as error:
            raise VMError(
                f"can't keep templates in {folder}: {error.strerror}. Name another folder"
            ) from error

    def key(self, config: VMConfig, boot: Boot) -> str | None:
        """By what a template is found again; None, and why is told, if it can't be kept.

        Args:
            config: complete: the binary and the accelerator are set.
            boot: the boot function, before it is called.
        """
        try:
            return config_key(config, by_content=True)[:32] + boot_key(boot, by_content=True)[:32]
        except (UnknownContentError, OSError) as error:
            self._say(f"the template is not kept for the next run: {error}")
            return None

    def load(self, key: str, config: VMConfig, boot: Boot) -> Template | None:
        """The template of an earlier run; None if there is none that can be trusted."""
        entry = self._folder / key
        if not entry.is_dir():
            return None
        try:
            template = _read(entry, config, boot)
            os.utime(entry)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, VMError) as error:
            self._say(f"a template of an earlier run is not whole, and is made anew: {error}")
            shutil.rmtree(entry, ignore_errors=True)
            return None
        return template

    def save(self, key: str, template: Template) -> None:
        """Keeps a template for a later run; says why where it can't."""
        try:
            # Under another name until it is whole; one that is left half-way is removed.
            half = Path(keeper.make_folder("half-", str(self._folder)))
            try:
                _write(half, template)
                shutil.rmtree(self._folder / key, ignore_errors=True)
                half.rename(self._folder / key)
            finally:
                keeper.remove_folder(str(half))
            self._make_room()
        except OSError as error:
            self._say(f"the template could not be kept for the next run: {error}")

    def _make_room(self) -> None:
        entries = [one for one in self._folder.iterdir() if (one / _MANIFEST).is_file()]
        entries.sort(key=lambda one: one.stat().st_mtime, reverse=True)
        for entry in entries[self._most :]:
            shutil.rmtree(entry, ignore_errors=True)


def _write(folder: Path, template: Template) -> None:
    files = {}
    for name, fd in template.descriptors().items():
        with open(folder / name, "wb") as target:
            files[name] = _copied(fd, target.fileno())
            os.fsync(target.fileno())
    manifest = {"format": _FORMAT, "files": files, "template": template.manifest()}
    with open(folder / _MANIFEST, "w") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path, config: VMConfig, boot: Boot) -> Template:
    """The template in a folder.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, VMError: it is not whole.
    """
    manifest: Mapping[str, Any] = json.loads((folder / _MANIFEST).read_text())
    if manifest["format"] != _FORMAT:
        raise ValueError(f"it is of the format {manifest['format']!r}")
    with ExitStack() as undo:
        fds: dict[str, int] = {}
        for name, told in manifest["files"].items():
            if os.path.basename(name) != name:
                raise ValueError(f"{name!r} is no name of a file")
            make: Callable[[], int] = unnamed_file
            if name == "memory":
                make = _memory
            fds[name] = make()
            undo.callback(os.close, fds[name])
            with open(folder / name, "rb") as source:
                found = _copied(source.fileno(), fds[name])
            if found != told:
                raise ValueError(f"its file {name} is not as it was written")
            if name == "memory":
                seal(fds[name])
        template = Template.from_parts(config, manifest["template"], fds, boot)
        undo.pop_all()
    return template


def _memory() -> int:
    return memory_file("memory")


def _copied(source: int, target: int) -> dict[str, Any]:
    """Copies a file, leaving out what is empty; tells its size and what is in it."""
    digest = hashlib.blake2b()
    size, position = os.fstat(source).st_size, 0
    while position < size:
        try:
            # In whole pieces, wherever the file's own holes are.
            position = os.lseek(source, position, os.SEEK_DATA) // _PIECE * _PIECE
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # A hole up to the end.
        piece = os.pread(source, _PIECE, position)
        if piece != _EMPTY[: len(piece)]:
            digest.update(b"%d:" % position)
            digest.update(piece)
            _write_parts(target, piece, position)
        position += _PIECE
    os.ftruncate(target, size)
    return {"size": size, "digest": digest.hexdigest()}


def _write_parts(target: int, piece: bytes, position: int) -> None:
    """Writes those pages of a piece that are not empty."""
    start = None
    for at in range(0, len(piece), len(_HOLE)):
        if piece.startswith(_HOLE, at):
            if start is not None:
                os.pwrite(target, piece[start:at], position + start)
                start = None
        elif start is None:
            start = at
    if start is not None:
        os.pwrite(target, piece[start:], position + start)
