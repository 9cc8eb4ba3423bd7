"""Sits between a client and a QEMU, passes everything on, and writes it down."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from pytest_qmp.keeper import client as keeper

from .chardev_options import ChardevOptions
from .command_line import Argument, read_arguments
from .links import Link, open_link
from .monitors import read_wiring
from .recording import RecordingWriter

__all__ = ["record", "without_monitors"]

_CHUNK = 65536
_MOST_DESCRIPTORS = 16
#: Takes whatever form an address has in any version.
_ANY_VERSION = (99,)
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: How long, in seconds, the end waits for what is still to be passed on.
_LAST_WORDS = 5.0


def record(command: Sequence[str], writer: RecordingWriter) -> int:
    """Runs a QEMU whose QMP monitors are where its arguments say, and writes what is said.

    Args:
        command: the program and its arguments.
        writer: of the recording.

    Returns:
        QEMU's exit status, negative for a signal.

    Raises:
        StartFailed: a monitor can't be where the arguments say, or they have none.
        OSError: the program can't be executed.
    """
    with keeper.folder("qmp-") as folder:
        return _Recorder(command, writer, Path(folder)).run()


def without_monitors(args: Sequence[str]) -> tuple[list[str], list[tuple[ChardevOptions, bool]]]:
    """A command line without its QMP monitors, and where these were.

    Returns:
        the other arguments, and for each monitor its character device and whether it is pretty.
    """
    arguments = read_arguments(args)
    wiring = read_wiring(arguments, _ANY_VERSION)
    monitors = [one for one in wiring.monitors if one.mode == "control"]
    names = {one.chardev: one.pretty for one in monitors}
    devices = [(one, names[one.id]) for one in wiring.chardevs if one.id in names]
    taken = {id(one.argument) for one in monitors} | {id(one.argument) for one, _ in devices}
    kept = [
        text for argument in arguments if id(argument) not in taken for text in _typed(argument)
    ]
    return kept, devices


def _typed(argument: Argument) -> list[str]:
    if argument.text == argument.value:
        return [argument.value]
    dashed = argument.text[: len(argument.text) - len(argument.value)].strip()
    return [dashed, argument.value] if argument.text != dashed else [dashed]


class _Recorder:
    def __init__(self, command: Sequence[str], writer: RecordingWriter, folder: Path) -> None:
        self._command = command
        self._writer = writer
        self._folder = folder
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def run(self) -> int:
        rest, devices = without_monitors(self._command[1:])
        argv = [self._command[0], *rest]
        links = []
        for options, pretty in devices:
            # Where QEMU waits for its client we have QEMU wait for us, and so for the client.
            waits = options.flag("server") and options.flag("wait", default=True)
            inner = self._folder / f"{options.id}.sock"
            argv += ["-chardev", f"socket,id={options.id},path={inner},server=on,wait="]
            argv[-1] += "on" if waits else "off"
            argv += [
                "-mon",
                f"chardev={options.id},mode=control,pretty={'on' if pretty else 'off'}",
            ]
            options.keys.pop("wait", None)
            if options.flag("server"):
                options.keys["wait"] = "off"
            links.append((open_link(options, lambda text: None), inner))
        process = subprocess.Popen(argv, close_fds=False, env={**os.environ, **keeper.mark()})
        for number in _PASSED_ON:
            signal.signal(number, lambda number, frame: process.send_signal(number))
        for link, inner in links:
            self._start(self._serve, link, inner)
        status = process.wait()
        self._over.set()
        for link, _ in links:
            if link.listener is not None:
                # Whoever waits for a client wakes up.
                with contextlib.suppress(OSError):
                    link.listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_LAST_WORDS)
        for link, _ in links:
            link.close(remove=status == 0)
            link.finish_writing(_LAST_WORDS)
        self._writer.exited(status)
        return status

    def _start(self, task: object, *args: object) -> threading.Thread:
        thread = threading.Thread(target=task, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _serve(self, link: Link, inner: Path) -> None:
        """Serves the clients of one monitor, one after the other."""
        while not self._over.is_set():
            client, link.waiting = link.waiting, None
            if client is None:
                try:
                    client = link.accept() if link.listener is not None else link.connect()
                except OSError:
                    if link.listener is not None or not link.options.reconnect:
                        return
                    self._over.wait(link.options.reconnect)
                    continue
            if client is not None:
                self._serve_client(client, link, inner)
            if link.listener is None and not link.options.reconnect:
                return

    def _serve_client(self, client: socket.socket, link: Link, inner: Path) -> None:
        with client:
            qemu = self._connect(inner)
            if qemu is None:
                return
            with qemu:
                number = next(self._numbers)
                self._writer.connected(number, link.options.id)
                back = threading.Thread(
                    target=self._pass_on, args=(number, "qemu", qemu, client), daemon=True
                )
                back.start()
                self._pass_on(number, "client", client, qemu)
                back.join()

    def _connect(self, inner: Path) -> socket.socket | None:
        """Connects to QEMU, as soon as it listens; None if it ends before."""
        while not self._over.is_set():
            qemu = socket.socket(socket.AF_UNIX)
            try:
                qemu.connect(os.fspath(inner))
            except OSError:
                qemu.close()
                self._over.wait(0.005)
            else:
                return qemu
        return None

    def _pass_on(
        self, number: int, sender: str, source: socket.socket, target: socket.socket
    ) -> None:
        # Either side may go away at any time, which is the end of this direction.
        with contextlib.suppress(OSError):
            while True:
                data, descriptors = _receive(source)
                if not data:
                    break
                self._writer.sent(number, sender, data, len(descriptors))
                try:
                    _send(target, data, descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        self._writer.ended(number, sender)
        with contextlib.suppress(OSError):
            # A client that has been let go by QEMU says nothing more that could be passed on.
            target.shutdown(socket.SHUT_WR)
            if sender == "qemu":
                target.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket) -> tuple[bytes, list[int]]:
    if source.family != socket.AF_UNIX:
        return source.recv(_CHUNK), []
    data, descriptors, _, _ = socket.recv_fds(source, _CHUNK, _MOST_DESCRIPTORS)
    return data, list(descriptors)


def _send(target: socket.socket, data: bytes, descriptors: list[int]) -> None:
    if descriptors and target.family == socket.AF_UNIX:
        data = data[socket.send_fds(target, [data], descriptors) :]
    target.sendall(data)
