"""human-monitor-command: its failures are texts too."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pytest_qmp.qmp.schema import (
    ArrayType,
    BuiltinType,
    EnumType,
    ObjectType,
    Schema,
    SchemaType,
)

from ..arguments import check_arguments
from ..facts import load_facts
from ..hardware import is_pc
from ..human_commands import COMMANDS
from ..human_info import INFO
from ..human_line import LineFault, read_arguments, split_name
from ..human_objects import OBJECT_COMMANDS
from ..replies import CommandFailed, NotModelled
from ..versions import load_schema
from .registry import Context, Registry

commands = Registry()

_BOOLEANS = {"on": True, "yes": True, "true": True, "y": True} | {
    "off": False, "no": False, "false": False, "n": False
}  # fmt: skip
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([bBkKmMgGtT]?)")
_SHIFTS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


@commands.handles("human-monitor-command")
def human_monitor_command(context: Context, arguments: Mapping[str, Any]) -> Any:
    monitor = _HumanMonitor(context)
    if "cpu-index" in arguments:
        cpus = monitor.run("query-cpus-fast")
        if arguments["cpu-index"] not in [cpu["cpu-index"] for cpu in cpus]:
            raise CommandFailed("Parameter 'cpu-index' expects a CPU number")
    return monitor.carry_out(arguments["command-line"]).replace("\n", "\r\n")


_ALL = {**COMMANDS, **OBJECT_COMMANDS}


def _named(context: Context, *options: str) -> bool:
    """Whether one of some options is on the command line."""
    return any(option in options for option, _ in context.machine.options.pairs)


class _HumanMonitor:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.version = context.dialect.version
        self.keys: Collection[str] = _key_names(context.dialect.name)
        self._help: dict[str, str] = {
            topic: text.replace("\r\n", "\n")
            for topic, text in load_facts(context.dialect.name, "monitor")["help"].items()
        }
        network = context.machine.network
        self.has_network = bool(network.netdevs or network.cards) or _named(context, "net", "nic")
        bare = is_pc(context.machine.options) and not _named(context, "cpu", "smp")
        reset = context.machine.status == "prelaunch"
        self.first_registers = self._help["info registers"] if bare and reset else None

    def run(self, command: str, **arguments: Any) -> Any:
        from . import HANDLERS

        schema = self._context.schema
        if not schema.has_command(command) or command not in HANDLERS:
            raise NotModelled(f"the human monitor's use of {command}")
        check_arguments(schema, command, arguments)
        return HANDLERS[command](self._context, arguments)

    def typed(self, command: str, keys: Mapping[str, str]) -> dict[str, Any]:
        schema = self._context.schema
        found = schema.object(schema.command(command).arg_type)
        members = list(found.members)
        variant = found.variants.get(keys.get(found.tag, "")) if found.tag else None
        if variant is not None:
            members += schema.object(variant).members
        types = {member.name: schema.type(member.type) for member in members}
        return {key: _value(key, text, types.get(key)) for key, text in keys.items()}

    def stop(self, status: str) -> None:
        self._context.machine.stop(status)

    def help(self, topic: str) -> str:
        if not topic:
            return self._help["help"]
        found = self._help.get(f"help {topic}")
        if found is not None:
            return found
        words = topic.split()
        if words[0] == "info" and len(words) == 2 and self._knows_info(words[1]):
            lines = self._help["info"].split("\n")
            return "".join(f"{line}\n" for line in lines if line.split()[1:2] == [words[1]])
        return f"unknown command: '{topic}'\n"

    def carry_out(self, line: str) -> str:
        """What a line prints."""
        line = line.rstrip()
        name, rest = split_name(line.lstrip())
        typed = line[: len(line) - len(rest)]
        if not name and not rest:
            return ""
        if name == "info":
            return self._info(line, rest)
        if f"help {name}" not in self._help and name not in _ALL:
            return f"unknown command: '{name}'\n"
        command = _ALL.get(name)
        if command is None or rest.startswith("/"):
            raise NotModelled(f"the human monitor's {name}")
        title = command.title or name
        return self._try(
            typed, lambda: command.handler(self, read_arguments(title, command.shape, rest))
        )

    def _info(self, line: str, rest: str) -> str:
        if not rest.strip():
            return self._help["info"]
        topic, arguments = split_name(rest.lstrip())
        typed = line[: len(line) - len(arguments)]
        if not self._knows_info(topic):
            return f"unknown command: '{typed}'\n"
        if topic not in INFO:
            raise NotModelled(f"the human monitor's info {topic}")
        shape, show = INFO[topic]
        return self._try(typed, lambda: show(self, read_arguments(topic, shape, arguments)))

    def _knows_info(self, topic: str) -> bool:
        return any(line.split()[1:2] == [topic] for line in self._help["info"].split("\n"))

    @staticmethod
    def _try(typed: str, action: Callable[[], str]) -> str:
        try:
            return action()
        except LineFault as fault:
            return f'{fault}\nTry "help {typed}" for more information\n'
        except CommandFailed as failed:
            return f"Error: {failed.desc}\n"


def _value(key: str, text: str, kind: SchemaType | None) -> Any:
    """A value of a type that was written as text."""
    if not isinstance(kind, (BuiltinType, EnumType)) and kind is not None:
        raise NotModelled(f"{key}={text} in the human monitor")
    json_type = kind.json_type if isinstance(kind, BuiltinType) else "string"
    if json_type == "boolean":
        if text not in _BOOLEANS:
            raise CommandFailed(f"Parameter '{key}' expects 'on' or 'off'")
        return _BOOLEANS[text]
    if json_type == "int":
        found = _SIZE.fullmatch(text)
        if not found:
            raise NotModelled(f"{key}={text} in the human monitor")
        return int(found[1], 0) << _SHIFTS[found[2].lower()]
    return text


@functools.cache
def _key_names(version: str) -> frozenset[str]:
    """The names of keys that the schema has for ``send-key``."""
    schema: Schema = load_schema(version)
    members = schema.object(schema.command("send-key").arg_type).members
    keys = schema.type(next(member.type for member in members if member.name == "keys"))
    if not isinstance(keys, ArrayType):
        raise TypeError(f"send-key's keys are {keys!r}")
    key = schema.type(keys.element_type)
    if not isinstance(key, ObjectType):
        raise TypeError(f"a key of send-key is {key!r}")
    names = schema.type(schema.object(key.variants["qcode"]).members[0].type)
    if not isinstance(names, EnumType):
        raise TypeError(f"a key's name is {names!r}")
    return frozenset(names.values)
