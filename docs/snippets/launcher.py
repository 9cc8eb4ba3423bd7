"""A small program that starts QEMU: the one that the guide tests."""

import subprocess
import tempfile

from pytest_qmp import QMPClient


class LaunchError(Exception):
    """QEMU did not start; the text is what it said."""


def run_once(name: str) -> str:
    """Starts a machine, asks it for its name, and ends it."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/qmp.sock"
        arguments = ["-M", "none", "-nodefaults", "-display", "none", "-S", "-name", name]
        monitor = ["-qmp", f"unix:{socket},server=on"]
        qemu = subprocess.Popen(
            ["qemu-system-x86_64", *arguments, *monitor], stderr=subprocess.PIPE, text=True
        )
        try:
            with QMPClient.connect(socket, timeout=5) as qmp:
                answer: str = qmp.execute("query-name")["name"]
                qmp.execute("quit")
        except (ConnectionError, TimeoutError):
            qemu.kill()
            raise LaunchError(qemu.communicate()[1]) from None
        qemu.communicate(timeout=10)
        return answer
