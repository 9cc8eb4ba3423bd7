"""What QEMU checks of a command line before it makes anything of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from .command_line import Argument, StartFailed, parse_keys, read_keys

__all__ = ["check_arguments_at_start"]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SIZE = re.compile(r"(\d+(\.\d+)?|0x[0-9a-fA-F]+)[bkKmMgGtTpPeE]?")
_ACTIONS = {
    "reboot": ("reset", "shutdown"),
    "shutdown": ("poweroff", "pause"),
    "panic": ("pause", "shutdown", "exit-failure", "none"),
    "watchdog": ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"),
}
_ACCELERATORS = ("tcg", "kvm", "xen", "hvf", "nvmm", "whpx", "qtest", "mshv")


def check_arguments_at_start(arguments: Iterable[Argument], warn: Callable[[str], None]) -> None:
    """Raises StartFailed for the first fault that QEMU finds while it reads its options.

    Args:
        arguments: the command line.
        warn: takes what QEMU writes about the way that something was given.
    """
    devices: set[str] = set()
    accelerators: list[Argument] = []
    for argument in arguments:
        option, value = argument.option, argument.value
        if option == "uuid":
            if not _UUID.fullmatch(value):
                raise argument.failed("failed to parse UUID string: wrong format")
        elif option == "name":
            read_keys(argument, value, "guest", ("guest", "process", "debug-threads"))
        elif option == "action":
            _check_action(argument)
        elif option == "m":
            _check_memory(argument)
        elif option == "device":
            _check_device(argument, devices, warn)
        elif option == "add-fd":
            _check_descriptor(argument)
        elif option == "accel":
            accelerators.append(argument)
    _check_accelerators(accelerators, warn)


def _check_action(argument: Argument) -> None:
    for key, value in parse_keys(argument.value).items():
        if key not in _ACTIONS:
            raise argument.failed(f"Invalid parameter '{key}'")
        if value not in _ACTIONS[key]:
            raise argument.failed(f"Parameter '{key}' does not accept value '{value}'")


def _check_memory(argument: Argument) -> None:
    first = argument.value.partition(",")[0]
    size = parse_keys(argument.value).get("size", "1" if "=" in first else first)
    if not _SIZE.fullmatch(size):
        raise argument.failed(
            "Parameter 'size' expects a non-negative number below 2^64\n"
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
            "and exabytes, respectively."
        )


def _check_device(argument: Argument, names: set[str], warn: Callable[[str], None]) -> None:
    if argument.value.startswith("{"):
        return
    keys = read_keys(argument, argument.value, "driver", None, warn=warn)
    name = keys.get("id")
    if name is not None and name in names:
        raise argument.failed(f"Duplicate ID '{name}' for device")
    if name is not None:
        names.add(name)


def _check_descriptor(argument: Argument) -> None:
    number = parse_keys(argument.value).get("fd", "")
    if not number.isdecimal():
        raise argument.failed("fd option is required and must be non-negative")
    if int(number) <= 2:
        raise argument.failed("fd cannot be a standard I/O stream")
    try:
        os.fstat(int(number))
    except OSError as error:
        raise argument.failed("fd is not valid or already in use") from error


def _check_accelerators(accelerators: list[Argument], warn: Callable[[str], None]) -> None:
    """QEMU takes the first one that it can have."""
    failures: list[str] = []
    for argument in accelerators:
        name = argument.value.partition(",")[0].removeprefix("accel=")
        if name in _ACCELERATORS:
            for failure in failures:
                warn(failure)
            if failures:
                warn(f"falling back to {name}")
            return
        failures.append(f"{argument.text}: invalid accelerator {name}")
    if failures:
        raise StartFailed(*failures)
