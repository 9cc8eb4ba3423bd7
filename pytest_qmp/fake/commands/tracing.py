"""Commands about what QEMU was built with: trace events, its command line, statistics."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..facts import load_facts
from ..hardware import vcpus
from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()


@commands.handles("trace-event-get-state")
def trace_event_get_state(context: Context, arguments: Mapping[str, Any]) -> Any:
    enabled = context.machine.traced
    shown = []
    for name, per_cpu, available in _events(context, arguments):
        state = "enabled" if name in enabled else "disabled"
        event: dict[str, Any] = {"name": name, "state": state if available else "unavailable"}
        if context.dialect.version < (10, 0, 0):
            event["vcpu"] = per_cpu
        shown.append(event)
    return shown


@commands.handles("trace-event-set-state")
def trace_event_set_state(context: Context, arguments: Mapping[str, Any]) -> Any:
    events = _events(context, arguments)
    for name, _, available in events:
        if not available and not arguments.get("ignore-unavailable"):
            raise CommandFailed(f'event "{name}" is disabled')
    chosen = {name for name, _, available in events if available}
    if arguments["enable"]:
        context.machine.traced |= chosen
    else:
        context.machine.traced -= chosen
    return {}


def _events(context: Context, arguments: Mapping[str, Any]) -> list[tuple[str, bool, bool]]:
    """The events that are meant, in QEMU's order."""
    name, cpu = arguments["name"], arguments.get("vcpu")
    if cpu is not None and not 0 <= cpu < vcpus(context.machine.options):
        raise CommandFailed(f"invalid vCPU index {cpu}")
    events = load_facts(context.dialect.name, "monitor")["trace"]
    if "*" not in name:
        found = [event for event in events if event[0] == name]
        if not found:
            raise CommandFailed(f'unknown event "{name}"')
        if cpu is not None and not found[0][1]:
            raise CommandFailed(f'event "{name}" is not vCPU-specific')
        return found
    # Only the star stands for something else.
    pattern = name.replace("[", "[[]").replace("?", "[?]")
    found = [event for event in events if fnmatchcase(event[0], pattern)]
    return [event for event in found if event[1]] if cpu is not None else found


@commands.handles("query-command-line-options")
def query_command_line_options(context: Context, arguments: Mapping[str, Any]) -> Any:
    options = load_facts(context.dialect.name, "monitor")["options"]
    if "option" not in arguments:
        return options
    name = arguments["option"]
    found = [option for option in options if option["option"] == name]
    if not found:
        raise CommandFailed(f"invalid option name: {name}")
    return found


@commands.handles("query-stats-schemas")
def query_stats_schemas(context: Context, arguments: Mapping[str, Any]) -> Any:
    schemas = load_facts(context.dialect.name, "monitor")["answers"]["query-stats-schemas"]
    provider = arguments.get("provider")
    return [one for one in schemas if provider in (None, one["provider"])]


@commands.handles("request-ebpf")
def request_ebpf(context: Context, arguments: Mapping[str, Any]) -> Any:
    if arguments["id"] != "rss":
        raise NotModelled(f"the program {arguments['id']}")
    return load_facts(context.dialect.name, "monitor")["answers"]["request-ebpf"]
