"""Character devices as a command line describes them: ``-chardev``, and short forms of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .command_line import Argument, StartFailed, read_keys

__all__ = ["ChardevOptions", "read_chardev", "read_short_form"]

_KEYS = frozenset(
    [
        "backend",
        "path",
        "input-path",
        "host",
        "port",
        "fd",
        "localaddr",
        "localport",
        "to",
        "ipv4",
        "ipv6",
        "wait",
        "server",
        "delay",
        "nodelay",
        "reconnect",
        "reconnect-ms",
        "telnet",
        "tn3270",
        "tls-creds",
        "tls-authz",
        "websocket",
        "width",
        "height",
        "cols",
        "rows",
        "mux",
        "signal",
        "name",
        "debug",
        "size",
        "chardev",
        "chardevs",
        "append",
        "logfile",
        "logappend",
        "mouse",
        "clipboard",
        "abstract",
        "tight",
        "encoding",
    ]
)
_BOOLEANS = frozenset(
    [
        "ipv4",
        "ipv6",
        "wait",
        "server",
        "delay",
        "nodelay",
        "telnet",
        "tn3270",
        "websocket",
        "mux",
        "signal",
        "append",
        "logappend",
        "mouse",
        "clipboard",
        "abstract",
        "tight",
    ]
)
_NUMBERS = frozenset(
    ["to", "reconnect", "reconnect-ms", "width", "height", "cols", "rows", "debug"]
)
_BACKENDS = frozenset(
    [
        "socket",
        "udp",
        "pipe",
        "file",
        "null",
        "stdio",
        "serial",
        "parallel",
        "pty",
        "vc",
        "mux",
        "ringbuf",
        "memory",
        "msmouse",
        "wctablet",
        "testdev",
        "spicevmc",
        "spiceport",
        "qemu-vdagent",
        "dbus",
        "hub",
        "console",
    ]
)
_BARE = frozenset(["null", "pty", "stdio", "msmouse", "wctablet", "braille", "testdev"])
_NEW_KEYS = {"reconnect-ms": (9, 2), "input-path": (10, 0), "chardevs": (10, 0)}
_TRUE = ("on", "yes", "true", "y")


@dataclass(frozen=True)
class ChardevOptions:
    """A character device of the command line.

    Attributes:
        argument: where it was given.
        id: its name.
        keys: what it was given, with ``backend``.
    """

    argument: Argument
    id: str
    keys: dict[str, str]

    @property
    def backend(self) -> str:
        """``socket``, ``stdio``, ``null`` and the like."""
        return self.keys["backend"]

    def flag(self, key: str, default: bool = False) -> bool:
        """Whether a key is on."""
        return self.keys[key] in _TRUE if key in self.keys else default

    @property
    def reconnect(self) -> float:
        """After how many seconds a lost connection is made again, 0 for never."""
        milliseconds = int(self.keys.get("reconnect-ms", "0"), 0)
        return milliseconds / 1000 if milliseconds else float(int(self.keys.get("reconnect", "0")))

    def check(self) -> None:
        """Raises StartFailed for what QEMU finds when it is about to open it."""
        failed = self.argument.failed
        if "id" not in self.keys and self.argument.option == "chardev":
            raise failed("chardev: no id specified")
        if "backend" not in self.keys:
            raise failed(f'chardev: "{self.id}" missing backend')
        if self.backend not in _BACKENDS:
            raise failed(f"'{self.backend}' is not a valid char driver name")
        if self.backend in ("file", "pipe") and "path" not in self.keys:
            what = "filename" if self.backend == "file" else "device path"
            raise failed(f"chardev: {self.backend}: no {what} given")
        if self.backend == "udp" and "port" not in self.keys:
            raise failed("chardev: udp: remote port not specified")
        if self.backend == "ringbuf":
            size = int(self.keys.get("size", "65536"))
            if size & (size - 1):
                raise failed("size of ringbuf chardev must be power of two")
        if self.backend == "socket":
            self._check_socket()

    def _check_socket(self) -> None:
        failed = self.argument.failed
        if sum(key in self.keys for key in ("path", "fd", "host")) > 1:
            raise failed("None or one of 'path', 'fd' or 'host' option required.")
        if "host" in self.keys and "port" not in self.keys:
            raise failed("chardev: socket: no port given")
        if self.flag("server"):
            if "reconnect" in self.keys or "reconnect-ms" in self.keys:
                raise failed("'reconnect' option is incompatible with socket in server listen mode")
        elif "wait" in self.keys:
            raise failed("'wait' option is incompatible with socket in client connect mode")
        if "reconnect" in self.keys and "reconnect-ms" in self.keys:
            raise failed("'reconnect' and 'reconnect-ms' are mutually exclusive")
        address = self.keys.get("path") or self.keys.get("host")
        if address is None and "host" not in self.keys:
            number = self.keys.get("fd", "")
            if not number.isdecimal():
                raise failed(f"Unable to parse FD number {number}")


def read_chardev(
    argument: Argument, version: tuple[int, ...], warn: Callable[[str], None]
) -> ChardevOptions:
    """A ``-chardev``.

    Args:
        argument: where it is.
        version: of QEMU.
        warn: takes what QEMU writes about the way it was given.

    Raises:
        StartFailed: its keys can't be.
    """
    keys = _read(argument, argument.value, "backend", version, warn)
    return ChardevOptions(argument, keys.get("id", ""), keys)


def read_short_form(argument: Argument, label: str, version: tuple[int, ...]) -> ChardevOptions:
    """What ``-qmp``, ``-monitor`` or ``-serial`` name: ``unix:PATH,…``, ``tcp:HOST:PORT,…``, ….

    Args:
        argument: where it is named.
        label: the name that the character device gets.
        version: of QEMU.

    Raises:
        StartFailed: it is no such form.
    """
    value = argument.value.removeprefix("mon:")
    keys = _short_keys(argument, value, version)
    keys["id"] = label
    return ChardevOptions(argument, label, keys)


def _short_keys(argument: Argument, value: str, version: tuple[int, ...]) -> dict[str, str]:
    kind, colon, rest = value.partition(":")
    if value in _BARE:
        return {"backend": value}
    if kind == "vc":
        return {"backend": "vc"}
    if value.startswith("/dev/"):
        return {"backend": "parallel" if value.startswith("/dev/parport") else "serial"} | {
            "path": value
        }
    if not colon:
        raise argument.failed(f"'{value}' is not a valid char driver")
    if kind in ("file", "pipe"):
        return {"backend": kind, "path": rest}
    if kind == "unix":
        return {"backend": "socket"} | _read(argument, rest, "path", version)
    if kind in ("tcp", "telnet", "tn3270", "websocket"):
        first, comma, options = rest.partition(",")
        host, colon, port = first.rpartition(":") if first.startswith("[") else _cut(first)
        if not colon or not port:
            raise StartFailed()
        keys = _read(argument, options, "", version) if comma else {}
        also = {kind: "on"} if kind != "tcp" else {}
        return {"backend": "socket", "host": host.strip("[]"), "port": port} | also | keys
    if kind == "udp":
        port = rest.partition("@")[0].rpartition(":")[2]
        return {"backend": "udp", "port": port}
    raise argument.failed(f"'{value}' is not a valid char driver")


def _cut(address: str) -> tuple[str, str, str]:
    """Host and port at the first colon, as QEMU cuts them."""
    return address.partition(":")


def _read(
    argument: Argument,
    value: str,
    implied: str,
    version: tuple[int, ...],
    warn: Callable[[str], None] | None = None,
) -> dict[str, str]:
    allowed = {key for key in _KEYS if _NEW_KEYS.get(key, (0,)) <= version}
    return read_keys(
        argument, value, implied, allowed, booleans=_BOOLEANS, numbers=_NUMBERS, warn=warn
    )
