"""The kinds of jobs that copy between block nodes, or make images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .block_graph import ALL, NOTHING, Edge, Node, Perm, User
from .block_names import name_node
from .job_work import Work
from .jobs import Job
from .replies import CommandFailed

if TYPE_CHECKING:
    from .block import BlockLayer
    from .commands.bitmaps import Bitmap

__all__ = ["Backup", "Commit", "Create", "Mirror", "Stream", "allocated"]

#: So much is under way at a time in a mirror.
_IN_FLIGHT = 16 << 20
_COMMIT = "commit"


def allocated(node: Node, *, whole_chain: bool) -> int:
    """How many bytes a job has to copy from a node."""
    source = node.unfiltered
    if source.driver.startswith("null-"):
        return 0
    if source.facts.get("format") and not (whole_chain and source.backing):
        return 0
    if source.facts.get("format") and source.backing is not None:
        return allocated(source.backing, whole_chain=True) and source.size
    return source.size


class _BlockWork(Work):
    """A job that has block nodes."""

    def __init__(self, block: BlockLayer) -> None:
        self.block = block
        self._edges: list[Edge] = []
        self._blocked: list[Node] = []
        self.filter: Node | None = None

    def use(self, job: Job, node: Node, name: str, *, backend: bool = False) -> None:
        """The job has a node, through a backend of its own if need be."""
        text = "an unnamed block device" if backend else f"block job '{job.ident}'"
        user = User(text, is_backend=backend)
        self._edges.append(self.block.graph.link(user, node, name, NOTHING, ALL))

    def block_node(self, node: Node) -> None:
        """Nothing else is to be done with a node."""
        node.block(f"block device is in use by block job: {self.kind}", self)
        self._blocked.append(node)

    def insert_filter(
        self, source: Node, driver: str, child: str, name: str | None, target: Node | None = None
    ) -> Node:
        """Puts a filter between a node and what uses it."""
        graph = self.block.graph
        if name is not None:
            graph.check_name(name, self.block.backends.by_drive)
        top = Node(
            name or graph.generate_name(),
            driver,
            {},
            size=source.size,
            read_only=source.read_only,
            implicit=name is None,
        )
        top.facts.update(filter=True, instant=source.facts.get("instant", False))
        top.facts["perms"] = {child: "own", "target": "own"}
        graph.add(top)
        graph.replace(source, top)
        graph.link(top, source, child, NOTHING, ALL)
        if target is not None:
            graph.link(top, target, "target", NOTHING, ALL)
        name_node(top)
        self.filter = top
        return top

    def remove_filter(self, replacement: Node) -> None:
        """Takes the filter out; what used it uses another node."""
        top, self.filter = self.filter, None
        if top is None:
            return
        graph = self.block.graph
        below = [edge.child for edge in top.children]
        for edge in list(top.children):
            graph.unlink(edge, keep=True)
        graph.replace(top, replacement)
        graph.close_unused(top)
        for node in below:
            self.block.close(node)

    def ended(self, job: Job) -> None:
        for node in self._blocked:
            node.unblock(self)
        edges, self._edges = self._edges, []
        for edge in edges:
            self.block.graph.unlink(edge)


class Backup(_BlockWork):
    """Copies a node as it is now."""

    kind = "backup"
    held_at_start = True

    def __init__(self, block: BlockLayer, source: Node, target: Node, sync: str) -> None:
        super().__init__(block)
        self._source = source
        self._sync = sync
        #: What it copies by, busy as long as it runs.
        self.bitmap: Bitmap | None = None
        self.amount = source.size
        instant = source.facts.get("instant") and target.facts.get("instant")
        self.ends_later = not instant and sync not in ("top", "none")
        if sync == "top":
            self.amount = 0

    def started(self, job: Job) -> None:
        job.total = self.amount
        if self._sync == "none":
            return
        if self.ends_later and not job.in_transaction:
            self.block.clock.call_soon(job.proceed)
        else:
            job.proceed()

    def ended(self, job: Job) -> None:
        if self.bitmap is not None:
            self.bitmap.busy = False
        self.remove_filter(self._source)
        super().ended(job)


class Mirror(_BlockWork):
    """Copies a node, and follows what is written to it until it is told to end.

    ``kind`` is ``commit`` where it commits the active layer.
    """

    kind = "mirror"
    stays_until_told = True
    ends_later = True
    first_chunk = _IN_FLIGHT
    waits_at_end = True

    def __init__(
        self, block: BlockLayer, source: Node, target: Node, amount: int, kind: str = "mirror"
    ) -> None:
        super().__init__(block)
        self.kind = kind
        self._source = source
        self._target = target
        self._amount = amount
        self.replaces: Node | None = None

    def started(self, job: Job) -> None:
        if self.kind == "mirror" and self._source.size != self._target.size:
            error = "Source and target image have different sizes"
            self.block.clock.call_soon(lambda: self.block.jobs.fail(job, error))
            return
        job.total = self._amount
        source, target = (
            bool(node.unfiltered.facts.get("instant")) for node in (self._source, self._target)
        )
        # What has no file answers at once; so little is done before anybody looks.
        instant = (target and (source or self.kind == _COMMIT)) or (source and not self._amount)
        if job.speed or (instant and self._amount <= _IN_FLIGHT):
            job.proceed()
        else:
            self.block.clock.call_soon(job.proceed)

    def succeeded(self, job: Job) -> None:
        if job.details.get("unfinished"):
            return
        if self.kind == _COMMIT:
            self._committed()
            return
        graph = self.block.graph
        replaced = self.replaces or self.filter
        if replaced is not None:
            for edge in self._edges:
                if edge.child is self._target:
                    graph.unlink(edge, keep=True)
            graph.replace(replaced, self._target)

    def _committed(self) -> None:
        # What was a backing file is the active layer now, and so gets written to.
        node: Node | None = self._target
        while node is not None:
            node.read_only = False
            node = node.node("file")
        graph = self.block.graph
        for edge in [edge for edge in self._edges if edge.child is self._target]:
            graph.unlink(edge, keep=True)
        above = self._source.child("backing")
        while above is not None and above.child is not self._target:
            above = above.child.child("backing")
        if above is not None and isinstance(above.parent, Node):
            self._target.unblock(above.parent)
            graph.unlink(above, keep=True)
        if self.filter is not None:
            graph.replace(self.filter, self._target)

    def ended(self, job: Job) -> None:
        self.remove_filter(self._source)
        super().ended(job)
        self.block.close(self._source)
        self.block.close(self._target)


class Commit(_BlockWork):
    """Puts what nodes in the middle of a chain have into one below."""

    kind = "commit"
    ends_later = True

    def __init__(
        self, block: BlockLayer, overlay: Node, top: Node, base: Node, backing_file: str | None
    ) -> None:
        super().__init__(block)
        self._overlay = overlay
        self._top = top
        self._base = base
        self._backing_file = backing_file

    def started(self, job: Job) -> None:
        job.total = self._base.size
        self.block.clock.call_soon(job.proceed)

    def succeeded(self, job: Job) -> None:
        self.remove_filter(self._top)
        self.block.set_backing(self._overlay, self._base, self._backing_file)
        self.block.store_backing(self._overlay)

    def ended(self, job: Job) -> None:
        self.remove_filter(self._top)
        super().ended(job)


class Stream(_BlockWork):
    """Takes into a node what it has from nodes below."""

    kind = "stream"

    def __init__(
        self, block: BlockLayer, top: Node, base: Node | None, backing_file: str | None
    ) -> None:
        super().__init__(block)
        self._top = top
        self._base = base
        self._backing_file = backing_file
        self.amount = 0 if top.unfiltered.backing is base else top.size
        self.ends_later = bool(self.amount)

    def started(self, job: Job) -> None:
        job.total = self.amount
        if self.ends_later:
            # What reads as zeros is done at once, whatever the speed.
            self.block.clock.call_soon(lambda: self._finish(job))
        else:
            job.proceed()

    def _finish(self, job: Job) -> None:
        if job.status == "running" and not job.cancelled:
            job.current = job.total
            self.block.jobs.succeed(job)

    def succeeded(self, job: Job) -> None:
        if self.amount:
            self.block.set_backing(self._top.unfiltered, self._base, self._backing_file)
            self.block.store_backing(self._top.unfiltered)

    def ended(self, job: Job) -> None:
        self.remove_filter(self._top)
        super().ended(job)


class Create(Work):
    """Makes an image.

    Args:
        block: the block layer.
        make: does it; CommandFailed if it can't be.
        prepare: what is looked at before anything is written, with the same failure.
        fails_later: a failure of ``prepare`` is told of after the reply.
    """

    kind = "create"
    is_block_job = False

    def __init__(
        self,
        block: BlockLayer,
        make: Callable[[], None],
        prepare: Callable[[], None],
        *,
        fails_later: bool,
    ) -> None:
        self._block = block
        self._make = make
        self._prepare = prepare
        self._fails_later = fails_later

    def started(self, job: Job) -> None:
        job.total = 1
        job.current = 0
        try:
            self._prepare()
        except CommandFailed as failed:
            job.current = 1
            if self._fails_later:
                desc = failed.desc
                self._block.clock.call_soon(lambda: self._block.jobs.fail(job, desc))
            else:
                self._block.jobs.fail(job, failed.desc)
            return
        self._block.clock.call_soon(lambda: self._run(job))

    def _run(self, job: Job) -> None:
        job.current = 1
        try:
            self._make()
        except CommandFailed as failed:
            self._block.jobs.fail(job, failed.desc)
            return
        self._block.jobs.succeed(job)


#: What formats ask of the node that they are made in.
CREATES = Perm.WRITE | Perm.RESIZE
