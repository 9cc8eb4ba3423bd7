"""The objects of a machine as QMP sees them: found by path, read, set."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .facts import TypeFacts, failed, load_facts, load_types
from .machine_size import memory_size, topology
from .options import Options, parse_value
from .property_values import take, take_text
from .qom_tree import Node, Row, build, not_found
from .replies import CommandFailed
from .throttling import changed_limits
from .versions import Dialect

__all__ = ["ObjectTree", "machine_variant"]


def machine_variant(options: Options) -> str:
    """Which recorded machine is the nearest to that of a command line."""
    kind = options.machine
    given = {option for option, _ in options.pairs}
    if kind == "q35" or kind.startswith("pc-q35"):
        family = "q35"
    elif kind in ("none", "microvm"):
        return kind
    else:
        family = "pc"
    if "nodefaults" not in given:
        return f"{family}-defaults"
    return f"{family}-usb" if "usb" in given else family


class ObjectTree:
    """Everything under ``/``.

    Args:
        options: QEMU's command line.
        dialect: the version that is emulated.

    Attributes:
        types: the QOM types of the version.
    """

    def __init__(self, options: Options, dialect: Dialect) -> None:
        self._options = options
        self._dialect = dialect
        self.types: TypeFacts = load_types(dialect.name)
        self.facts = load_facts(dialect.name, "machines")[machine_variant(options)]
        self._setters: dict[tuple[str, str], Callable[[Node, Any], Any]] = {}
        self.root = build(self.facts["tree"], "/", "", copy.deepcopy)
        self._name_machine()
        self._size_machine()

    def at(self, path: str) -> Node:
        """The object at an absolute path that is known to be there."""
        found = self._walk(self.root, path.split("/"))
        if found is None:
            raise KeyError(path)
        return found

    def find(self, path: str) -> Node:
        """The object of an absolute or a unique partial path; CommandFailed if there is none."""
        found = self.lookup(path)
        if isinstance(found, Node):
            return found
        raise not_found(path)

    def lookup(self, path: str, kind: str | None = None) -> Node | bool:
        """The object of a path; False if there is none, True if there are several."""
        parts = path.split("/") if path else []
        if parts and parts[0] == "":
            found = self._walk(self.root, parts)
            return found if found is not None and self._fits(found, kind) else False
        matches: list[Node] = []
        for start in self.root.walk():
            match = self._walk(start, parts)
            if match is not None and self._fits(match, kind):
                matches.append(match)
                if len(matches) > 1:
                    return True
        return matches[0] if matches else False

    def properties(self, node: Node) -> list[dict[str, Any]]:
        """What ``qom-list`` says of an object."""
        return [
            {
                "name": name,
                "type": f"child<{node.children[name].kind}>"
                if name in node.children
                else node.rows[name].kind,
            }
            for name in node.order
        ]

    def get(self, node: Node, name: str) -> Any:
        """What ``qom-get`` says of a property; CommandFailed if it can't be read."""
        if name in node.children:
            return node.children[name].path
        row = node.rows.get(name)
        if row is None:
            raise self.no_property(node, name)
        value = row.value() if callable(row.value) else row.value
        refused = failed(value)
        if refused is not None:
            raise CommandFailed(refused[1], refused[0])
        return value

    def set(self, node: Node, name: str, value: Any) -> None:
        """Sets a property as ``qom-set`` does; CommandFailed if it does not take that."""
        row = node.rows.get(name)
        if row is None:
            if name in node.children:
                raise CommandFailed(f"Property '{node.kind}.{name}' is not writable")
            raise self.no_property(node, name)
        kind = self.setter_kind(row)
        if kind is None:
            raise CommandFailed(str(row.refusal))
        taken = self._take_composite(name, kind, value, row.kind[:1].isupper()) or take(
            name, kind, value
        )
        if node.kind == "iothread" and isinstance(taken, int) and taken < 0:
            raise CommandFailed(f"{name} value must be in range [0, {2**63 - 1}]")
        if node.kind == "throttle-group" and name == "limits":
            taken = changed_limits(row.value, taken)
        if name == "max-ram-below-4g" and taken > 4 << 30:
            raise CommandFailed(
                f"Machine option '{name}={taken}' expects size less than or equal to 4G"
            )
        if row.kind.startswith("link<"):
            taken = self.link(name, row.kind[5:-1], taken)
        row.value = taken

    def setter_kind(self, row: Row) -> str | None:
        """What a property takes; None if it can't be set."""
        refusal = row.refusal or ""
        pattern = r"Invalid parameter type for|Parameter '[^']*' (expects|is unexp)"
        about_value = re.match(pattern, refusal)
        if refusal and not about_value:
            return None
        if refusal.endswith("is unexpected"):
            return "object"
        if refusal.endswith("expected: array"):
            return "array"
        if refusal.endswith("expected: string") and not row.kind.startswith("link<"):
            return row.kind if row.kind[:1].isupper() else "str"
        if refusal.endswith("expected: boolean"):
            return "bool"
        if refusal.endswith("expected: integer"):
            return row.kind if row.kind.startswith("int") else "int"
        if refusal.endswith("expects uint64"):
            return row.kind if row.kind.startswith("uint") else "uint64"
        return row.kind

    def _take_composite(self, name: str, kind: str, value: Any, of_objects: bool) -> Any:
        """The value if that is what a structure or a list takes; None for other properties."""
        if kind not in ("object", "array"):
            return None
        if not isinstance(value, dict if kind == "object" else list):
            raise CommandFailed(f"Invalid parameter type for '{name}', expected: {kind}")
        if kind == "array" and of_objects and any(not isinstance(item, dict) for item in value):
            raise CommandFailed(f"Invalid parameter type for '{name}[0]', expected: object")
        return value

    def link(self, name: str, kind: str, path: str) -> str:
        """The path that a link holds once it was set to a path."""
        if not path:
            return ""
        found = self.lookup(path, kind)
        if isinstance(found, Node):
            return found.path
        if found:
            raise CommandFailed(f"Path '{path}' does not uniquely identify an object")
        if isinstance(self.lookup(path), Node):
            raise CommandFailed(f"Invalid parameter type for '{name}', expected: {kind}")
        raise not_found(path)

    def no_property(self, node: Node, name: str) -> CommandFailed:
        """The error about a property that isn't there."""
        return CommandFailed(f"Property '{node.kind}.{name}' not found")

    def _fits(self, node: Node, kind: str | None) -> bool:
        return kind is None or self.types.is_a(node.kind, kind)

    def _walk(self, start: Node, parts: list[str]) -> Node | None:
        node: Node | None = start
        for part in parts:
            if not part:
                continue
            step = node.component(part) if node is not None else None
            node = self._walk(self.root, step.split("/")) if isinstance(step, str) else step
            if node is None:
                return None
        return node

    def from_class(self, kind: str, name: str) -> Node:
        """An object of which no more is known than its type's properties."""
        node = Node(name, kind)
        listed = self.types.listed("qom-list-properties", kind)
        for entry in [] if failed(listed) else listed:
            value = kind if entry["name"] == "type" else entry.get("default-value", "")
            node.order.append(entry["name"])
            node.rows[entry["name"]] = Row(entry["type"], value, "")
        return node

    def _size_machine(self) -> None:
        """The machine is as large as the command line says."""
        machine = self.root.children["machine"]
        size = memory_size(self._options)
        given = topology(self._options)
        for name, sizes in (("smp", given), ("memory", {"size": size})):
            recorded = machine.value(name)
            if isinstance(recorded, dict):
                machine.set_value(
                    name, {key: sizes.get(key, value) for key, value in recorded.items()}
                )
        for option, text in self._options.pairs:
            if option in ("M", "machine"):
                self._set_machine_options(machine, parse_value(text, "type"))
        for backend in self.root.children.get("objects", Node("", "")).children.values():
            backend.set_value("size", size)

    def _set_machine_options(self, machine: Node, given: dict[str, Any]) -> None:
        for name, text in given.items():
            row = machine.rows.get(name)
            if row is not None and row.kind == "bool" and isinstance(text, str):
                with suppress(CommandFailed):
                    row.value = take_text(name, "bool", text)

    def _name_machine(self) -> None:
        """A machine type of another version has a name of its own."""
        machine = self.root.children["machine"]
        kind = self._options.machine
        if kind in ("pc", "q35", "none", "microvm") or f"{kind}-machine" not in self.types.all:
            return
        previous, machine.kind = machine.kind, f"{kind}-machine"
        machine.set_value("type", machine.kind)
        for row in machine.rows.values():
            row.refusal = row.refusal and row.refusal.replace(previous, machine.kind)
