"""The tree of a machine's objects: paths, properties, values, the order of a listing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from .facts import failed
from .member_order import StringTable
from .replies import CommandFailed

__all__ = ["Node", "Row", "build", "new_container", "not_found"]

#: How many properties of an object's own that are no children may precede its first child, and
#: how many orders of adding them are tried.
_MIXED = 8
_ATTEMPTS = 40


def not_found(path: str) -> CommandFailed:
    """The error about a path that leads nowhere."""
    return CommandFailed(f"Device '{path}' not found", "DeviceNotFound")


class Row:
    """A property of an object.

    Attributes:
        kind: its type, as ``qom-list`` shows it.
        value: what it holds, or an error as recorded.
        refusal: how QEMU refuses a value that no property takes; it shows whether the property
            can be set, and to what.
    """

    __slots__ = ("kind", "refusal", "value")

    def __init__(self, kind: str, value: Any, refusal: str | None = None) -> None:
        self.kind = kind
        self.value = value
        self.refusal = refusal


class Node:
    """An object.

    Attributes:
        name: as its parent calls it; "" for the root.
        kind: its QOM type.
        rows: its properties but for children, in QEMU's order.
        children: by name.
        order: the names of all of them, in the order of a listing.
        place: of a device on its bus, where the bus has such: the USB port.
    """

    def __init__(self, name: str, kind: str, parent: Node | None = None) -> None:
        self.name = name
        self.kind = kind
        self.parent = parent
        self.rows: dict[str, Row] = {}
        self.children: dict[str, Node] = {}
        self.order: list[str] = []
        self.place = ""
        self._table: StringTable | None = None

    @property
    def path(self) -> str:
        """Its place in the tree."""
        if self.parent is None:
            return "/"
        return f"{self.parent.path.rstrip('/')}/{self.name}"

    def value(self, name: str) -> Any:
        """What a property holds; None if there is no such property."""
        row = self.rows.get(name)
        return None if row is None else row.value

    def set_value(self, name: str, value: Any) -> None:
        """Changes what a property holds; nothing happens if there is no such property."""
        row = self.rows.get(name)
        if row is not None:
            row.value = value

    def add_child(self, child: Node) -> None:
        """Takes in an object."""
        child.parent = self
        self.children[child.name] = child
        self._enter(child.name)

    def add_row(self, name: str, row: Row) -> None:
        """Takes in a property."""
        self.rows[name] = row
        self._enter(name)

    def remove(self, name: str) -> None:
        """Drops a child or a property; nothing happens if there is none of that name."""
        if name in self.order:
            self._ensure_table().remove(name)
            self.rows.pop(name, None)
            self.children.pop(name, None)
            self._reorder()

    def rename(self, child: Node, name: str) -> None:
        """Gives a child another name, which may give it another place in the listing."""
        history = self._history()
        self.children[name] = self.children.pop(child.name)
        self.order[self.order.index(child.name)] = name
        if history:
            table = StringTable()
            for text in history:
                table.add(name if text == child.name else text)
            self.order[len(self.order) - len(history) :] = reversed(list(table))
        child.name = name

    def _history(self) -> list[str]:
        """Its own properties, which end the listing, in an order of adding that leads to it.

        [] if there is none to be found: the order is not recorded, and collisions depend on it.
        """
        first = next((n for n, name in enumerate(self.order) if name in self.children), 0)
        shuffler = random.Random(0)
        for start in range(first, max(first - _MIXED, -1), -1):
            wanted = self.order[start:]
            wanted.reverse()
            # PCI's own come first.
            attempt = wanted[:]
            attempt.sort(key=lambda name: not name.startswith("bus master"))
            attempt.sort(key=lambda name: not name.startswith("bus master container"))
            for _ in range(_ATTEMPTS):
                table = StringTable()
                for text in attempt:
                    table.add(text)
                if list(table) == wanted:
                    return attempt
                attempt = attempt[:]
                shuffler.shuffle(attempt)
        return []

    def walk(self) -> Iterator[Node]:
        """Itself and all that is below it."""
        yield self
        for name in self.order:
            if name in self.children:
                yield from self.children[name].walk()

    def component(self, name: str) -> str | Node | None:
        """What a part of a path leads to: a child, the path that a link holds, or None."""
        child = self.children.get(name)
        if child is not None:
            return child
        row = self.rows.get(name)
        if row is not None and row.kind.startswith("link<") and isinstance(row.value, str):
            return row.value or None
        return None

    def _enter(self, name: str) -> None:
        self._ensure_table().add(name)
        self._reorder()

    def _ensure_table(self) -> StringTable:
        # "type" is its class's, which comes first; the rest are the object's own, last first.
        if self._table is None:
            self._table = StringTable()
            for name in reversed(self.order):
                if name != "type":
                    self._table.add(name)
        return self._table

    def _reorder(self) -> None:
        first = [name for name in self.order[:1] if name == "type"]
        self.order = [*first, *reversed(list(self._ensure_table()))]


def new_container(name: str) -> Node:
    """An object that only holds others."""
    node = Node(name, "container")
    node.order.append("type")
    node.rows["type"] = Row("string", "container", "Property 'container.type' is not writable")
    return node


def build(
    recorded: dict[str, Any], root: str, name: str, change: Callable[[Any], Any] | None = None
) -> Node:
    """The objects of a recorded part of a tree.

    Args:
        recorded: path to the rows of each object.
        root: the path where to begin.
        name: what to call that object.
        change: adapts values and texts of errors; None leaves them.
    """
    rows = recorded[root]
    if not isinstance(rows, list):
        return Node(name, "container")
    kind = next((row[2] for row in rows if row[0] == "type"), "container")
    node = Node(name, kind)
    for row in rows:
        node.order.append(row[0])
        if row[1].startswith("child<"):
            child = build(recorded, f"{root.rstrip('/')}/{row[0]}", row[0], change)
            child.parent = node
            node.children[row[0]] = child
            continue
        refused = failed(row[3])
        refusal = refused[1] if refused else None
        value = row[2]
        if change is not None:
            value = change(value)
            refusal = change(refusal)
        node.rows[row[0]] = Row(row[1], value, refusal)
    return node
