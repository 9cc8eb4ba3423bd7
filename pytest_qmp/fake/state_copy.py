"""Copies of the model's state: of everything that hangs together, callbacks and timers too."""

from __future__ import annotations

import importlib
import io
import pickle
import socket
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytest_qmp.qmp.schema import Schema

from .versions import Dialect

__all__ = ["StateCopy"]

_OURS = __name__.partition(".")[0]
#: What a copy has in common with the original: it does not change, or is nobody's to copy.
_COMMON = (
    type,
    types.CodeType,
    types.ModuleType,
    types.BuiltinFunctionType,
    socket.socket,
    io.IOBase,
    Dialect,
    Schema,
    memoryview,
    type(threading.Lock()),
    type(threading.RLock()),
)


class StateCopy:
    """A copy of objects and of all that they refer to, from which further ones are made.

    Args:
        root: the objects.
        places: objects that are not copied: in each copy others can stand in their places.
    """

    def __init__(self, root: Any, places: Iterable[object] = ()) -> None:
        # Nothing of the original is held on to, but what is common.
        taken = list(places)
        self._count = len(taken)
        self._common: list[object] = []
        file = io.BytesIO()
        _Pickler(file, taken, self._common).dump(root)
        self._data = file.getvalue()

    def make(self, places: Sequence[object], rest: object = None) -> Any:
        """Another copy of the root.

        Args:
            places: what stands in the places there.
            rest: what stands in those beyond.
        """
        there = [*places, *[rest] * (self._count - len(places))]
        return _Unpickler(io.BytesIO(self._data), there, self._common).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, places: list[object], common: list[object]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._places = {id(one): number for number, one in enumerate(places)}
        self._common = common
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        number = self._places.get(id(obj))
        if number is not None:
            return "place", number
        if isinstance(obj, _COMMON) or (isinstance(obj, types.FunctionType) and not _is_made(obj)):
            number = self._numbers.setdefault(id(obj), len(self._common))
            if number == len(self._common):
                self._common.append(obj)
            return "common", number
        return None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            made = (obj.__code__, obj.__module__, obj.__name__, obj.__defaults__, obj.__closure__)
            return _function, made, {"__kwdefaults__": obj.__kwdefaults__}
        if isinstance(obj, types.CellType):
            return types.CellType, (), obj.cell_contents, None, None, _fill
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, places: list[object], common: list[object]) -> None:
        super().__init__(file)
        self._tables = {"place": places, "common": common}

    def persistent_load(self, pid: tuple[str, int]) -> Any:
        table, number = pid
        return self._tables[table][number]


def _is_made(function: types.FunctionType) -> bool:
    """Whether it is one of ours that holds on to objects of the model. A test's is its own."""
    ours = (function.__module__ or "").partition(".")[0] == _OURS
    return ours and function.__closure__ is not None


def _function(
    code: types.CodeType,
    module: str,
    name: str,
    defaults: tuple[Any, ...] | None,
    closure: tuple[types.CellType, ...],
) -> Callable[..., Any]:
    there = importlib.import_module(module).__dict__
    return types.FunctionType(code, there, name, defaults, closure)


def _fill(cell: types.CellType, contents: Any) -> None:
    cell.cell_contents = contents
