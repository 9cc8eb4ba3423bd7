"""The graph of block nodes: who uses which node, with which permissions, under which name."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

from .counter import Counter
from .replies import CommandFailed

__all__ = ["ALL", "NOTHING", "BlockGraph", "Blocker", "Edge", "Node", "Perm", "User"]

_WELL_FORMED = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_LONGEST_NAME = 31


class Perm(IntFlag):
    """What a user of a node may do with it."""

    CONSISTENT_READ = 1
    WRITE = 2
    WRITE_UNCHANGED = 4
    RESIZE = 8


ALL = Perm.CONSISTENT_READ | Perm.WRITE | Perm.WRITE_UNCHANGED | Perm.RESIZE
NOTHING = Perm(0)
_WORDS = {
    Perm.CONSISTENT_READ: "consistent read",
    Perm.WRITE: "write",
    Perm.WRITE_UNCHANGED: "write unchanged",
    Perm.RESIZE: "resize",
}


def perm_words(perms: Perm) -> list[str]:
    """QEMU's words for permissions."""
    return [word for perm, word in _WORDS.items() if perm & perms]


@dataclass(eq=False)
class User:
    """What uses a node and is no node itself: a device, a job, an export.

    Attributes:
        text: how QEMU calls it in errors, such as ``block device 'd'``.
        is_backend: it is a block backend, so that its node counts as in use by a device.
    """

    text: str
    is_backend: bool = False


@dataclass(eq=False)
class Blocker:
    """Keeps operations from a node.

    Attributes:
        reason: as QEMU says it.
        owner: what set it.
        allowed: the operations that may go on.
    """

    reason: str
    owner: object
    allowed: frozenset[str] = frozenset()


@dataclass(eq=False)
class Edge:
    """One use of a node.

    Attributes:
        parent: what uses it.
        child: the node.
        name: what it is to its parent, such as ``file``, ``backing`` or ``root``.
        perm: what the parent does with it.
        shared: what the parent lets others do with it.
    """

    parent: Node | User
    child: Node
    name: str
    perm: Perm = NOTHING
    shared: Perm = ALL

    @property
    def parent_text(self) -> str:
        """How errors call the parent."""
        if isinstance(self.parent, Node):
            return f"node '{self.parent.name}'"
        return self.parent.text


