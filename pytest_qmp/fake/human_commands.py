"""The commands of the human monitor that the fake carries out, each by way of QMP's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .command_line import parse_value
from .human_migration import migrate, set_capability, set_parameter
from .replies import CommandFailed, NotModelled

__all__ = ["COMMANDS", "Handler", "HumanCommand", "Monitor"]


class Monitor(Protocol):
    """What a command of the human monitor can use.

    Attributes:
        version: of QEMU.
        keys: the names of the keys that there are.
        has_network: whether there is a network card or backend.
        first_registers: what ``info registers`` prints, None where that is not known.
    """

    version: tuple[int, int, int]
    keys: Collection[str]
    has_network: bool
    first_registers: str | None

    def run(self, command: str, **arguments: Any) -> Any:
        """Carries out a command of QMP; names have ``_`` for ``-``; CommandFailed as usual."""

    def typed(self, command: str, keys: Mapping[str, str]) -> dict[str, Any]:
        """The arguments of a command of QMP out of keys that are all text."""

    def stop(self, status: str) -> None:
        """Stops the guest, into a run state."""

    def help(self, topic: str) -> str:
        """What ``help`` prints about a topic, "" for an overview."""


Handler = Callable[[Monitor, Mapping[str, Any]], str]


@dataclass(frozen=True)
class HumanCommand:
    """A command of the human monitor.

    Attributes:
        shape: of its arguments, as ``read_arguments`` takes it.
        handler: returns what it prints.
        title: its name and that of its short form, as errors show them; "" for just its name.
    """

    shape: str
    handler: Handler
    title: str = ""


def _via(command: str, *names: str, **fixed: Any) -> Handler:
    """A command that says nothing but its errors; ``names`` are those of its arguments in QMP."""

    def handle(monitor: Monitor, given: Mapping[str, Any]) -> str:
        arguments = {name: given[name] for name in names if name in given}
        monitor.run(command, **fixed, **arguments)
        return ""

    return handle


def _quiet(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return ""


def _plain(text: str) -> Mapping[str, Any]:
    """Keys of an option; NotModelled for values that QMP takes as something else than text."""
    given = parse_value(text, "driver")
    for key, value in given.items():
        if not isinstance(value, str) or value.isdigit() or value in ("on", "off"):
            raise NotModelled(f"{key}={value} in the human monitor")
    return given


def _device_add(monitor: Monitor, given: Mapping[str, Any]) -> str:
    text = given.get("device", "")
    if text.partition(",")[0] in ("help", "?") or text.endswith((",help", ",?")):
        raise NotModelled("the help of device_add")
    if not text:
        raise CommandFailed("Parameter 'driver' is missing")
    monitor.run("device_add", **_plain(text))
    return ""


def _typed(command: str, implied: str) -> Handler:
    """A command whose keys are those of QMP's, written as text."""

    def handle(monitor: Monitor, given: Mapping[str, Any]) -> str:
        text = given.get("keys", "")
        keys = {key: str(value) for key, value in parse_value(text, implied).items()}
        monitor.run(command, **monitor.typed(command, keys))
        return ""

    return handle


def _sendkey(monitor: Monitor, given: Mapping[str, Any]) -> str:
    keys: list[dict[str, Any]] = []
    for name in given["keys"].split("-"):
        key = "less" if name == "<" else name
        if key.startswith("0x"):
            try:
                keys.append({"type": "number", "data": int(key, 16)})
            except ValueError:
                return f"invalid parameter: {name}\n"
        elif key in monitor.keys:
            keys.append({"type": "qcode", "data": key})
        else:
            return f"invalid parameter: {name}\n"
    monitor.run("send-key", keys=keys)
    return ""


