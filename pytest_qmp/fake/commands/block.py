"""Commands about block nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..block_info import backend_info, backend_stats, graph_info, node_info, node_stats
from .registry import Context, Registry

commands = Registry()


@commands.handles("blockdev-add")
def blockdev_add(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.block.add(arguments)
    return {}


@commands.handles("blockdev-del")
def blockdev_del(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.block.delete(arguments["node-name"])
    return {}


@commands.handles("query-named-block-nodes")
def query_named_block_nodes(context: Context, arguments: Mapping[str, Any]) -> Any:
    flat = arguments.get("flat", False)
    nodes = context.machine.block.graph.nodes
    return [node_info(context.dialect, node, flat=flat) for node in reversed(nodes)]


@commands.handles("query-block")
def query_block(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    return [backend_info(context.dialect, b) for b in context.machine.block.backends.all]


@commands.handles("query-blockstats")
def query_blockstats(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    block = context.machine.block
    if arguments.get("query-nodes", False):
        return [node_stats(context.schema, node) for node in block.graph.nodes]
    return [backend_stats(context.schema, backend) for backend in block.backends.all]


@commands.handles("x-debug-query-block-graph")
def query_block_graph(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    block = context.machine.block
    return graph_info(block.graph.nodes, block.backends.all)