@dataclass(eq=False)
class Node:
    """A block node.

    Attributes:
        name: its node name, given or generated.
        driver: its driver.
        options: what it was opened with, its children left out; the driver's own members.
        size: of its contents, in bytes.
        read_only: it can't be written to.
        auto_read_only: it is writable only while something writes.
        children: its uses of other nodes, oldest first.
        parents: uses of it, newest first.
        monitor_owned: ``blockdev-add`` made it.
        facts: what its driver knows of it.
    """

    name: str
    driver: str
    options: dict[str, Any]
    size: int = 0
    read_only: bool = False
    auto_read_only: bool = False
    direct: bool = False
    no_flush: bool = False
    detect_zeroes: str = "off"
    monitor_owned: bool = False
    implicit: bool = False
    write_threshold: int = 0
    children: list[Edge] = field(default_factory=list)
    parents: list[Edge] = field(default_factory=list)
    blockers: list[Blocker] = field(default_factory=list)
    bitmaps: list[Any] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def child(self, name: str) -> Edge | None:
        """Its use of another node under that name."""
        return next((edge for edge in self.children if edge.name == name), None)

    def node(self, name: str) -> Node | None:
        """The node that it uses under that name."""
        edge = self.child(name)
        return edge.child if edge else None

    @property
    def data_path(self) -> str | None:
        """Where the host's file below can be read, None if there is none."""
        borrowed = self.facts.get("borrowed")
        path: str | None = self.facts.get("path") if borrowed is None else borrowed.path
        return path

    @property
    def backing(self) -> Node | None:
        """The node that it takes from what it does not have itself."""
        return self.node("backing")

    @property
    def below(self) -> Node | None:
        """The node that it filters, or None if it is no filter."""
        if not self.facts.get("filter"):
            return None
        return self.children[0].child if self.children else None

    @property
    def unfiltered(self) -> Node:
        """The first node at or below it that is no filter."""
        node = self
        while (below := node.below) is not None:
            node = below
        return node

    @property
    def has_backend(self) -> bool:
        """Whether a device, or what counts as one, uses it directly."""
        return any(isinstance(e.parent, User) and e.parent.is_backend for e in self.parents)

    @property
    def cumulative(self) -> tuple[Perm, Perm]:
        """What all its users do together, and what all of them share."""
        perm, shared = NOTHING, ALL
        for edge in self.parents:
            perm |= edge.perm
            shared &= edge.shared
        return perm, shared

    def check_blockers(self, operation: str) -> None:
        """CommandFailed if an operation on it is blocked."""
        for blocker in reversed(self.blockers):
            if operation not in blocker.allowed:
                raise CommandFailed(f"Node '{self.name}' is busy: {blocker.reason}")

    def block(self, reason: str, owner: object, *allowed: str) -> None:
        """Blocks all operations but those allowed."""
        self.blockers.append(Blocker(reason, owner, frozenset(allowed)))

    def unblock(self, owner: object) -> None:
        """Takes back what an owner blocked."""
        self.blockers = [blocker for blocker in self.blockers if blocker.owner is not owner]

    def chain(self) -> Iterator[Node]:
        """Itself and what is below it, filters and backing files, top first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.below or node.backing


class BlockGraph:
    """All block nodes of a machine.

    Attributes:
        nodes: oldest first.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._generated = Counter()
        # The names that QEMU generates are not to be foreseen either.
        self._random = random.Random()

    def find(self, name: str | None) -> Node | None:
        """The node of that name."""
        return next((node for node in self.nodes if node.name == name), None)

    def need(self, name: str) -> Node:
        """The node of that name; CommandFailed if there is none."""
        node = self.find(name)
        if node is None:
            raise CommandFailed(f"Cannot find device='{name}' nor node-name='{name}'")
        return node

    def generate_name(self) -> str:
        """A name for a node that was given none."""
        return f"#block{next(self._generated)}{self._random.randrange(100):02d}"

    def check_name(self, name: str, devices: Mapping[str, Any]) -> None:
        """CommandFailed if a new node can't have that name."""
        if not _WELL_FORMED.fullmatch(name):
            raise CommandFailed(f"Invalid node-name: '{name}'")
        if name in devices:
            raise CommandFailed(f"node-name={name} is conflicting with a device id")
        if self.find(name):
            raise CommandFailed(f"Duplicate nodes with node-name='{name}'")
        if len(name) > _LONGEST_NAME:
            raise CommandFailed("Node name too long")

    def add(self, node: Node) -> None:
        """A node that has been opened."""
        self.nodes.append(node)

    def link(self, parent: Node | User, child: Node, name: str, perm: Perm, shared: Perm) -> Edge:
        """Uses a node; CommandFailed if that is in conflict with another use."""
        edge = Edge(parent, child, name, perm, shared)
        child.parents.insert(0, edge)
        if isinstance(parent, Node):
            parent.children.append(edge)
        try:
            self.refresh(child)
        except CommandFailed:
            self.unlink(edge, keep=True)
            raise
        return edge

    def change(self, edge: Edge, perm: Perm, shared: Perm) -> None:
        """Changes what a use does; CommandFailed, with nothing changed, on a conflict."""
        before = edge.perm, edge.shared
        edge.perm, edge.shared = perm, shared
        try:
            self.refresh(edge.child)
        except CommandFailed:
            edge.perm, edge.shared = before
            self.refresh(edge.child)
            raise

    def unlink(self, edge: Edge, *, keep: bool = False) -> None:
        """Ends a use; a node that nothing uses any more is closed, unless it is to be kept."""
        if edge in edge.child.parents:
            edge.child.parents.remove(edge)
        if isinstance(edge.parent, Node) and edge in edge.parent.children:
            edge.parent.children.remove(edge)
        if keep or not self.close_unused(edge.child):
            self.refresh(edge.child)

    def close_unused(self, node: Node) -> bool:
        """Closes a node that nothing uses; whether it was."""
        if node.parents or node.monitor_owned or node not in self.nodes:
            return False
        self.nodes.remove(node)
        if "borrowed" in node.facts:
            node.facts["borrowed"].close()
        for edge in list(node.children):
            self.unlink(edge)
        return True

    def replace(self, old: Node, new: Node, *, but: Edge | None = None) -> None:
        """Lets what uses a node use another one instead."""
        for edge in reversed(list(old.parents)):
            if edge is but or edge.name in ("main node", "source", "target"):
                continue
            old.parents.remove(edge)
            edge.child = new
            new.parents.insert(0, edge)
        self.refresh(old)
        self.refresh(new)

    def refresh(self, node: Node) -> None:
        """Checks the uses of a node, and passes them on to what it uses itself."""
        _check_conflicts(node)
        perm, shared = node.cumulative
        _check_writable(node, perm)
        self._check_locks(node, perm, shared)
        for edge in node.children:
            before = edge.perm, edge.shared
            edge.perm, edge.shared = _passed_on(edge, perm, shared)
            if before != (edge.perm, edge.shared):
                try:
                    self.refresh(edge.child)
                except CommandFailed:
                    edge.perm, edge.shared = before
                    raise

    def _check_locks(self, node: Node, perm: Perm, shared: Perm) -> None:
        """The locks on a file keep another node from what isn't shared."""
        key = node.facts.get("file-key")
        if key is None:
            return
        for other in self.nodes:
            if other is node or other.facts.get("file-key") != key:
                continue
            other_perm, other_shared = other.cumulative
            refused = perm_words(perm & ~other_shared)
            if refused:
                raise CommandFailed(f'Failed to get "{refused[0]}" lock')
            unshared = perm_words(other_perm & ~shared)
            if unshared:
                raise CommandFailed(f'Failed to get shared "{unshared[0]}" lock')


