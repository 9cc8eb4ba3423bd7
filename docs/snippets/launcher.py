"""A small program that starts QEMU: the one that the guide tests."""

import socket
import subprocess

from pytest_qmp import QMPClient


class LaunchError(Exception):
    """QEMU did not start; the text is what it said."""


def run_once(name: str) -> str:
    """Starts a machine, asks it for its name, and ends it."""
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    arguments = ["-M", "none", "-nodefaults", "-display", "none", "-S", "-name", name]
    monitor = ["-chardev", f"socket,id=qmp,fd={fd}", "-mon", "chardev=qmp,mode=control"]
    with theirs:
        qemu = subprocess.Popen(
            ["qemu-system-x86_64", *arguments, *monitor],
            pass_fds=[fd],
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        with QMPClient.connect(ours, timeout=10) as qmp:
            answer: str = qmp.execute("query-name")["name"]
            qmp.execute("quit")
    except ConnectionError:
        raise LaunchError(qemu.communicate()[1]) from None
    qemu.communicate(timeout=10)
    return answer
