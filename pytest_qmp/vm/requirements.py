"""Whether a QEMU and its host have what a test requires."""

from __future__ import annotations

import operator
import re
import shutil
from dataclasses import dataclass
from functools import lru_cache

from pytest_qmp.errors import VMConfigError
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.host import arch_of_binary, choose_accelerator, find_qemu, qemu_version

__all__ = ["missing"]

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
_KINDS = ("accelerator", "command", "device", "machine", "program", "qemu")


@dataclass(frozen=True)
class _Features:
    machines: frozenset[str]
    devices: frozenset[str]
    commands: frozenset[str]


def missing(requirement: str, config: VMConfig) -> str:
    """Why a requirement is not met.

    Args:
        requirement: ``kvm`` (proven, not only present), ``qemu>=8.0``, ``machine:microvm``,
            ``device:virtio-net-pci``, ``command:blockdev-add``, ``program:swtpm``, or a bare name
            that may be any of these.
        config: which QEMU, or the fake.

    Returns:
        The reason, or an empty text if it is met.

    Raises:
        VMConfigError: the requirement is not written as one.
        QEMUNotFoundError: there is no QEMU to ask.
    """
    kind, colon, name = requirement.partition(":")
    if colon and (kind not in _KINDS or not name):
        raise VMConfigError(
            f"requires={requirement!r} is not known: write one of "
            f"{', '.join(f'{one}:NAME' for one in _KINDS if one != 'qemu')}, qemu>=VERSION"
        )
    if not colon:
        kind, name = "", requirement.strip()
    version = _VERSION.fullmatch(name)
    if version is not None:
        return _version_trouble(version[1], version[2], config)
    if kind == "program":
        return "" if shutil.which(name) else f"there is no program {name!r} on the PATH"
    if kind == "accelerator" or (not kind and name in _ACCELERATORS):
        return _accelerator_trouble(name, config)
    if not kind and shutil.which(name):
        return ""
    features = _features_of(config)
    found = {
        "machine": name in features.machines,
        "device": name in features.devices,
        "command": name in features.commands,
    }
    if found.get(kind, False) or (not kind and any(found.values())):
        return ""
    what = f"{kind} {name!r}" if kind else f"machine type, device or command {name!r}"
    which = "the fake knows" if config.backend == "fake" else f"{_qemu(config)} has"
    return f"{which} no {what}" + ("" if kind else ", and there is no such program on the PATH")


def _version_trouble(sign: str, wanted: str, config: VMConfig) -> str:
    have = (config.emulate or "11.1") if config.backend == "fake" else qemu_version(_qemu(config))
    numbers = [[int(one) for one in text.split(".")] for text in (have, wanted)]
    # 7.2 stands for every 7.2.x, as people mean it.
    length = len(numbers[1])
    met = _COMPARE[sign](numbers[0][:length] + [0] * (length - len(numbers[0])), numbers[1])
    return "" if met else f"QEMU {sign}{wanted} is needed, and this is {have}"


def _accelerator_trouble(name: str, config: VMConfig) -> str:
    if config.backend == "fake":
        return f"the fake has no accelerator {name}"
    qemu = _qemu(config)
    if name == "tcg":
        return ""
    if name == "kvm":
        chosen = choose_accelerator("auto", qemu, config.arch or arch_of_binary(qemu) or "x86_64")
        return "" if chosen.name == "kvm" else f"KVM does not work here: {chosen.reason}"
    return f"the accelerator {name} can't be proven to work here"


def _qemu(config: VMConfig) -> str:
    return find_qemu(config.arch or "x86_64", config.qemu)


def _features_of(config: VMConfig) -> _Features:
    if config.backend == "fake":
        return _fake_features(config.emulate or "11.1")
    return _qemu_features(_qemu(config))


@lru_cache(maxsize=16)
def _qemu_features(qemu: str) -> _Features:
    from pytest_qmp.vm.machine import VirtualMachine

    with VirtualMachine(qemu=qemu, machine="none", accel="tcg", consoles=(), timeout=20.0) as vm:
        machines = vm.execute("query-machines")
        devices = vm.execute("qom-list-types", implements="device", abstract=False)
        commands = vm.execute("query-commands")
    return _Features(
        frozenset(name for one in machines for name in (one["name"], one.get("alias", ""))),
        frozenset(one["name"] for one in devices),
        frozenset(one["name"] for one in commands),
    )


@lru_cache(maxsize=4)
def _fake_features(emulate: str) -> _Features:
    from pytest_qmp.vm.machine import VirtualMachine

    with VirtualMachine(backend="fake", emulate=emulate) as vm:
        commands = frozenset(one["name"] for one in vm.execute("query-commands"))
    return _Features(frozenset(), frozenset(), commands)
