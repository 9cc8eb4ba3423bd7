"""QEMU's command line: which options there are, which take an argument, how a value is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_qmp.errors import FakeQMPServerError

__all__ = [
    "Argument",
    "StartFailed",
    "check_identifier",
    "first_value",
    "parse_keys",
    "parse_value",
    "read_arguments",
    "read_keys",
]

_ALONE = frozenset(
    [
        "S",
        "async-teardown",
        "audio-help",
        "daemonize",
        "enable-kvm",
        "enable-sync-profile",
        "full-screen",
        "h",
        "help",
        "jitdump",
        "mem-prealloc",
        "no-acpi",
        "no-fd-bootchk",
        "no-hpet",
        "no-reboot",
        "no-shutdown",
        "no-user-config",
        "nodefaults",
        "nographic",
        "old-param",
        "only-migratable",
        "perfmap",
        "portrait",
        "preconfig",
        "s",
        "semihosting",
        "singlestep",
        "snapshot",
        "usb",
        "version",
        "win2k-hack",
        "xen-attach",
        "xen-domid-restrict",
    ]
)
_WITH_ARGUMENT = frozenset(
    [
        "D",
        "L",
        "M",
        "accel",
        "acpitable",
        "action",
        "add-fd",
        "append",
        "audio",
        "audiodev",
        "bios",
        "blockdev",
        "boot",
        "cdrom",
        "chardev",
        "chroot",
        "compat",
        "cpu",
        "d",
        "debugcon",
        "device",
        "dfilter",
        "display",
        "drive",
        "dtb",
        "dump-vmstate",
        "echr",
        "fda",
        "fdb",
        "fsdev",
        "fw_cfg",
        "g",
        "gdb",
        "global",
        "hda",
        "hdb",
        "hdc",
        "hdd",
        "icount",
        "incoming",
        "initrd",
        "iscsi",
        "k",
        "kernel",
        "loadvm",
        "m",
        "machine",
        "mem-path",
        "mon",
        "monitor",
        "msg",
        "mtdblock",
        "name",
        "net",
        "netdev",
        "nic",
        "numa",
        "object",
        "option-rom",
        "overcommit",
        "parallel",
        "pflash",
        "pidfile",
        "plugin",
        "prom-env",
        "qmp",
        "qmp-pretty",
        "qtest",
        "qtest-log",
        "readconfig",
        "rotate",
        "rtc",
        "run-with",
        "runas",
        "sandbox",
        "sd",
        "seed",
        "semihosting-config",
        "serial",
        "set",
        "shim",
        "smbios",
        "smp",
        "spice",
        "tpmdev",
        "trace",
        "usbdevice",
        "uuid",
        "vga",
        "virtfs",
        "vnc",
        "watchdog-action",
        "xen-domid",
    ]
)
#: What some of the versions lack.
_ABSENT = {
    "7.2": frozenset(["jitdump", "perfmap", "run-with", "shim"]),
    "10.0": frozenset(
        [
            "async-teardown",
            "audio-help",
            "chroot",
            "no-acpi",
            "no-hpet",
            "portrait",
            "rotate",
            "runas",
            "singlestep",
        ]
    ),
    "11.1": frozenset(
        [
            "async-teardown",
            "audio-help",
            "chroot",
            "no-acpi",
            "no-hpet",
            "old-param",
            "portrait",
            "rotate",
            "runas",
            "singlestep",
        ]
    ),
}
_BOOLEANS = ("on", "off", "yes", "no", "true", "false", "y", "n")


class StartFailed(FakeQMPServerError):  # noqa: N818 - QEMU fails, as it would, not the fake
    """QEMU ends before its machine begins.

    Args:
        reports: what it writes to its standard error, each without the name of the program.
    """

    def __init__(self, *reports: str) -> None:
        super().__init__("\n".join(reports))
        self.reports = reports


@dataclass(frozen=True)
class Argument:
    """One option as it was given.

    Attributes:
        option: its name without dashes; ``hda`` for a disk image that has no option before it.
        value: what it was given, "" for an option that takes nothing.
        text: option and value as they were typed, which is where QEMU says an error was.
    """

    option: str
    value: str
    text: str

    def failed(self, desc: str) -> StartFailed:
        """The end of QEMU for a fault in this option."""
        return StartFailed(f"{self.text}: {desc}")


def read_arguments(args: Sequence[str], version: str | None = None) -> list[Argument]:
    """Takes a command line, without the name of the program, apart.

    Args:
        args: the command line.
        version: of the QEMU that is to know every option; None takes any option, and gives an
            unknown one what follows it, unless that is an option.

    Raises:
        StartFailed: there is no such option, or its argument is missing.
    """
    return list(_read(args, version))


def _read(args: Sequence[str], version: str | None) -> Iterator[Argument]:
    position = 0
    while position < len(args):
        typed = args[position]
        position += 1
        if not typed.startswith("-") or typed == "-":
            yield Argument("hda", typed, typed)
            continue
        option = typed[2:] if typed.startswith("--") else typed[1:]
        known = option in _ALONE or option in _WITH_ARGUMENT
        if version and (not known or option in _ABSENT.get(version, ())):
            raise StartFailed(f"{typed}: invalid option")
        if option in _ALONE or (
            not known and (position == len(args) or args[position].startswith("-"))
        ):
            yield Argument(option, "", typed)
            continue
        if position == len(args):
            if version:
                raise StartFailed(f"{typed}: requires an argument")
            yield Argument(option, "", typed)
            continue
        yield Argument(option, args[position], f"{typed} {args[position]}")
        position += 1


def read_keys(
    argument: Argument,
    value: str,
    implied: str,
    allowed: Collection[str] | None,
    *,
    booleans: Collection[str] = (),
    numbers: Collection[str] = (),
    warn: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """The keys of an option as QEMU reads and checks them.

    Args:
        argument: where they were given.
        value: the text to read.
        implied: the key of a first part without one, "" for none.
        allowed: the keys that there are, besides ``id``; None for any.
        booleans: those that are on or off.
        numbers: those that are a number.
        warn: takes what QEMU writes about a key without a value; None where it writes nothing.

    Raises:
        StartFailed: there is no such key, or it can't have that value.
    """
    found: dict[str, str] = {}
    for index, part in enumerate(_split(value)):
        key, equals, text = part.partition("=")
        if not equals:
            if index == 0 and implied:
                key, text = implied, part
            elif part:
                off = part.startswith("no")
                key, text = (part[2:], "off") if off else (part, "on")
                if warn is not None:
                    warn(
                        f"{argument.text}: warning: short-form boolean option '{part}' deprecated\n"
                        f"Please use {key}={text} instead"
                    )
            else:
                continue
        found[key] = text
    for key, text in found.items():
        if key == "id":
            check_identifier(argument, text)
        elif allowed is not None and key not in allowed:
            raise argument.failed(f"Invalid parameter '{key}'")
        elif key in booleans and text not in _BOOLEANS:
            raise argument.failed(f"Parameter '{key}' expects 'on' or 'off'")
        elif key in numbers and not _is_number(text):
            raise argument.failed(f"Parameter '{key}' expects a number")
    return found


def check_identifier(argument: Argument, name: str) -> None:
    """Raises StartFailed if something can't have that ``id``."""
    if not _is_identifier(name):
        raise argument.failed(
            "Parameter 'id' expects an identifier\n"
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
        )


