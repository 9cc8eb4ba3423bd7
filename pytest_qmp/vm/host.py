"""What this host has: QEMU binaries, their versions, and accelerators that were proven to work."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pytest_qmp.errors import QEMUNotFoundError, QMPError, VMError
from pytest_qmp.keeper import client as keeper
from pytest_qmp.vm.shared_state import SharedState

__all__ = [
    "MORE_PLACES",
    "Accelerator",
    "arch_of_binary",
    "choose_accelerator",
    "find_qemu",
    "host_arch",
    "labels_of_binaries",
    "qemu_version",
    "share_probes",
]

_PACKAGES = {
    "x86_64": "qemu-system-x86",
    "i386": "qemu-system-x86",
    "aarch64": "qemu-system-arm",
    "arm": "qemu-system-arm",
    "ppc64": "qemu-system-ppc",
    "sparc64": "qemu-system-sparc",
    "mips64el": "qemu-system-mips",
}
# Where distributions put binaries that are not on the PATH.
MORE_PLACES = ("/usr/libexec", "/usr/local/bin", "/opt/homebrew/bin")
_VERSION = re.compile(r"version (\d+(?:\.\d+)+)")
_PROBE_SECONDS = 1.0
_PROBE_EXIT = 0x2A
_HANGS = f"/dev/kvm is there but hangs: a 15 ms loop took over {_PROBE_SECONDS:g} s"
# There is a /dev/kvm that runs single instructions but is a hundred times slower than TCG, so
# that guests seem to hang: the probe loops long enough to tell (15 ms on real hardware).
_PROBE_CODE = (
    b"\x66\xb9" + (20_000_000).to_bytes(4, "little")  # mov ecx, 20000000
    + b"\x66\x49\x75\xfc"  # dec ecx; jnz to the dec
    + bytes((0xB0, _PROBE_EXIT, 0xE6, 0xF4, 0xF4))  # mov al, status; out 0xf4, al; hlt
)  # fmt: skip


# What the probe came to, by binary. In this process alone, unless workers share it.
_probes = SharedState()


@dataclass(frozen=True)
class Accelerator:
    """An accelerator, and why it was chosen.

    Attributes:
        name: ``tcg``, ``kvm``, …
        reason: in a few words, for the header; empty where somebody asked for it by name.
    """

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def find_qemu(arch: str = "x86_64", given: str | os.PathLike[str] | None = None) -> str:
    """The path of a QEMU binary.

    Args:
        arch: whose ``qemu-system-ARCH`` is looked for on the PATH.
        given: a path, or a name to look for instead.

    Raises:
        QEMUNotFoundError: there is none.
    """
    name = os.fspath(given) if given is not None else f"qemu-system-{arch}"
    found = shutil.which(name) or next(
        (
            path
            for place in MORE_PLACES
            if given is None and (path := shutil.which(name, path=place))
        ),
        None,
    )
    if found:
        return found
    if given is not None and os.sep in name:
        seen = (
            "it is not executable" if os.path.isfile(name)
            else "that is a folder" if os.path.isdir(name)
            else "there is no such file"
        )  # fmt: skip
        raise QEMUNotFoundError(f"can't use the QEMU binary {name}: {seen}", given=True)
    package = _PACKAGES.get(arch, "qemu-system-misc")
    raise QEMUNotFoundError(
        f"there is no {name}: looked on the PATH ({os.environ.get('PATH', '')}) and in "
        f"{', '.join(MORE_PLACES)}. Install it (on Debian and Ubuntu: apt-get install {package}), "
        "or name its path with --qmp-qemu=PATH or VMConfig(qemu=PATH)",
        given=given is not None,
    )


@lru_cache(maxsize=32)
def qemu_version(qemu: str) -> str:
    """A binary's version, such as ``7.2.22``, asked once a session.

    Raises:
        VMError: if the binary does not say.
    """
    try:
        shown = subprocess.run(
            [qemu, "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            **keeper.kept(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VMError(f"can't ask {qemu} for its version: {error}") from error
    found = _VERSION.search(shown.stdout)
    if found is None:
        raise VMError(
            f"{qemu} --version does not answer as QEMU does (exit status {shown.returncode}): "
            f"{(shown.stdout + shown.stderr).strip()[:300]!r}. Is it a qemu-system binary?"
        )
    return found[1]


def arch_of_binary(qemu: str | os.PathLike[str]) -> str | None:
    """The architecture in the name ``qemu-system-ARCH``, or None."""
    found = re.search(r"qemu-system-([a-z0-9_]+)", os.path.basename(os.fspath(qemu)))
    return found[1] if found else None


def host_arch() -> str:
    """This host's architecture, as QEMU names it."""
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def labels_of_binaries(binaries: Sequence[str]) -> list[str]:
    """Short names for test ids, such as ``x86_64-7.2.22``, each another.

    A binary that does not tell its version keeps its name. Those of one version are told apart by
    the part of their paths in which they differ: ``x86_64-7.2.22-debug``.
    """
    plain = [_label_of_binary(one) for one in binaries]
    parts = [Path(shutil.which(one) or one).parts for one in binaries]
    labels: list[str] = []
    for label, path in zip(plain, parts, strict=True):
        twins = [other for one, other in zip(plain, parts, strict=True) if one == label]
        own = (
            part
            for part in reversed(path)
            if sum(part in other for other in twins) == 1 and part != os.sep
        )
        if len(twins) > 1:
            label += f"-{next(own, '')}".rstrip("-")
        repeated = labels.count(label)
        labels.append(f"{label}-{repeated + 1}" if repeated else label)
    return labels


