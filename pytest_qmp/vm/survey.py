"""A look at all that a host has for machines: binaries, machine types, accelerators, tools."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_qmp.errors import QEMUNotFoundError, QMPError, VMError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.vm.host import MORE_PLACES, arch_of_binary, find_qemu, qemu_version

__all__ = [
    "Binary",
    "describe_kvm_device",
    "find_binaries",
    "install_hint",
    "survey_binary",
    "version_of_program",
]

_PROGRAM = re.compile(r"qemu-system-[a-z0-9_]+")
_ASK_SECONDS = 20.0
# Debian's and Fedora's packages; Homebrew has all in one.
_PACKAGES = {
    "qemu-img": ("qemu-utils", "qemu-img"),
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-system-x86"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu-system-aarch64"),
    "qemu-system-riscv64": ("qemu-system-misc", "qemu-system-riscv"),
}


@dataclass(frozen=True)
class Binary:
    """A QEMU binary, and what it says of itself.

    Attributes:
        path: where it is.
        arch: the architecture in its name; ``?`` if there is none.
        version: such as ``7.2.22``; empty if it does not say.
        machines: its machine types.
        default_machine: the one that it takes by itself; empty if it has none.
        accelerators: those that it was built with.
        trouble: why it can't be used; empty if it can.
    """

    path: str
    arch: str
    version: str = ""
    machines: tuple[str, ...] = ()
    default_machine: str = ""
    accelerators: tuple[str, ...] = ()
    trouble: str = ""


def find_binaries(more: Iterable[str] = ()) -> list[str]:
    """The paths of all ``qemu-system-ARCH`` where they are looked for, each file once.

    Args:
        more: paths or names that somebody asks for; they come first, and are kept if there is no
            such file.
    """
    found: dict[str, str] = {}
    for given in more:
        try:
            path = find_qemu(given=given)
        except QEMUNotFoundError:
            path = given
        found.setdefault(os.path.realpath(path), path)
    for place in (*os.environ.get("PATH", "").split(os.pathsep), *MORE_PLACES):
        for name in sorted(os.listdir(place)) if place and os.path.isdir(place) else ():
            path = os.path.join(place, name)
            if _PROGRAM.fullmatch(name) and os.path.isfile(path) and os.access(path, os.X_OK):
                # By its own name rather than by that of a link to it.
                real = os.path.realpath(path)
                if real not in found or os.path.islink(found[real]):
                    found[real] = path
    return list(found.values())


def survey_binary(path: str) -> Binary:
    """Asks a binary for its version, its machine types and its accelerators."""
    arch = arch_of_binary(path) or "?"
    version = ""
    try:
        found = find_qemu(given=path)
        version = qemu_version(found)
        machines = _listed(found, "-machine", "help")
        accelerators = _listed(found, "-accel", "help")
    except QMPError as error:
        return Binary(path, arch, version, trouble=str(error))
    default = next((name for name, text in machines if text.endswith("(default)")), "")
    return Binary(
        path,
        arch,
        version,
        tuple(name for name, _ in machines),
        default,
        tuple(name for name, _ in accelerators),
    )


def _listed(qemu: str, *arguments: str) -> list[tuple[str, str]]:
    """The names, and the texts beside them, of a list that QEMU prints under a headline."""
    command = [qemu, *arguments]
    try:
        shown = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_SECONDS,
            check=False,
            **keeper.kept(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VMError(f"can't ask {' '.join(command)}: {error}") from error
    if shown.returncode:
        said = shown.stderr.strip()[-300:]
        raise VMError(f"{' '.join(command)} failed with status {shown.returncode}: {said}")
    lines = [line.strip().partition(" ") for line in shown.stdout.splitlines()[1:]]
    return [(name, text.strip()) for name, _, text in lines if name]


def install_hint(program: str) -> str:
    """What installs a program, on the systems where people have it from packages."""
    debian, fedora = _PACKAGES.get(program, (program, program))
    return (
        f"Debian, Ubuntu: apt-get install {debian}; Fedora: dnf install {fedora}; "
        "Homebrew: brew install qemu"
    )


def describe_kvm_device(path: Path = Path("/dev/kvm")) -> str:
    """Whether the device is there, whose it is, and whether this user may use it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"there is no {path}: no KVM in this kernel, or in this container"
    except OSError as error:
        return f"{path}: {error.strerror}"
    owner = f"{_name_of('pwd', status.st_uid)}:{_name_of('grp', status.st_gid)}"
    text = f"{path} is {stat.filemode(status.st_mode)} {owner}, and this user may "
    if os.access(path, os.R_OK | os.W_OK):
        return f"{text}use it"
    group = _name_of("grp", status.st_gid)
    return f"{text}not use it: add the user to the group {group} (usermod -aG {group} USER)"


def _name_of(database: str, number: int) -> str:
    import grp
    import pwd

    try:
        if database == "pwd":
            return pwd.getpwuid(number).pw_name
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def version_of_program(name: str) -> tuple[str, str] | None:
    """Path and version of a tool such as ``qemu-img``; None if it is not on the PATH."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        return path, qemu_version(path)
    except VMError:
        return path, "of a version that it does not tell"
