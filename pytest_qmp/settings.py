"""What the options and the ini file come to, each value checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_qmp.options import DEFAULT_TIMEOUT, given_values

if TYPE_CHECKING:
    from pytest_qmp.vm.config import VMConfig

__all__ = ["QMPSettings"]

BACKENDS = ("auto", "qemu", "fake")
KEPT = ("failed", "always", "never")
_ACCELERATORS = ("auto", "tcg", "kvm", "hvf", "whpx", "nvmm", "xen", "mshv", "nitro")
_ARCHITECTURES = (
    "aarch64", "alpha", "arm", "avr", "hppa", "i386", "loongarch64", "m68k", "microblaze",
    "microblazeel", "mips", "mips64", "mips64el", "mipsel", "or1k", "ppc", "ppc64", "riscv32",
    "riscv64", "rx", "s390x", "sh4", "sh4eb", "sparc", "sparc64", "tricore", "x86_64", "xtensa",
    "xtensaeb",
)  # fmt: skip


@dataclass(frozen=True)
class QMPSettings:
    """What the options and the ini file came to.

    Attributes:
        backend: ``auto``, ``qemu`` or ``fake``.
        connect: address of a running QEMU's monitor, or None.
        qemu: paths of QEMU binaries; empty: the one on the PATH.
        arch: the architecture, or None.
        machine: the machine type, or None.
        memory: the guest's memory, or None.
        max_memory: what the machines of the run have at most, as it was written, or None.
        accel: the accelerator, or ``auto``.
        timeout: seconds.
        timeout_scale: what every wait's timeout is multiplied by.
        artifacts: the folder for what is left of tests, or None for the default.
        keep: which tests leave something: ``failed``, ``always`` or ``never``.
        update_screens: True writes reference pictures that are missing or differ.
        restore: how booted machines are had anew: ``auto``, or the one way that has to work.
        template_cache: the folder of booted machines for later runs; empty for the one in pytest's
            cache; None: they are not kept.
        prefetch: how many booted machines are made ready ahead, or None for the default.
        require: True fails where something is missing.
        explicit: the names of those that somebody has set.
    """

    backend: str = "auto"
    connect: str | None = None
    qemu: tuple[str, ...] = ()
    arch: str | None = None
    machine: str | None = None
    memory: str | None = None
    max_memory: str | None = None
    accel: str = "auto"
    timeout: float = DEFAULT_TIMEOUT
    timeout_scale: float = 1.0
    artifacts: str | None = None
    keep: str = "failed"
    update_screens: bool = False
    restore: str = "auto"
    template_cache: str | None = None
    prefetch: int | None = None
    require: bool = False
    explicit: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, config: pytest.Config) -> QMPSettings:
        """Reads the options, then the ini file; checks each value.

        Raises:
            pytest.UsageError: for a value that can't be; the text says which are right.
        """
        given: dict[str, Any] = {}
        for name, (origin, value) in given_values(config).items():
            if isinstance(value, str) and not value.strip() and name != "template_cache":
                raise pytest.UsageError(f"{origin} is empty")
            check = _CHECKS.get(name)
            given[name] = check(origin, value) if check else value
        if "connect" in given:
            for other in ("qemu", "machine", "memory", "accel"):
                if config.getoption(f"qmp_{other}") is not None:
                    raise pytest.UsageError(
                        f"--qmp-connect uses a QEMU that runs already, so --qmp-{other} can't "
                        "change it: give one of the two"
                    )
        return cls(**given, explicit=frozenset(given))

    def defaults(self, qemu: str | None) -> VMConfig:
        """A VMConfig of what the options say.

        Args:
            qemu: the binary of this test, where the test runs on several.
        """
        from pytest_qmp.vm.config import VMConfig

        return VMConfig(
            qemu=qemu or next(iter(self.qemu), None),
            arch=self.arch,
            machine=self.machine,
            memory=self.memory,
            accel=self.accel,
            timeout=self.timeout,
        )


def _one_of(origin: str, value: str, known: tuple[str, ...] | list[str], what: str) -> str:
    from pytest_qmp.text import nearest

    if value not in known:
        raise pytest.UsageError(
            f"{origin}={value} is no {what}{nearest(value, known)}\nKnown are: {', '.join(known)}"
        )
    return value


def _check_backend(origin: str, value: str) -> str:
    return _one_of(origin, value, BACKENDS, "backend")


def _check_arch(origin: str, value: str) -> str:
    return _one_of(origin, value, _ARCHITECTURES, "architecture of QEMU's")


def _check_accel(origin: str, value: str) -> str:
    _one_of(origin, value.split(",")[0], _ACCELERATORS, "accelerator")
    return value


def _check_memory(origin: str, value: str) -> str:
    from pytest_qmp.errors import VMConfigError
    from pytest_qmp.vm.config import memory_bytes

    return _accepted(origin, value, memory_bytes, VMConfigError)


def _check_connect(origin: str, value: str) -> str:
    from pytest_qmp.errors import QMPAddressError
    from pytest_qmp.qmp.address import parse_address

    return _accepted(origin, value, parse_address, QMPAddressError)


def _accepted(
    origin: str, value: str, parse: Callable[[str], object], refusal: type[Exception]
) -> str:
    try:
        parse(value)
    except refusal as error:
        raise pytest.UsageError(f"{origin}={value}: {error}") from None
    return value


def _above_0(origin: str, value: str, what: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise pytest.UsageError(f"{origin}={value} is no {what} above 0")
    return number


def _check_timeout(origin: str, value: str) -> float:
    return _above_0(origin, value, "number of seconds")


def _check_scale(origin: str, value: str) -> float:
    return _above_0(origin, value, "factor")


def _check_restore(origin: str, value: str) -> str:
    from pytest_qmp.vm.template_ways import RESTORES

    return RESTORES[_one_of(origin, value, list(RESTORES), "way to have a machine anew")]


def _check_template_cache(origin: str, value: str) -> str:
    if os.path.isfile(value) or "::" in value:
        raise pytest.UsageError(
            f"{origin} {value}: a folder is named as in {origin}=DIR; without one, give {origin} "
            "behind the tests to run, or before another option"
        )
    return value


def _check_prefetch(origin: str, value: str) -> int:
    if not value.strip().isdigit():
        raise pytest.UsageError(f"{origin}={value} is no number of machines: 0, 1, 2, …")
    return int(value)


def _check_keep(origin: str, value: str) -> str:
    return _one_of(origin, value, KEPT, "choice of what to keep")


def _check_qemu(origin: str, value: list[str]) -> tuple[str, ...]:
    if not all(one.strip() for one in value):
        raise pytest.UsageError(f"{origin} is empty")
    return tuple(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "accel": _check_accel,
    "arch": _check_arch,
    "backend": _check_backend,
    "connect": _check_connect,
    "max_memory": _check_memory,
    "memory": _check_memory,
    "qemu": _check_qemu,
    "keep": _check_keep,
    "prefetch": _check_prefetch,
    "restore": _check_restore,
    "template_cache": _check_template_cache,
    "timeout": _check_timeout,
    "timeout_scale": _check_scale,
}