def _check_conflicts(node: Node) -> None:
    for user in node.parents:
        for other in node.parents:
            refused = Perm(other.perm & ~user.shared)
            if other is user or not refused:
                continue
            words = ", ".join(perm_words(refused))
            raise CommandFailed(
                f"Permission conflict on node '{node.name}': permissions '{words}' are both "
                f"required by {other.parent_text} (uses node '{node.name}' as '{other.name}' "
                f"child) and unshared by {user.parent_text} (uses node '{node.name}' as "
                f"'{user.name}' child)."
            )


def _check_writable(node: Node, perm: Perm) -> None:
    if perm & (Perm.WRITE | Perm.WRITE_UNCHANGED) and node.read_only and not node.auto_read_only:
        raise CommandFailed("Block node is read-only")


def _passed_on(edge: Edge, perm: Perm, shared: Perm) -> tuple[Perm, Perm]:
    """What a node's use of another one comes to, given the uses of the node itself."""
    node = edge.parent
    if not isinstance(node, Node):
        return edge.perm, edge.shared
    how = node.facts.get("perms", {}).get(edge.name, "filter")
    if how == "own":
        return edge.perm, edge.shared
    if how == "quorum":
        # What reads and compares all children can't have any of them written by others.
        return perm, shared & (Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED)
    if how == "backing":
        below = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED
        if shared & Perm.WRITE:
            below |= Perm.WRITE | Perm.RESIZE
        return perm & Perm.CONSISTENT_READ, below
    if how == "format":
        writes = not node.read_only
        needed = perm & ~Perm.RESIZE | Perm.CONSISTENT_READ
        if writes:
            needed |= Perm.WRITE | Perm.RESIZE
        return needed, shared & ~(Perm.WRITE | Perm.RESIZE)
    if how == "data":
        needed = perm | (Perm.RESIZE if perm & Perm.WRITE else NOTHING)
        return needed, shared & ~Perm.RESIZE
    return perm, shared
