"""What the fake takes from QEMU's command line; the rest is accepted and ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Options", "parse_keys", "parse_options"]

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
        pretty: a monitor of the command line (``-mon``, ``-qmp-pretty``) has ``pretty=on``.
        pairs: every option without its dashes, and its value ("" for none), in order.
        actions: what to do on ``reboot``, ``shutdown``, ``panic`` and ``watchdog``.
    """

    paused: bool = False
    name: str | None = None
    uuid: str = "00000000-0000-0000-0000-000000000000"
    machine: str = "pc"
    incoming: bool = False
    pretty: bool = False
    pairs: list[tuple[str, str]] = field(default_factory=list)
    actions: dict[str, str] = field(default_factory=lambda: dict(_ACTIONS))


def parse_options(args: Sequence[str]) -> Options:
    """Reads QEMU arguments, with or without the name of the binary in front."""
    options = Options()
    options.pairs.extend(_pairs(args))
    for option, value in options.pairs:
        if option == "S":
            options.paused = True
        elif option == "no-shutdown":
            options.actions["shutdown"] = "pause"
        elif option == "no-reboot":
            options.actions["reboot"] = "shutdown"
        elif option == "name":
            options.name = _first(value, "guest")
        elif option == "uuid":
            options.uuid = value
        elif option in ("M", "machine"):
            options.machine = _first(value, "type") or options.machine
        elif option == "incoming":
            options.incoming = True
        elif option in ("mon", "qmp-pretty"):
            pretty = "on" if option == "qmp-pretty" else parse_keys(value).get("pretty")
            options.pretty = options.pretty or pretty == "on"
        elif option == "action":
            options.actions.update(parse_keys(value))
    return options


def _pairs(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options without their dashes, each with what follows it, if that is no option."""
    for index, arg in enumerate(args):
        if arg.startswith("-") and len(arg) > 1:
            following = args[index + 1] if index + 1 < len(args) else ""
            yield arg.removeprefix("-").removeprefix("-"), following


def parse_keys(value: str) -> dict[str, str]:
    """The ``key=value`` parts of an option's value; a doubled comma stands for one."""
    pairs = (item.partition("=") for item in _split(value))
    return {key: text for key, equals, text in pairs if equals}


def _first(value: str, key: str) -> str | None:
    """The value of a key that may be left out when it comes first."""
    items = _split(value)
    if items and "=" not in items[0]:
        return items[0]
    return parse_keys(value).get(key)


def _split(value: str) -> list[str]:
    """The parts between commas; a doubled comma stands for one."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