def _label_of_binary(qemu: str) -> str:
    try:
        version = qemu_version(find_qemu(given=qemu))
    except VMError:
        return os.path.basename(qemu)
    arch = arch_of_binary(qemu)
    return f"{arch}-{version}" if arch else f"{os.path.basename(qemu)}-{version}"


@lru_cache(maxsize=32)
def choose_accelerator(wanted: str, qemu: str, arch: str) -> Accelerator:
    """The accelerator to use.

    Args:
        wanted: ``auto`` takes KVM where it has run guest code a moment ago, else TCG; any other
            is taken as it is.
        qemu: the binary that will run.
        arch: its architecture.
    """
    if wanted != "auto":
        return Accelerator(wanted)
    host = host_arch()
    if arch != host:
        return Accelerator("tcg", f"the host is {host}")
    if not os.path.exists("/dev/kvm"):
        return Accelerator("tcg", "no /dev/kvm")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("tcg", "no right to use /dev/kvm; add this user to the group kvm")
    if arch != "x86_64":
        return Accelerator("tcg", "KVM is proven on x86_64 only; ask for it by --qmp-accel=kvm")
    trouble = _kvm_trouble(qemu)
    return Accelerator("tcg", trouble) if trouble else Accelerator("kvm", "proven by running code")


def share_probes(state: SharedState) -> None:
    """Keeps what a probe of KVM came to where other processes of the run find it.

    The first who needs to know probes; who asks meanwhile waits for that.
    """
    global _probes
    _probes = state


def _kvm_trouble(qemu: str) -> str:
    """Why KVM can't be used, or nothing. Found out once a run."""
    binary = os.path.realpath(qemu)
    with _probes.locked() as known:
        # It is the host that hangs, whatever binary asks; other troubles may be of the binary.
        trouble = known.get(_HANGS) or known.get(binary)
        if trouble is None:
            trouble = known[binary] = _probe_kvm(qemu)
            if trouble == _HANGS:
                known[_HANGS] = trouble
    return str(trouble)


def _probe_kvm(qemu: str) -> str:
    """Runs a loop of guest code under KVM; says what went wrong, or nothing."""
    rom = bytearray(b"\xf4" * 65536)
    rom[: len(_PROBE_CODE)] = _PROBE_CODE
    rom[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"  # the reset vector: jump to F000:0000
    with keeper.folder("pytest-qmp-probe-") as folder:
        image = Path(folder, "probe.bin")
        image.write_bytes(rom)
        argv = [qemu, "-accel", "kvm", "-M", "pc", "-m", "1", "-nodefaults", "-no-user-config"]
        argv += ["-display", "none", "-device", "isa-debug-exit,iobase=0xf4", "-bios", str(image)]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
                check=False,
                **keeper.kept(),
            )
        except subprocess.TimeoutExpired:
            return _HANGS
        except OSError as error:
            raise QMPError(f"can't run {qemu} to try KVM: {error}") from error
    if done.returncode == _PROBE_EXIT << 1 | 1:
        return ""
    said = done.stderr.strip().splitlines()
    return f"KVM did not run guest code: {said[-1] if said else f'status {done.returncode}'}"
