"""What the fake takes from QEMU's command line; the rest is accepted and ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .command_line import Argument, first_value, parse_keys, parse_value, read_arguments

__all__ = ["Options", "parse_keys", "parse_options", "parse_value"]

_ACTIONS = {"reboot": "reset", "shutdown": "poweroff", "panic": "shutdown", "watchdog": "reset"}


@dataclass
class Options:
    """The part of a command line that the fake models.

    Attributes:
        paused: ``-S``.
        name: of ``-name``, None without one.
        uuid: of ``-uuid``.
        machine: the machine type of ``-M`` or ``-machine``.
        incoming: there is an ``-incoming``.
        preconfig: there is a ``--preconfig``.
        pretty: a monitor of the command line (``-mon``, ``-qmp-pretty``) has ``pretty=on``.
        pairs: every option without its dashes, and its value ("" for none), in order.
        arguments: the same, each with the text that errors about it begin with.
        actions: what to do on ``reboot``, ``shutdown``, ``panic`` and ``watchdog``.
    """

    paused: bool = False
    name: str | None = None
    uuid: str = "00000000-0000-0000-0000-000000000000"
    machine: str = "pc"
    incoming: bool = False
    preconfig: bool = False
    pretty: bool = False
    pairs: list[tuple[str, str]] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)
    actions: dict[str, str] = field(default_factory=lambda: dict(_ACTIONS))


def parse_options(args: Sequence[str]) -> Options:
    """Reads QEMU arguments, with or without the name of the binary in front."""
    options = Options()
    named = bool(args) and not args[0].startswith("-")
    options.arguments = read_arguments(args[1:] if named else args)
    options.pairs = [(argument.option, argument.value) for argument in options.arguments]
    for option, value in options.pairs:
        if option == "S":
            options.paused = True
        elif option == "no-shutdown":
            options.actions["shutdown"] = "pause"
        elif option == "no-reboot":
            options.actions["reboot"] = "shutdown"
        elif option == "name":
            options.name = first_value(value, "guest")
        elif option == "uuid":
            options.uuid = value
        elif option in ("M", "machine"):
            options.machine = first_value(value, "type") or options.machine
        elif option == "incoming":
            options.incoming = True
        elif option == "preconfig":
            options.preconfig = True
        elif option in ("mon", "qmp-pretty"):
            pretty = "on" if option == "qmp-pretty" else parse_keys(value).get("pretty")
            options.pretty = options.pretty or pretty == "on"
        elif option == "action":
            options.actions.update(parse_keys(value))
        elif option == "watchdog-action":
            options.actions["watchdog"] = value
    return options
