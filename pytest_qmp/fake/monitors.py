"""What a command line says about monitors and serial ports, in the order of their making."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .chardev_options import ChardevOptions, read_chardev, read_short_form
from .command_line import Argument, StartFailed, read_keys

__all__ = ["MonitorOptions", "Wiring", "check_monitor", "read_wiring", "serial_failed"]

_MONITOR_KEYS = frozenset({"mode", "chardev", "pretty"})
_SHORT_MONITORS = {"qmp": "control", "qmp-pretty": "control", "monitor": "readline"}
_SERIAL_FAILED = "could not connect serial device to character backend '{}'"


@dataclass(frozen=True)
class MonitorOptions:
    """A monitor of the command line.

    Attributes:
        argument: where it was given.
        chardev: the name of its character device.
        mode: ``control`` for QMP, ``readline`` for people.
        pretty: its replies are spread over lines.
    """

    argument: Argument
    chardev: str
    mode: str = "readline"
    pretty: bool = False


@dataclass
class Wiring:
    """Character devices and what is on them.

    Attributes:
        chardevs: those that are opened before the machine begins, in order.
        monitors: all of them, in order.
        serial: for each serial port its device, or the name of one of ``chardevs``, or None for
            a port that isn't there; with where it was given.
    """

    chardevs: list[ChardevOptions] = field(default_factory=list)
    monitors: list[MonitorOptions] = field(default_factory=list)
    serial: list[tuple[Argument, ChardevOptions | str | None]] = field(default_factory=list)


def read_wiring(
    arguments: Iterable[Argument],
    version: tuple[int, ...],
    warn: Callable[[str], None] = lambda text: None,
) -> Wiring:
    """Reads what there is of ``-chardev``, ``-mon``, ``-qmp``, ``-monitor`` and ``-serial``.

    Args:
        arguments: the command line.
        version: of QEMU.
        warn: takes what QEMU writes about the way these were given.

    Raises:
        StartFailed: something in them can't be.
    """
    wiring = Wiring()
    names: set[tuple[str, str]] = set()
    for argument in arguments:
        if argument.option == "chardev":
            chardev = read_chardev(argument, version, warn)
            _claim(names, argument, "chardev", chardev.keys.get("id"))
            wiring.chardevs.append(chardev)
        elif argument.option == "mon":
            keys = read_keys(
                argument,
                argument.value,
                "chardev",
                _MONITOR_KEYS,
                booleans=("pretty",),
                warn=warn,
            )
            _claim(names, argument, "mon", keys.get("id"))
            wiring.monitors.append(
                MonitorOptions(
                    argument,
                    keys.get("chardev", ""),
                    keys.get("mode", "readline"),
                    keys.get("pretty", "off") in ("on", "yes", "true", "y"),
                )
            )
        elif argument.option in _SHORT_MONITORS and not _is_no_monitor(argument):
            _short_monitor(wiring, argument, version)
        elif argument.option == "serial":
            wiring.serial.append((argument, _serial(argument, len(wiring.serial), version)))
    return wiring


def check_monitor(monitor: MonitorOptions, known: Iterable[str]) -> None:
    """Raises StartFailed for what QEMU finds when it is about to make a monitor.

    Args:
        monitor: what to make.
        known: the names of the character devices that there are.
    """
    if monitor.mode not in ("readline", "control"):
        raise monitor.argument.failed(f"Parameter 'mode' does not accept value '{monitor.mode}'")
    if not monitor.chardev:
        raise monitor.argument.failed("Parameter 'chardev' is missing")
    if monitor.chardev not in known:
        raise monitor.argument.failed(f'chardev "{monitor.chardev}" not found')


def _claim(names: set[tuple[str, str]], argument: Argument, kind: str, name: str | None) -> None:
    if name is None:
        return
    if (kind, name) in names:
        raise argument.failed(f"Duplicate ID '{name}' for {kind}")
    names.add((kind, name))


def _is_no_monitor(argument: Argument) -> bool:
    return argument.option == "monitor" and argument.value == "none"


def _short_monitor(wiring: Wiring, argument: Argument, version: tuple[int, ...]) -> None:
    mode = _SHORT_MONITORS[argument.option]
    pretty = argument.option == "qmp-pretty"
    kind, _, name = argument.value.partition(":")
    if kind != "chardev":
        short = [one for one in wiring.monitors if one.argument.option in _SHORT_MONITORS]
        name = f"compat_monitor{len(short)}"
        try:
            wiring.chardevs.append(read_short_form(argument, name, version))
        except StartFailed as failed:
            reason = f"{argument.text}: parse error: {argument.value}"
            raise StartFailed(*failed.reports, reason) from failed
    wiring.monitors.append(MonitorOptions(argument, name, mode, pretty))


def _serial(
    argument: Argument, number: int, version: tuple[int, ...]
) -> ChardevOptions | str | None:
    if argument.value == "none":
        return None
    kind, _, name = argument.value.partition(":")
    if kind == "chardev":
        return name
    try:
        return read_short_form(argument, f"serial{number}", version)
    except StartFailed as failed:
        raise serial_failed(argument, failed) from failed


def serial_failed(argument: Argument, failed: StartFailed | None) -> StartFailed:
    """The end of QEMU for a serial port that can't be had, after the reason."""
    reason = f"{argument.text}: {_SERIAL_FAILED.format(argument.value)}"
    return StartFailed(*(failed.reports if failed else ()), reason)
