"""The objects that a user makes: of ``-object`` and ``object-add``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .facts import failed, load_facts
from .identifiers import is_identifier
from .object_checks import check_secret, check_thread_pool
from .options import Options, parse_value
from .property_values import take, take_text
from .qom import ObjectTree
from .qom_tree import Node, Row, build, new_container
from .replies import CommandFailed
from .throttling import throttle_limits
from .versions import Dialect

__all__ = ["Objects"]

_DUT = "/objects/dut"
#: A thread is a number that nothing looks behind.
_FIRST_THREAD = 4096
_LARGEST = 2**63 - 1


class Objects:
    """What stands under ``/objects``.

    Args:
        options: QEMU's command line.
        dialect: the version that is emulated.
    """

    def __init__(self, options: Options, dialect: Dialect) -> None:
        self._options = options
        self._dialect = dialect
        self._tree: ObjectTree | None = None
        self._threads: dict[str, int] = {}
        #: Whether a block node uses a throttle group; the machine knows.
        self.throttles: Callable[[str], bool] = lambda name: False

    @property
    def tree(self) -> ObjectTree:
        """All objects; those of the command line are made when they are first asked for."""
        if self._tree is None:
            self._tree = ObjectTree(self._options, self._dialect)
            self._start()
        return self._tree

    @property
    def container(self) -> Node:
        """``/objects``; QEMU makes it for the first object."""
        root = self.tree.root
        if "objects" not in root.children:
            root.add_child(new_container("objects"))
        return root.children["objects"]

    def add(self, arguments: Mapping[str, Any]) -> Node:
        """Makes an object; CommandFailed as ``object-add`` fails."""
        given = dict(arguments)
        kind, name = given.pop("qom-type"), given.pop("id")
        if not is_identifier(name):
            raise CommandFailed("Parameter 'id' expects an identifier")
        node = self._build(kind, name, given)
        if name in self.container.order:
            raise CommandFailed(
                f"attempt to add duplicate property '{name}' to object (type 'container')"
            )
        self._complete(node, given)
        self.container.add_child(node)
        return node

    def delete(self, name: str) -> None:
        """Removes an object; CommandFailed as ``object-del`` fails."""
        node = self.container.children.get(name)
        if node is None or not self.tree.types.is_a(node.kind, "user-creatable"):
            raise CommandFailed(f"object '{name}' not found")
        if self.is_used(node):
            if self._is_memory(node) and self._dialect.version >= (11, 0, 0):
                raise CommandFailed(f"Cannot delete host memory backend '{name}' which is mapped")
            if node.kind == "throttle-group" and self._dialect.version >= (11, 0, 0):
                raise CommandFailed(f"Cannot delete throttle group '{name}' with active references")
            raise CommandFailed(f"object '{name}' is in use, can not be deleted")
        self.container.remove(name)

    def is_used(self, node: Node) -> bool:
        """Whether something holds on to an object."""
        if node.kind == "throttle-group":
            return self.throttles(node.name)
        if self._is_memory(node):
            kinds = {"memory-backend", "memdev", "hostmem"}
        elif self.tree.types.is_a(node.kind, "cryptodev-backend"):
            kinds = {"cryptodev"}
        else:
            return False
        machine = self.tree.root.children["machine"]
        return any(
            row.value == node.path
            for holder in machine.walk()
            for name, row in holder.rows.items()
            if name in kinds
        )

    def of_kind(self, kind: str) -> list[Node]:
        """The objects of a type, in the order of a listing."""
        children = self.container.children
        names = (name for name in self.container.order if name in children)
        return [children[name] for name in names if self.tree.types.is_a(children[name].kind, kind)]

    def iothreads(self) -> list[dict[str, Any]]:
        """What ``query-iothreads`` answers."""
        shown = ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"]
        if self._dialect.version >= (11, 1, 0):
            shown.append("poll-weight")
        return [
            {
                "id": node.name,
                "thread-id": self._threads[node.name],
                **{name: node.value(name) for name in shown if node.value(name) is not None},
            }
            for node in reversed(self.of_kind("iothread"))
        ]

    def memory_backends(self) -> list[dict[str, Any]]:
        """What ``query-memdev`` answers."""
        shown = ["size", "merge", "dump", "prealloc", "share", "reserve", "host-nodes", "policy"]
        return [
            {
                "id": node.name,
                **{name: node.value(name) for name in shown if node.value(name) is not None},
            }
            for node in self.of_kind("memory-backend")
        ]

    def _build(self, kind: str, name: str, given: dict[str, Any]) -> Node:
        facts = load_facts(self._dialect.name, "objects").get(kind, {})
        path = f"/objects/{name}"

        def rename(value: Any) -> Any:
            if isinstance(value, str):
                return path + value[len(_DUT) :] if value.startswith(_DUT) else value
            return list(value) if isinstance(value, list) else value

        if "tree" in facts:
            node = build(facts["tree"], _DUT, name, rename)
            for child in [c for c in node.children.values() if c.name.startswith("dut[")]:
                node.rename(child, name + child.name[3:])
        else:
            refused = failed(facts.get("bare"))
            if refused is not None and not given:
                raise CommandFailed(refused[1] or f"cannot create '{kind}'", refused[0])
            node = self.tree.from_class(kind, name)
        if kind == "throttle-group":
            given = {**given, "limits": throttle_limits(given.get("limits", {}))}
        for key, value in given.items():
            self._give(node, key, value)
        return node

    def _give(self, node: Node, name: str, value: Any) -> None:
        row = node.rows.get(name)
        if row is None:
            node.order.append(name)
            node.rows[name] = Row("str", value, "")
            return
        if name == "size" and value == 0 and self._is_memory(node):
            raise CommandFailed(f"property 'size' of {node.kind} doesn't take value '0'")
        if node.kind == "iothread" and isinstance(value, int) and not 0 <= value <= _LARGEST:
            raise CommandFailed(f"{name} value must be in range [0, {_LARGEST}]")
        if row.kind.startswith("link<"):
            value = self.tree.link(name, row.kind[5:-1], value)
        row.value = value

    def _complete(self, node: Node, given: dict[str, Any]) -> None:
        if node.kind == "iothread":
            self._threads[node.name] = _FIRST_THREAD + len(self._threads)
            check_thread_pool(node)
        elif node.kind == "secret":
            check_secret(given)
        elif node.kind == "rng-random":
            file = Path(given.get("filename", "/dev/urandom"))
            if not file.exists():
                raise CommandFailed(f"Could not open '{file}': No such file or directory")
        elif node.kind == "memory-backend-file":
            file = Path(given["mem-path"])
            if not file.parent.exists():
                raise CommandFailed(
                    f"can't open backing store {file} for guest RAM: No such file or directory"
                )
        elif node.kind.startswith("cryptodev-backend-builtin") and given.get("queues", 1) != 1:
            raise CommandFailed("Only support one queue in cryptdov-builtin backend")

    def _is_memory(self, node: Node) -> bool:
        return self.tree.types.is_a(node.kind, "memory-backend")

    def _start(self) -> None:
        """The objects of the command line, and what it says of the machine's memory."""
        pairs = self._options.pairs
        given = [parse_value(text, "qom-type") for option, text in pairs if option == "object"]
        names = {one.get("id") for one in given}
        for option, text in pairs:
            if option in ("M", "machine"):
                backend = parse_value(text, "type").get("memory-backend")
                if backend is not None and backend in names:
                    # The machine makes none of its own then, and that name is free.
                    if "pc.ram" in self.container.children:
                        self.container.remove("pc.ram")
                    machine = self.tree.root.children["machine"]
                    machine.set_value("memory-backend", f"/objects/{backend}")
        for one in given:
            self._start_one(one)

    def _start_one(self, given: dict[str, Any]) -> None:
        kind, name = given.get("qom-type"), given.get("id")
        if kind not in self.tree.types.all or not isinstance(name, str):
            return
        listed = self.tree.types.listed("qom-list-properties", str(kind))
        kinds = {} if failed(listed) else {entry["name"]: entry["type"] for entry in listed}
        values = {}
        for key, value in given.items():
            of = kinds.get(key, "str")
            # Numbers with suffixes are sizes, which a list of properties calls plain integers.
            of = "size" if of == "int" and key.endswith("size") else of
            values[key] = (take_text if isinstance(value, str) else take)(key, of, value)
        self.add(values)
