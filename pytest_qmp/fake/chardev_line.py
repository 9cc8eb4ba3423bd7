"""The character devices that a machine has from its command line, and who uses them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .chardev_options import ChardevOptions, read_short_form
from .command_line import Argument, StartFailed, parse_value
from .monitors import Wiring, read_wiring
from .options import Options

__all__ = ["LineChardev", "read_line_chardevs"]

_RING_SIZE = 65536
#: Machine types with neither serial nor parallel ports, and those with serial ones only.
_NO_PORTS, _NO_PARALLEL = frozenset({"none", "x-remote"}), frozenset({"microvm"})


@dataclass
class LineChardev:
    """A character device of the command line.

    Attributes:
        label: its name.
        kind: of its backend.
        address: of a socket, as ``query-chardev`` says; "" for others.
        server: a socket listens.
        size: of a buffer, in bytes.
        users: who is in front of it.
        is_open: they listen.
        swappable: they cope with another backend.
        serves_client: unless whoever opens it knows better, the client that asks is there.
        is_own_monitor: it stands for the socket that the server itself listens on.
    """

    label: str
    kind: str
    address: str = ""
    server: bool = False
    size: int = _RING_SIZE
    users: list[str] = field(default_factory=list)
    is_open: bool = False
    swappable: bool = False
    serves_client: bool = False
    is_own_monitor: bool = False


def read_line_chardevs(options: Options, version: tuple[int, ...]) -> list[LineChardev]:
    """Those of a command line, in the order in which QEMU makes them.

    What can't be is left out: whoever starts the machine says so.
    """
    try:
        wiring = read_wiring(options.arguments, version, lambda text: None)
    except StartFailed:
        wiring = Wiring()
    found: dict[str, LineChardev] = {}

    def add(chardevs: Iterator[LineChardev] | list[LineChardev]) -> None:
        for chardev in chardevs:
            found.setdefault(chardev.label, chardev)

    for described in wiring.chardevs:
        add(_opened(described))
    for monitor in wiring.monitors:
        _use(found, monitor.chardev, f"monitor {monitor.chardev}")
    controls = [monitor.chardev for monitor in wiring.monitors if monitor.mode == "control"]
    if controls and controls[0] in found:
        found[controls[0]].serves_client = True
    if not controls:
        short = [monitor for monitor in wiring.monitors if monitor.argument.option != "mon"]
        label = f"compat_monitor{len(short)}"
        add([LineChardev(label, "socket", is_own_monitor=True)])
        _use(found, label, "monitor")
    for kind, port in _ports(options, wiring, version):
        if isinstance(port, str):
            label = port
        else:
            add(_opened(port))
            label = port.id
        if options.machine not in _NO_PORTS:
            _use(found, label, kind, swappable=kind == "serial")
    return list(found.values())


def _opened(described: ChardevOptions) -> Iterator[LineChardev]:
    label, keys = described.id, described.keys
    kind = keys.get("backend", "null")
    kind = {"console": "stdio", "tty": "serial", "parport": "parallel"}.get(kind, kind)
    shared = described.flag("mux") or described.argument.value.startswith("mon:")
    base = LineChardev(
        f"{label}-base" if shared else label,
        kind,
        _address(described) if kind == "socket" else "",
        described.flag("server"),
    )
    if keys.get("size", "").isdecimal():
        base.size = int(keys["size"])
    yield base
    if shared:
        base.users.append(f"chardev {label}")
        base.is_open = True
        yield LineChardev(label, "mux")


def _address(described: ChardevOptions) -> str:
    keys = described.keys
    if "path" in keys:
        return f"unix:{keys['path']}"
    if "fd" in keys:
        return f"fd:{keys['fd']}"
    kinds = ("telnet", "tn3270", "websocket")
    kind = next((kind for kind in kinds if described.flag(kind)), "tcp")
    kind = "telnet" if kind == "tn3270" else kind
    return f"{kind}:{keys.get('host', '')}:{keys.get('port', '')}"


def _ports(
    options: Options, wiring: Wiring, version: tuple[int, ...]
) -> Iterator[tuple[str, ChardevOptions | str]]:
    """What is on the serial and parallel ports and the debug console."""
    yield from _default_port(options, "serial", wiring)
    for _, described in wiring.serial:
        if described is not None:
            yield "serial", described
    if not any(option == "parallel" for option, _ in options.pairs):
        yield from _default_port(options, "parallel", wiring)
    count = 0
    for argument in options.arguments:
        if argument.option not in ("parallel", "debugcon"):
            continue
        label = argument.option
        if label == "parallel":
            label = f"parallel{count}"
            count += 1
        kind, _, name = argument.value.partition(":")
        if kind == "chardev":
            yield argument.option, name
        elif kind != "none":
            try:
                yield argument.option, read_short_form(argument, label, version)
            except StartFailed:
                continue


def _default_port(
    options: Options, port: str, wiring: Wiring
) -> Iterator[tuple[str, ChardevOptions | str]]:
    """What a port has when the command line says nothing of it."""
    named = {option for option, _ in options.pairs}
    drivers = {str(device.get("driver")) for device in _devices(options)}
    lacks = options.machine in _NO_PORTS or (port == "parallel" and options.machine in _NO_PARALLEL)
    if lacks or "nodefaults" in named or port in named or f"isa-{port}" in drivers:
        return
    keys = {"backend": "vc"}
    if "nographic" in named:
        keys = {"backend": "stdio" if port == "serial" else "null"}
    yield port, ChardevOptions(Argument("", "", ""), f"{port}0", keys)


def _devices(options: Options) -> Iterator[dict[str, object]]:
    for option, value in options.pairs:
        if option == "device":
            try:
                yield parse_value(value, "driver")
            except ValueError:
                continue


def _use(
    found: dict[str, LineChardev],
    label: str,
    user: str,
    *,
    is_open: bool = True,
    swappable: bool = False,
) -> None:
    chardev = found.get(label)
    if chardev is not None:
        chardev.users.append(user)
        chardev.is_open = chardev.is_open or is_open
        chardev.swappable = swappable
