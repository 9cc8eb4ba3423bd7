"""Whether a QEMU and its host have what a test requires."""

from __future__ import annotations

import operator
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_qmp.errors import VMConfigError
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.host import arch_of_binary, choose_accelerator, find_qemu, qemu_version

__all__ = ["missing", "parse"]
if TYPE_CHECKING:
    from pytest_qmp.qmp.client import QMPClient

_VERSION = re.compile(r"(?:qemu\s*)?(>=|<=|==|!=|<|>)\s*(\d+(?:\.\d+)*)")
_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_ACCELERATORS = ("kvm", "tcg", "hvf", "whpx", "nvmm", "xen", "mshv")
_KINDS = ("accelerator", "command", "device", "machine", "program")
# The fake takes any -machine; these are the ones whose run states it knows.
_FAKE_MACHINES = frozenset({"microvm", "none", "pc", "q35", "virt"})


@dataclass(frozen=True)
class _Features:
    machines: frozenset[str]
    devices: frozenset[str]
    commands: frozenset[str]


def parse(requirement: str) -> tuple[str, str]:
    """A requirement as its kind and its name; a bare name has the kind ``""``.

    Raises:
        VMConfigError: it is not written as one.
    """
    kind, colon, name = requirement.partition(":")
    if not colon:
        kind, name = "", requirement.strip()
    if (colon and kind not in _KINDS) or not name:
        raise VMConfigError(
            f"requires={requirement!r} is not known: write one of "
            f"{', '.join(f'{one}:NAME' for one in _KINDS)}, qemu>=VERSION, or a bare name"
        )
    return kind, name


def missing(requirement: str, config: VMConfig, connect: str | None = None) -> str:
    """Why a requirement is not met.

    Args:
        requirement: ``kvm`` (proven, not only present), ``qemu>=8.0``, ``machine:microvm``,
            ``device:virtio-net-pci``, ``command:blockdev-add``, ``program:swtpm``, or a bare name
            that may be any of these.
        config: which QEMU, or the fake.
        connect: address of a running QEMU, which is asked instead.

    Returns:
        The reason, or an empty text if it is met.

    Raises:
        VMConfigError: the requirement is not written as one.
        QEMUNotFoundError: there is no QEMU to ask.
    """
    kind, name = parse(requirement)
    version = _VERSION.fullmatch(name)
    if kind == "program":
        return "" if shutil.which(name) else f"there is no program {name!r} on the PATH"
    if kind == "" and version is None and name not in _ACCELERATORS and shutil.which(name):
        return ""
    subject = _subject(config, connect)
    if version is not None:
        return _version_trouble(version[1], version[2], subject.version)
    if kind == "accelerator" or (not kind and name in _ACCELERATORS):
        return subject.accelerator_trouble(name)
    features = subject.features()
    found = {
        "machine": name in features.machines,
        "device": name in features.devices,
        "command": name in features.commands,
    }
    if found.get(kind, False) or (not kind and any(found.values())):
        return ""
    what = f"{kind} {name!r}" if kind else f"machine type, device or command {name!r}"
    return f"{subject.name} has no {what}" + (
        "" if kind else ", and there is no such program on the PATH"
    )


def _version_trouble(sign: str, wanted: str, have: str) -> str:
    numbers = [[int(one) for one in text.split(".")] for text in (have, wanted)]
    # 7.2 stands for every 7.2.x, as people mean it.
    length = len(numbers[1])
    met = _COMPARE[sign](numbers[0][:length] + [0] * (length - len(numbers[0])), numbers[1])
    return "" if met else f"QEMU {sign}{wanted} is needed, and this is {have}"


@dataclass(frozen=True)
class _Subject:
    """Whoever plays the machine, as far as requirements go."""

    name: str
    version: str
    features: Callable[[], _Features]
    accelerator_trouble: Callable[[str], str]


def _subject(config: VMConfig, connect: str | None) -> _Subject:
    if config.backend == "fake":
        return _fake(config.emulate or "11.1")
    if connect is not None:
        return _running(connect)
    qemu = find_qemu(config.arch or "x86_64", config.qemu)
    arch = config.arch or arch_of_binary(qemu) or "x86_64"
    return _Subject(
        qemu,
        qemu_version(qemu),
        lambda: _features_of_binary(qemu),
        lambda name: _accelerator_trouble(name, qemu, arch),
    )


def _accelerator_trouble(name: str, qemu: str, arch: str) -> str:
    if name == "tcg":
        return ""
    if name == "kvm":
        chosen = choose_accelerator("auto", qemu, arch)
        return "" if chosen.name == "kvm" else f"KVM does not work here: {chosen.reason}"
    return f"the accelerator {name} can't be proven to work here"


@lru_cache(maxsize=16)
def _features_of_binary(qemu: str) -> _Features:
    from pytest_qmp.vm.machine import VirtualMachine

    with VirtualMachine(qemu=qemu, machine="none", accel="tcg", consoles=(), timeout=20.0) as vm:
        return _ask(vm.qmp)


def _ask(qmp: QMPClient) -> _Features:
    machines = qmp.execute("query-machines")
    devices = qmp.execute("qom-list-types", implements="device", abstract=False)
    commands = qmp.execute("query-commands")
    return _Features(
        frozenset(name for one in machines for name in (one["name"], one.get("alias", ""))),
        frozenset(one["name"] for one in devices),
        frozenset(one["name"] for one in commands),
    )


@lru_cache(maxsize=4)
def _running(address: str) -> _Subject:
    from pytest_qmp.vm.machine import VirtualMachine

    with VirtualMachine.attach(address) as vm:
        name, version, features = vm.description, str(vm.qmp.version), _ask(vm.qmp)
        kvm = vm.execute("query-kvm")["enabled"]

    def trouble(accelerator: str) -> str:
        if (accelerator == "kvm") is bool(kvm) and accelerator in ("kvm", "tcg"):
            return ""
        return f"{name} does not run on {accelerator}"

    return _Subject(name, version, lambda: features, trouble)


def _fake(emulate: str) -> _Subject:
    from pytest_qmp.fake.commands import HANDLERS

    name = f"the fake QEMU {emulate}"
    features = _Features(_FAKE_MACHINES, frozenset(), frozenset(HANDLERS))
    return _Subject(
        name, emulate, lambda: features, lambda accelerator: f"the fake has no {accelerator}"
    )
