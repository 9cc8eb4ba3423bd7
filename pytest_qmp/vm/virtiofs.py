"""Folders that are shared by virtiofs: a virtiofsd for each, and memory that it can see."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress

from pytest_qmp.errors import VMConfigError, VMError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.vm.argv import default_machine, option, virtio_device
from pytest_qmp.vm.config import VMConfig, memory_bytes
from pytest_qmp.vm.share_argv import require_device
from pytest_qmp.vm.shares import Share, checked_shares

__all__ = ["find_virtiofsd", "shared_by_virtiofs"]

_TOOL = "virtiofsd"
# Where distributions put it: it is no program for people.
_PLACES = ("/usr/libexec", "/usr/lib/qemu", "/usr/lib", "/usr/lib/virtiofsd")
_MEMORY = "shared-memory"
#: QEMU's default on the machines that are known here.
_DEFAULT_MEMORY = "128M"


def find_virtiofsd() -> str:
    """The path of virtiofsd.

    Raises:
        VMError: there is none; the text says what to install.
    """
    found = shutil.which(_TOOL) or next(
        (path for place in _PLACES if (path := shutil.which(_TOOL, path=place))), None
    )
    if found is None:
        raise VMError(
            f"can't share a folder by virtiofs: there is no {_TOOL}, on the PATH or in "
            f"{', '.join(_PLACES)}. Install it (Debian 13, Ubuntu 24.04, Fedora: the package "
            f"{_TOOL}), or share the folder by 9p: Share(path, kind='9p')"
        )
    return found


def shared_by_virtiofs(
    config: VMConfig,
    qemu: str,
    stderr: int,
    releases: list[Callable[[], None]],
    deadline: Deadline,
) -> VMConfig:
    """The config with arguments for its shares by virtiofs, whose servers run from now on.

    Args:
        config: the machine.
        qemu: path of the binary.
        stderr: descriptor for what the servers have to say.
        releases: gets what ends the servers.
        deadline: of the start.

    Raises:
        VMConfigError: such a machine can't have one.
        VMError: there is no virtiofsd, it does not start, or the QEMU has no such device.
    """
    __tracebackhide__ = True
    shares = checked_shares(config.shares)
    ours = [one for one in shares if one.kind == "virtiofs"]
    if not ours:
        return config
    if config.cloneable:
        raise VMConfigError(
            "a machine with a share by virtiofs can't be cloned: share the folder by 9p "
            "(Share(path, kind='9p')), or leave out cloneable=True"
        )
    arch = config.arch or "x86_64"
    machine = config.machine or default_machine(arch)
    device = virtio_device(arch, machine, "vhost-user-fs")
    require_device(device, config, qemu, "Share(kind='9p') may do")
    program = find_virtiofsd()
    args = list(config.args)
    fds = list(config.pass_fds)
    for number, share in enumerate(ours):
        connected = _serve([program, *_options(program, share, deadline)], stderr, releases)
        fds.append(connected)
        name = f"virtiofs{number}"
        args += ["-chardev", option("socket", id=name, fd=connected.fileno())]
        args += ["-device", f"{device},chardev={name},tag={share.tag.replace(',', ',,')}"]
    if "memory-backend=" not in (machine or ""):
        size = memory_bytes(config.memory or _DEFAULT_MEMORY)
        backend = option("memory-backend-memfd", id=_MEMORY, size=size, share=True)
        args += ["-object", backend]
        machine = f"{machine},memory-backend={_MEMORY}" if machine else machine
    return config.replace(
        args=args,
        pass_fds=fds,
        machine=machine,
        shares=[one for one in shares if one.kind != "virtiofs"],
    )


def _serve(command: list[str], stderr: int, releases: list[Callable[[], None]]) -> socket.socket:
    """Starts a server; returns our connection to it, for QEMU."""
    __tracebackhide__ = True
    connected = socket.socket(socket.AF_UNIX)
    releases.append(connected.close)
    with socket.socket(socket.AF_UNIX) as listener:
        # A name of the kernel's choice, in no file system.
        listener.bind("")
        listener.listen(1)
        connected.connect(listener.getsockname())
        mark = keeper.mark()
        try:
            process = subprocess.Popen(
                [*command, f"--fd={listener.fileno()}"],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=[listener.fileno(), *keeper.lifeline()],
                env={**os.environ, **mark},
                start_new_session=True,
            )
        except OSError as error:
            raise VMError(f"can't execute {command[0]}: {error.strerror}") from error
    pidfd = keeper.open_pidfd(process.pid)
    keeper.watch(process.pid, pidfd)

    def end() -> None:
        # QEMU is gone, so that it has nothing to do any more; the group is it and its children.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        keeper.forget(process.pid)
        if pidfd is not None:
            os.close(pidfd)

    releases.append(end)
    return connected


def _options(program: str, share: Share, deadline: Deadline) -> list[str]:
    __tracebackhide__ = True
    folder = os.path.abspath(share.path)
    known = _help(program, deadline)
    if share.read_only and "--readonly" not in known:
        raise VMError(
            f"{program} can't share a folder read-only: use a newer virtiofsd, or "
            "Share(path, read_only=True, kind='9p')"
        )
    if "--shared-dir" in known:
        options = ["--shared-dir", folder, "--log-level", "error"]
        options += ["--readonly"] if share.read_only else []
        # Namespaces are for root; without them a guest sees what this user may see there.
        return options + ([] if os.geteuid() == 0 else ["--sandbox", "none"])
    # The one that came with QEMU until 7.2.
    if "," in folder or os.geteuid() != 0:
        raise VMError(
            f"{program} is that of QEMU 7.2 or earlier: it is for root only, and takes no path "
            "with a comma. Use a newer virtiofsd, or Share(path, kind='9p')"
        )
    return ["-o", f"source={folder}", "-o", "sandbox=chroot", "-o", "log_level=err"]


def _help(program: str, deadline: Deadline) -> str:
    __tracebackhide__ = True
    try:
        shown = subprocess.run(
            [program, "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline.remaining(),
            check=False,
            **keeper.kept(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VMError(f"can't ask {program} for its options: {error}") from error
    return str(shown.stdout)
