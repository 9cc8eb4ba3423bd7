"""What a template depends on, as keys: equal keys, equal machines where they are to begin."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import re
import struct
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any

from pytest_qmp._version import __version__
from pytest_qmp.vm.config import VMConfig

__all__ = ["CHANGEABLE", "UnknownContentError", "boot_key", "config_key"]

#: Of a config: what is nothing to the guest, and may differ from its template's.
CHANGEABLE = frozenset({"name", "timeout", "allow", "console_watch"})

_QCOW2 = b"QFI\xfb"
_PIECE = 1 << 20
_PLAIN = (str, bytes, int, float, complex, bool, type(None), PurePath)
#: What is the same wherever the same version is installed.
_INSTALLED = tuple(
    os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "purelib", "platlib")
)
_OWN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


class UnknownContentError(ValueError):
    """Something that a template depends on can't be compared with what it is another time."""


def config_key(config: VMConfig, *, by_content: bool) -> str:
    """A text that differs whenever a configuration's machines would.

    Args:
        config: with ``qemu`` and ``accel`` set to what is used.
        by_content: True reads all files, for a key that holds on another day; False takes their
            place, size and time, for the same run.

    Raises:
        UnknownContentError: no such key can be told; with the reason.
        OSError: a file can't be read.
    """
    return _digest(_of_config(config, by_content))


def boot_key(boot: Callable[..., object], *, by_content: bool) -> str:
    """A text that differs whenever what a boot function does would.

    What it holds may change while it runs: a key is told before that, and kept.

    Args:
        boot: the boot function.
        by_content: as for ``config_key``.

    Raises:
        UnknownContentError: no such key can be told; with the reason.
        OSError: a file can't be read.
    """
    return _digest(_of_function(boot, by_content, set()))


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256(f"{__version__}\n".encode())
    for part in parts:
        digest.update(f"{part}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _of_config(config: VMConfig, by_content: bool) -> Iterator[str]:
    for field in fields(config):
        # How the first one is started is for its template to choose.
        if field.name not in CHANGEABLE and field.name != "cloneable":
            value = getattr(config, field.name)
            yield f"{field.name}={_of_value(value)}"
            for path in _paths_in(value):
                yield _of_file(path, by_content)


def _of_value(value: object) -> str:
    """A value of a config or of a closure, the same on another day.

    Raises:
        UnknownContentError: it is an object of which nothing is known.
    """
    if isinstance(value, _PLAIN):
        return repr(os.fspath(value) if isinstance(value, PurePath) else value)
    if isinstance(value, Mapping):
        pairs = sorted((_of_value(key), _of_value(one)) for key, one in value.items())
        return f"{{{', '.join(f'{key}: {one}' for key, one in pairs)}}}"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_of_value, value)))}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_of_value, value))}]"
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(
            f"{field.name}={_of_value(getattr(value, field.name))}" for field in fields(value)
        )
        return f"{type(value).__qualname__}({inner})"
    if isinstance(value, (types.ModuleType, type)):
        return getattr(value, "__qualname__", value.__name__)
    if isinstance(value, re.Pattern) or type(value).__module__ == "datetime":
        return repr(value)
    if isinstance(value, logging.Logger):
        return value.name
    raise UnknownContentError(
        f"{value!r} is of the kind {type(value).__qualname__}, which can't be compared between runs"
    )


def _paths_in(value: object) -> Iterator[str]:
    """Existing files that a value names: as a whole, or inside an option of QEMU's."""
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, bytes) or "\0" in text or len(text) > 65536:
            return
        # Commas are doubled in QEMU's options; a path may hold one all the same.
        options = text.replace(",,", "\0").split(",")
        candidates = [text, *(one.replace("\0", ",").rpartition("=")[2] for one in options)]
        for candidate in dict.fromkeys(candidates):
            path = candidate.removeprefix("file:")
            if os.path.isfile(path) and not path.startswith(("/proc/", "/dev/")):
                yield os.path.abspath(path)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _paths_in(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _paths_in(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _paths_in(getattr(value, field.name))


def _of_file(path: str, by_content: bool, depth: int = 0) -> str:
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    told = _content(path, identity) if by_content else f"{identity}"
    backing = _backing_file(path) if depth < 32 else None
    below = _of_file(backing, by_content, depth + 1) if backing is not None else ""
    return f"{path}: {told}\n{below}"


@functools.lru_cache(maxsize=256)
def _content(path: str, identity: tuple[int, ...]) -> str:
    # The identity is for the cache alone: a file that changed is read again.
    del identity
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _backing_file(path: str) -> str | None:
    """The file below a qcow2 image, if there is one on this host."""
    with open(path, "rb") as image:
        header = image.read(20)
        if header[:4] != _QCOW2 or len(header) < 20:
            return None
        offset, length = struct.unpack_from(">QI", header, 8)
        if not offset or length > 1023:
            return None
        image.seek(offset)
        name = os.fsdecode(image.read(length)).removeprefix("file:")
    found = os.path.join(os.path.dirname(path), name)
    return found if os.path.isfile(found) else None


def _of_function(function: object, by_content: bool, seen: set[int]) -> Iterator[str]:
    """The source files of a function and of what it uses of the user's own, and what it holds."""
    if id(function) in seen:
        return
    seen.add(id(function))
    while isinstance(function, functools.partial):
        yield from _of_uses([*function.args, *function.keywords.values()], by_content, seen)
        function = function.func
    if isinstance(function, types.MethodType):
        yield from _of_uses([function.__self__], by_content, seen)
        function = function.__func__
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield from _of_function(wrapped, by_content, seen)
    if not isinstance(function, types.FunctionType):
        raise UnknownContentError(
            f"the boot function {function!r} has no source that could be read"
        )
    code = function.__code__
    yield f"{function.__module__}.{function.__qualname__}"
    if not _is_users(code.co_filename):
        return
    yield _of_source(code.co_filename, by_content)
    held = inspect.getclosurevars(function)
    values = [*held.nonlocals.values(), *held.globals.values(), *(function.__defaults__ or ())]
    values += (function.__kwdefaults__ or {}).values()
    yield from _of_uses(values, by_content, seen)


def _of_uses(values: Iterable[Any], by_content: bool, seen: set[int]) -> Iterator[str]:
    for value in values:
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            yield from _of_function(value, by_content, seen)
        elif isinstance(value, (types.ModuleType, type)):
            yield _of_value(value)
            source = _source_of(value)
            if source is not None and _is_users(source):
                yield _of_source(source, by_content)
        elif not isinstance(value, types.BuiltinFunctionType):
            # Not what is in a file that it names: that may be one that the function writes to.
            yield _of_value(value)


def _source_of(value: object) -> str | None:
    try:
        return inspect.getsourcefile(value)  # type: ignore[arg-type]
    except TypeError:
        return None  # Built in.


def _is_users(source: str) -> bool:
    return not source.startswith((*_INSTALLED, _OWN))


def _of_source(source: str, by_content: bool) -> str:
    if not Path(source).is_file():
        raise UnknownContentError(f"the source {source} of the boot function can't be read")
    return _of_file(os.path.abspath(source), by_content)
