"""The block layer of the emulated machine: its nodes, backends and jobs."""

from __future__ import annotations

from .block_backends import Backends, Emit
from .block_graph import BlockGraph
from .clock import Clock
from .versions import Dialect

__all__ = ["BlockLayer"]


class BlockLayer:
    """All of a machine's block devices, and what goes on with them.

    Attributes:
        graph: the block nodes.
        backends: the block backends.
    """

    def __init__(self, dialect: Dialect, clock: Clock, emit: Emit) -> None:
        self.dialect = dialect
        self.clock = clock
        self.emit = emit
        self.graph = BlockGraph()
        self.backends = Backends(self.graph, emit)
        self.attach = self.backends.attach
        self.detach = self.backends.detach