def parse_keys(value: str) -> dict[str, str]:
    """The ``key=value`` parts of an option's value; a doubled comma stands for one.

    >>> parse_keys("socket,id=a,path=/tmp/x,,y")
    {'id': 'a', 'path': '/tmp/x,y'}
    """
    pairs = (item.partition("=") for item in _split(value))
    return {key: text for key, equals, text in pairs if equals}


def parse_value(value: str, implied: str) -> dict[str, Any]:
    """An option's value, written as keys or as JSON.

    Args:
        value: for example of ``-device``.
        implied: the key of a first part that has none.

    Raises:
        ValueError: it begins as JSON and is none.

    >>> parse_value("e1000,id=a,netdev=n", "driver")
    {'driver': 'e1000', 'id': 'a', 'netdev': 'n'}
    >>> parse_value('{"driver": "e1000"}', "driver")
    {'driver': 'e1000'}
    """
    if value.startswith("{"):
        found: dict[str, Any] = json.loads(value)
        return found
    first = _split(value)[0]
    keys: dict[str, Any] = {} if "=" in first or not first else {implied: first}
    keys.update(parse_keys(value))
    return keys


def first_value(value: str, key: str) -> str | None:
    """The value of a key that may be left out when it comes first."""
    found = parse_value(value, key).get(key) if not value.startswith("{") else None
    return None if found is None else str(found)


def _split(value: str) -> list[str]:
    """The parts between commas; a doubled comma stands for one."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]


def _is_identifier(text: str) -> bool:
    return (
        text.isascii()
        and text[:1].isalpha()
        and all(char.isalnum() or char in "-._" for char in text)
    )


def _is_number(text: str) -> bool:
    try:
        int(text, 0)
    except ValueError:
        return False
    return True