def _no_snapshot(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if monitor.run("query-block"):
        raise NotModelled("snapshots in the human monitor")
    raise CommandFailed("no block device can store vmstate for snapshot")


def _delvm(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if monitor.run("query-block"):
        raise NotModelled("snapshots in the human monitor")
    return ""


def _loadvm(monitor: Monitor, given: Mapping[str, Any]) -> str:
    # The guest stays stopped where there is nothing to load.
    monitor.stop("restore-vm")
    return _no_snapshot(monitor, given)


def _screendump(monitor: Monitor, given: Mapping[str, Any]) -> str:
    arguments = {name: given[name] for name in ("filename", "device", "head") if name in given}
    if given["-f"]:
        if given["-f"] not in ("ppm", "png"):
            raise CommandFailed(f"invalid parameter value: {given['-f']}")
        arguments["format"] = given["-f"]
    monitor.run("screendump", **arguments)
    return ""


def _mouse_set(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if any(mouse["index"] == given["index"] for mouse in monitor.run("query-mice")):
        return ""
    text = f"Mouse at index '{given['index']}' not found"
    if monitor.version < (10, 0, 0):
        return f"{text}\n"
    raise CommandFailed(text)


def _dump(monitor: Monitor, given: Mapping[str, Any]) -> str:
    kinds = {"-z": "kdump-zlib", "-l": "kdump-lzo", "-s": "kdump-snappy", "-w": "win-dmp"}
    chosen = [kind for flag, kind in kinds.items() if given[flag]]
    if len(chosen) > 1:
        raise CommandFailed("only one of '-z|-l|-s|-w' can be set")
    arguments: dict[str, Any] = {name: given[name] for name in ("begin", "length") if name in given}
    if given["-d"]:
        arguments["detach"] = True
    monitor.run(
        "dump-guest-memory",
        paging=given["-p"],
        protocol=f"file:{given['filename']}",
        format=(chosen or ["elf"])[0],
        **arguments,
    )
    return ""


def _password(command: str) -> Handler:
    def handle(monitor: Monitor, given: Mapping[str, Any]) -> str:
        monitor.run(command, **given)
        return ""

    return handle


def _ringbuf_read(monitor: Monitor, given: Mapping[str, Any]) -> str:
    data = monitor.run("ringbuf-read", device=given["device"], size=given["size"])
    return "".join(_shown(char) for char in data) + "\n"


def _shown(char: str) -> str:
    """A character of a buffer as the human monitor prints it."""
    if char == "\\":
        return "\\\\"
    if (char < " " and char != "\n") or char == "\x7f":
        return f"\\u{ord(char):04X}"
    return char


def _print(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return f"{given['value'] % 2**64:#x}\n"


def _cpu(monitor: Monitor, given: Mapping[str, Any]) -> str:
    known = [cpu["cpu-index"] for cpu in monitor.run("query-cpus-fast")]
    return "" if given["index"] in known else "invalid CPU index\n"


def _help(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return monitor.help(given.get("name", ""))


def _chardev_add(monitor: Monitor, given: Mapping[str, Any]) -> str:
    keys = parse_value(given["args"], "backend")
    if "id" not in keys:
        raise CommandFailed("chardev: no id specified")
    kind = keys.get("backend")
    takes = {"file": {"path": "out"}, "pipe": {"path": "device"}, "ringbuf": {}, "null": {}}
    extra = set(keys) - {"id", "backend"} - set(takes.get(str(kind), {}))
    if (kind not in takes and kind not in ("pty", "msmouse", "stdio", "vc")) or extra:
        raise NotModelled(f"chardev-add {given['args']} in the human monitor")
    data = {qmp: keys[key] for key, qmp in takes.get(str(kind), {}).items() if key in keys}
    monitor.run("chardev-add", id=keys["id"], backend={"type": kind, "data": data})
    return ""


def _watchdog_action(monitor: Monitor, given: Mapping[str, Any]) -> str:
    actions = ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi")
    if given["action"] not in actions:
        raise CommandFailed(f"invalid parameter value: {given['action']}")
    monitor.run("watchdog-set-action", action=given["action"])
    return ""


def _trace_event(monitor: Monitor, given: Mapping[str, Any]) -> str:
    cpu = {} if "vcpu" not in given or monitor.version >= (10, 0, 0) else {"vcpu": given["vcpu"]}
    try:
        monitor.run(
            "trace-event-set-state",
            **{"name": given["name"], "enable": given["option"], "ignore-unavailable": True},
            **cpu,
        )
    except CommandFailed as failed:
        return f"{failed.desc}\n"
    return ""


def _boot_set(monitor: Monitor, given: Mapping[str, Any]) -> str:
    for letter in given["bootdevice"]:
        if not "a" <= letter <= "p":
            return f"Invalid boot device '{letter}'\n"
    return f"boot device list now set to {given['bootdevice']}\n"


_STOP, _CONT, _QUIT = _via("stop"), _via("cont"), _via("quit")

#: By name; ``info`` is not among them.
COMMANDS: dict[str, HumanCommand] = {
    "quit": HumanCommand("", _QUIT, "quit|q"),
    "q": HumanCommand("", _QUIT, "quit|q"),
    "stop": HumanCommand("", _STOP, "stop|s"),
    "s": HumanCommand("", _STOP, "stop|s"),
    "cont": HumanCommand("", _CONT, "cont|c"),
    "c": HumanCommand("", _CONT, "cont|c"),
    "help": HumanCommand("name:S?", _help, "help|?"),
    "?": HumanCommand("name:S?", _help, "help|?"),
    "system_reset": HumanCommand("", _via("system_reset")),
    "system_powerdown": HumanCommand("", _via("system_powerdown")),
    "system_wakeup": HumanCommand("", _via("system_wakeup")),
    "nmi": HumanCommand("", _via("inject-nmi")),
    "device_add": HumanCommand("device:S?", _device_add),
    "device_del": HumanCommand("id:s", _via("device_del", "id")),
    "object_add": HumanCommand("keys:S", _typed("object-add", "qom-type")),
    "netdev_add": HumanCommand("keys:S?", _typed("netdev_add", "type")),
    "object_del": HumanCommand("id:s", _via("object-del", "id")),
    "netdev_del": HumanCommand("id:s", _via("netdev_del", "id")),
    "set_link": HumanCommand("name:s up:b", _via("set_link", "name", "up")),
    "sendkey": HumanCommand("keys:s hold-time:i?", _sendkey),
    "mouse_set": HumanCommand("index:i", _mouse_set),
    "mouse_move": HumanCommand("dx:s dy:s dz:s?", _quiet),
    "mouse_button": HumanCommand("state:i", _quiet),
    "screendump": HumanCommand("filename:F -f: device:s? head:i?", _screendump),
    "savevm": HumanCommand("name:s?", _no_snapshot),
    "loadvm": HumanCommand("name:s", _loadvm),
    "delvm": HumanCommand("name:s", _delvm),
    "getfd": HumanCommand("fdname:s", _via("getfd", "fdname")),
    "closefd": HumanCommand("fdname:s", _via("closefd", "fdname")),
    "balloon": HumanCommand("value:M", _via("balloon", "value")),
    "chardev-add": HumanCommand("args:s", _chardev_add),
    "chardev-remove": HumanCommand("id:s", _via("chardev-remove", "id")),
    "chardev-send-break": HumanCommand("id:s", _via("chardev-send-break", "id")),
    "ringbuf_write": HumanCommand("device:s data:s", _via("ringbuf-write", "device", "data")),
    "ringbuf_read": HumanCommand("device:s size:i", _ringbuf_read),
    "dump-guest-memory": HumanCommand("-p -d -z -l -s -w filename:F begin:i? length:i?", _dump),
    "memsave": HumanCommand("val:i size:i filename:s", _via("memsave", "val", "size", "filename")),
    "pmemsave": HumanCommand(
        "val:i size:i filename:s", _via("pmemsave", "val", "size", "filename")
    ),
    "trace-event": HumanCommand("name:s option:b vcpu:i?", _trace_event),
    "watchdog_action": HumanCommand("action:s", _watchdog_action),
    "announce_self": HumanCommand("interfaces:s? id:s?", _quiet),
    "set_password": HumanCommand("protocol:s password:s connected:s?", _password("set_password")),
    "expire_password": HumanCommand("protocol:s time:s", _password("expire_password")),
    "print": HumanCommand("value:i", _print, "print|p"),
    "p": HumanCommand("value:i", _print, "print|p"),
    "cpu": HumanCommand("index:i", _cpu),
    "boot_set": HumanCommand("bootdevice:s", _boot_set),
    "block_job_cancel": HumanCommand("-f device:B", _via("block-job-cancel", "device")),
    "block_job_complete": HumanCommand("device:B", _via("block-job-complete", "device")),
    "block_job_pause": HumanCommand("device:B", _via("block-job-pause", "device")),
    "block_job_resume": HumanCommand("device:B", _via("block-job-resume", "device")),
    "block_resize": HumanCommand("device:B size:o", _via("block_resize", "device", "size")),
    "eject": HumanCommand("-f device:B", _via("eject", "device")),
    "migrate": HumanCommand("-d -r uri:s", migrate),
    "migrate_set_capability": HumanCommand("capability:s state:b", set_capability),
    "migrate_set_parameter": HumanCommand("parameter:s value:s", set_parameter),
    "migrate_cancel": HumanCommand("", _via("migrate_cancel")),
    "migrate_pause": HumanCommand("", _via("migrate-pause")),
    "migrate_start_postcopy": HumanCommand("", _via("migrate-start-postcopy")),
    "nbd_server_stop": HumanCommand("", _via("nbd-server-stop")),
}
