"""The fake as a program that takes the place of a qemu-system binary."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qmp.errors import FakeQMPServerError

from .chardev_options import ChardevOptions
from .command_line import Argument, StartFailed, first_value, read_arguments
from .first_words import greet_early, may_fail
from .help import help_text, machine_types
from .links import Link, open_link
from .monitors import Wiring, check_monitor, read_wiring, serial_failed
from .start_checks import check_arguments_at_start
from .versions import Dialect, find_dialect

if TYPE_CHECKING:
    from .server import FakeQMPServer

__all__ = ["run_program"]

#: What is checked against the schema, which takes a while to read.
_CHECKED_BY_NAME = frozenset({"device", "netdev", "object"})
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: How long, in seconds, the end waits for a reader of standard output or a terminal.
_LAST_WORDS = 5.0


def run_program(args: Sequence[str], emulate: str, name: str) -> int:
    """Does what ``qemu-system-x86_64 args…`` does, until it would end.

    Args:
        args: QEMU's arguments.
        emulate: the version, ``"7.2"``, ``"10.0"`` or ``"11.1"``.
        name: of the program, as messages begin with it.

    Returns:
        QEMU's exit status.
    """
    return _Program(args, find_dialect(emulate), name).run()


class _Program:
    def __init__(self, args: Sequence[str], dialect: Dialect, name: str) -> None:
        self._args = args
        self._dialect = dialect
        self._name = name
        self._links: dict[str, Link] = {}
        self._ready = -1
        self._pidfile: Path | None = None

    def run(self) -> int:
        try:
            arguments = read_arguments(self._args, self._dialect.name)
            text = help_text(arguments, self._dialect, self._name)
            if text is not None:
                sys.stdout.write(text)
                sys.stdout.flush()
                return 0
            return self._start(arguments)
        except StartFailed as failed:
            for report in failed.reports:
                self._warn(report)
            return 1
        finally:
            if self._pidfile is not None:
                with contextlib.suppress(OSError):
                    self._pidfile.unlink()

    def _start(self, arguments: list[Argument]) -> int:
        options = {argument.option: argument for argument in arguments}
        wiring = read_wiring(arguments, self._dialect.version, self._warn)
        check_arguments_at_start(arguments, self._warn)
        if "daemonize" in options:
            self._check_daemon(wiring)
            self._go_to_background()
        self._pidfile = _write_pidfile(options.get("pidfile"))
        self._check_machine(arguments)
        for chardev in wiring.chardevs:
            link = self._open(chardev)
            if chardev.id in self._links:
                raise chardev.argument.failed(f"Duplicate ID '{chardev.id}' for chardev")
            self._links[chardev.id] = link
        # Signals are for a thread of their own from here on; before, they simply kill.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        self._load(options, wiring)
        if not _CHECKED_BY_NAME.isdisjoint(options):
            from .backend_checks import check_backends

            check_backends(arguments, self._dialect)
        server = self._make_server()
        if "device" in options:
            server.make_devices(self._refuser(arguments))
        server.settle()
        if server.exit_status is not None:
            return server.exit_status
        self._connect(server, wiring)
        threading.Thread(target=self._watch_signals, args=(server,), daemon=True).start()
        server.start()
        self._daemon_is_ready()
        status = server.wait_exit(None)
        server.close()
        server.finish_writing(_LAST_WORDS)
        try:
            server.check()
        except FakeQMPServerError as error:
            self._warn(str(error))
        return status if status is not None else 1

    def _open(self, chardev: ChardevOptions) -> Link:
        terminals = [link for link in self._links.values() if link.options.backend == "stdio"]
        if terminals and chardev.keys.get("backend") == "stdio":
            raise chardev.argument.failed("cannot use stdio by multiple character devices")
        return open_link(chardev, self._announce)

    def _load(self, options: Iterable[str], wiring: Wiring) -> None:
        """Loads the rest of the fake, and has the first clients greeted in the meantime."""
        loading = threading.Thread(target=import_module, args=("pytest_qmp.fake.server",))
        loading.start()
        if may_fail(options):
            loading.join()
            return
        monitors = [
            (monitor, self._links[monitor.chardev])
            for monitor in wiring.monitors
            if monitor.mode == "control" and monitor.chardev in self._links
        ]
        greet_early(loading, monitors, self._dialect)

    def _make_server(self) -> FakeQMPServer:
        from .server import FakeQMPServer

        server = FakeQMPServer(self._dialect.name, args=[self._name, *self._args])
        server.take_warnings(self._warn)
        return server

    def _connect(self, server: FakeQMPServer, wiring: Wiring) -> None:
        """Puts monitors and consoles on their devices; the rest is open, with nobody there."""
        used: set[str] = set()
        for monitor in wiring.monitors:
            check_monitor(monitor, self._links)
            link = self._links[monitor.chardev]
            if monitor.chardev in used and not link.options.flag("mux"):
                raise monitor.argument.failed(self._in_use(monitor.chardev))
            if monitor.chardev in used:
                continue
            used.add(monitor.chardev)
            if monitor.mode == "control":
                server.attach_monitor(link, pretty=monitor.pretty)
            else:
                server.attach_nothing(link)
        has_console = False
        for argument, port in wiring.serial:
            if port is None:
                continue
            if isinstance(port, str):
                name = port
                if name not in self._links:
                    raise serial_failed(argument, None)
            else:
                name = port.id
                try:
                    self._links[name] = self._open(port)
                except StartFailed as failed:
                    raise serial_failed(argument, failed) from failed
            if name in used:
                continue
            used.add(name)
            attach = server.attach_nothing if has_console else server.attach_console
            attach(self._links[name])
            has_console = True
        for name, link in self._links.items():
            if name not in used:
                server.attach_nothing(link)

    @staticmethod
    def _refuser(arguments: Iterable[Argument]) -> Callable[[str, str, str], None]:
        def refuse(option: str, text: str, desc: str) -> None:
            for argument in arguments:
                if (argument.option, argument.value) == (option, text):
                    raise argument.failed(desc)

        return refuse

    def _in_use(self, name: str) -> str:
        if self._dialect.version >= (10, 0):
            return f"chardev '{name}' is already in use"
        return f"Device '{name}' is in use"

    def _check_machine(self, arguments: list[Argument]) -> None:
        for argument in arguments:
            if argument.option in ("M", "machine"):
                kind = first_value(argument.value, "type") or argument.value
                if "=" not in kind and kind not in machine_types(self._dialect.name):
                    shown = f': "{kind}"' if self._dialect.version >= (10, 0) else ""
                    raise StartFailed(
                        f"unsupported machine type{shown}\n"
                        "Use -machine help to list supported machines"
                    )

    def _watch_signals(self, server: FakeQMPServer) -> None:
        number, sender = _next_signal()
        source = f" from pid {sender} ({_command_name(sender)})" if sender else ""
        self._warn(f"terminating on signal {number}{source}")
        try:
            server.terminate()
        except Exception:  # noqa: BLE001 - a fault of the fake must not keep the program alive
            traceback.print_exc()
            os._exit(1)

    def _announce(self, text: str) -> None:
        if text.startswith("-"):
            self._warn(text)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def _warn(self, text: str) -> None:
        sys.stderr.write(f"{self._name}: {text}\n")
        sys.stderr.flush()

    @staticmethod
    def _check_daemon(wiring: Wiring) -> None:
        for chardev in wiring.chardevs:
            if chardev.keys.get("backend") == "stdio":
                raise chardev.argument.failed("cannot use stdio with -daemonize")

    def _go_to_background(self) -> None:
        """Becomes a daemon; its parent ends, with its status, once the machine is there."""
        ready, self._ready = os.pipe()
        child = os.fork()
        if child:
            os.close(self._ready)
            os._exit(0 if os.read(ready, 1) else 1)
        os.close(ready)
        os.setsid()
        if os.fork():
            os._exit(0)

    def _daemon_is_ready(self) -> None:
        if self._ready < 0:
            return
        sys.stdout.flush()
        with open(os.devnull, "r+b", buffering=0) as null:
            for standard in (0, 1, 2):
                os.dup2(null.fileno(), standard)
        os.chdir("/")
        os.write(self._ready, b"\0")
        os.close(self._ready)


def _write_pidfile(argument: Argument | None) -> Path | None:
    if argument is None:
        return None
    # The directory may be another one by the time that it is removed.
    path = Path(argument.value).absolute()
    try:
        path.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise StartFailed(
            f"cannot create PID file: Could not create '{argument.value}': {error.strerror}"
        ) from error
    return path


def _next_signal() -> tuple[int, int]:
    """Waits for a signal that ends QEMU; its number, and who sent it (0 if that is not known)."""
    if not hasattr(signal, "sigwaitinfo"):
        return signal.sigwait(_ENDING), 0
    found = signal.sigwaitinfo(_ENDING)
    return found.si_signo, found.si_pid


def _command_name(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return "<unknown process>"
    return os.fsdecode(command) or "<unknown process>"
