"""What a machine is made of, as one frozen dataclass."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_qmp.errors import VMConfigError
from pytest_qmp.text import nearest
from pytest_qmp.vm.display_config import check_display
from pytest_qmp.vm.drive import Drive, PathLike
from pytest_qmp.vm.network_config import NetworkLike, PortLike, check_network, checked_ports
from pytest_qmp.vm.shares import Share, checked_shares
from pytest_qmp.vm.timing import checked_timing

if TYPE_CHECKING:
    from pytest_qmp.vm.links import Link, LinkEnd
    from pytest_qmp.vm.seed import SeedText

__all__ = ["ARCHITECTURES", "Drive", "PathLike", "VMConfig", "memory_bytes"]

DeviceLike = str | Mapping[str, Any]

ARCHITECTURES = ("x86_64", "aarch64", "riscv64")

_LISTS = ("drives", "devices", "consoles", "args", "pass_fds", "shares")

_SEED = ("user_data", "meta_data", "network_config")

#: ``fatal`` ends every wait, ``error`` fails the test at its end.
_SEVERITIES = ("fatal", "error")

#: What is left of the 32 places of a root bus is the machine's own, and for other devices.
MOST_HOTPLUG_SLOTS = 24

_MEMORY = re.compile(r"(\d+)\s*([bkmgtp]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


class SupportsFileno(Protocol):
    """An open file, a socket, …."""

    def fileno(self) -> int:
        """Its descriptor."""


@dataclass(frozen=True)
class VMConfig:
    """A machine to start. What is None is left to the options, and then to the default.

    Every value is handed to QEMU as one value: commas in a path are doubled, so that a name can't
    become an option. ``machine``, ``accel``, ``cpu``, ``smp``, ``devices`` given as texts, and
    ``args`` are QEMU's own option language and are passed as they are.

    Attributes:
        arch: ``x86_64`` (the default), ``aarch64``, ``riscv64``, or another that QEMU has.
        qemu: path of the binary; None looks for ``qemu-system-ARCH`` on the PATH.
        backend: ``qemu`` (the default) or ``fake``.
        emulate: the version that the fake plays: ``7.2``, ``10.0`` or ``11.1``.
        machine: the machine type; default ``q35`` on x86_64, ``virt`` on aarch64 and riscv64, and
            QEMU's own default on others.
        accel: ``auto`` (the default: the fastest one that is proven to work), ``tcg``, ``kvm``, …
        cpu: the CPU model; None takes QEMU's default (on aarch64 ``cortex-a72``, as QEMU's own
            default there is a 32-bit one).
        smp: the number of CPUs, or QEMU's topology text.
        memory: ``"256M"``, ``"2G"``, or a number of MiB as for QEMU's ``-m``.
        firmware: file for ``-bios``; ``"none"`` for none.
        kernel: file for ``-kernel``.
        initrd: file for ``-initrd``.
        append: the kernel's command line.
        drives: ``Drive`` objects, or paths.
        devices: texts for ``-device``, or mappings with a ``driver``.
        display: True gives the machine a display that suits it, for ``vm.screenshot()`` and the
            like; a text names the device: ``VGA``, ``virtio-gpu-pci``, ….
        consoles: names of the serial ports to connect, in order; the first is ``vm.console``.
        args: more arguments, as they are.
        env: environment variables for QEMU, besides those of this process.
        pass_fds: descriptors that QEMU inherits under the same numbers, for what ``args`` and
            ``devices`` say of them: numbers, or open files and sockets.
        guest_agent: True gives the guest a virtio-serial port for QEMU's guest agent, which
            ``vm.guest`` then speaks to.
        user_data: what cloud-init in the guest is to do, from a seed that is attached read-only
            (NoCloud): a text (``#cloud-config …``), a mapping, bytes, or a ``pathlib.Path``.
        meta_data: the same for cloud-init's meta-data; default: an ``instance-id``.
        network_config: the same for its network-config; default: none.
        shares: folders of the host that the guest can mount: ``Share`` objects, or paths.
        network: True or ``"restricted"`` gives the guest a network card on QEMU's user-mode
            network (DHCP, ports forwarded to it) through which it reaches nothing outside;
            ``"user"`` also lets it reach what this host reaches; None: such a card only where
            ``ports`` needs it; False: none.
        ports: ports of the guest to forward from free ones of 127.0.0.1: ``[22, ("udp", 53)]``;
            see ``vm.ports``.
        links: private networks, each of which gets a card: ``Link`` objects, or ends of them.
        nic: the model of these cards, in QEMU's option language; default: virtio's for the
            machine.
        capture: True captures what goes over each card from the first frame on, for
            ``vm.captures`` and the artifacts.
        cloneable: True has the memory of the guest in a file of its own and its disks on
            overlays, so that ``Template.capture()`` takes milliseconds; what the guest writes to
            its disks is then gone with the machine.
        incoming: True waits for a guest that another machine migrates (``-incoming defer``): see
            ``vm.migrate()``.
        hotplug_slots: how many PCI devices ``vm.hotplug()`` can plug in at a time where the root
            bus takes none, as on q35 and virt: each is a ``pcie-root-port``. A ``pc`` needs none.
        rtc: the date at which the guest's clock begins, a ``datetime`` or a text
            (``"2026-01-01T00:00:00"``), UTC unless it says otherwise; ``"utc"`` (the default) or
            ``"localtime"`` for this host's.
        rtc_clock: what the guest's clock goes on with: ``"host"`` (the default), ``"rt"``, or
            ``"vm"``, which stands while the guest does (the default with ``icount``).
        icount: has the guest's time go by the instructions that it executes, for runs that can be
            repeated: True, a shift (an instruction takes 2**shift ns), or QEMU's text. An idle
            guest's time leaps to its next timer, unless a text (``"shift=3"``) leaves that out.
            Only TCG can; ``accel="auto"`` then takes it.
        seed: of QEMU's own random numbers, which devices and the guest's boot get (``-seed``).
        paused: True starts with the CPUs stopped (``-S``).
        name: for ``query-name``, reports and messages.
        uuid: for ``query-uuid``.
        timeout: seconds that a wait takes at most, unless a call says otherwise.
        allow: what may happen to the machine all the time, as for ``vm.allow()``.
        console_watch: regular expressions for lines of the consoles, each with a severity:
            ``fatal`` ends every wait at once, ``error`` fails the test at its end; a mapping, or
            pairs.

    Raises:
        VMConfigError: for a value of the wrong kind.

    >>> VMConfig(memory="256M").replace(memory="1G").memory
    '1G'
    """

    arch: str | None = None
    qemu: PathLike | None = None
    backend: Literal["qemu", "fake"] | None = None
    emulate: str | None = None
    machine: str | None = None
    accel: str | None = None
    cpu: str | None = None
    smp: int | str | None = None
    memory: str | int | None = None
    firmware: PathLike | None = None
    kernel: PathLike | None = None
    initrd: PathLike | None = None
    append: str | None = None
    drives: Sequence[Drive | PathLike] = ()
    devices: Sequence[DeviceLike] = ()
    display: bool | str | None = None
    consoles: Sequence[str] = ("serial0",)
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int | SupportsFileno] = ()
    guest_agent: bool = False
    user_data: SeedText | None = None
    meta_data: SeedText | None = None
    network_config: SeedText | None = None
    shares: Sequence[Share | PathLike] = ()
    network: NetworkLike = None
    ports: Sequence[PortLike] = ()
    links: Sequence[Link | LinkEnd] = ()
    nic: str | None = None
    capture: bool = False
    cloneable: bool = False
    incoming: bool = False
    hotplug_slots: int = 0
    rtc: str | datetime | date | None = None
    rtc_clock: str | None = None
    icount: bool | int | str | None = None
    seed: int | None = None
    paused: bool = False
    name: str | None = None
    uuid: str | None = None
    timeout: float | None = None
    allow: Sequence[str] = ()
    console_watch: Mapping[str, str] | Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        for name in (*_LISTS, "ports", "links"):
            value = getattr(self, name)
            if isinstance(value, (str, bytes, os.PathLike, Mapping)) or not hasattr(
                value, "__iter__"
            ):
                raise VMConfigError(
                    f"VMConfig.{name} is a list, as in {name}=[{value!r}], not {value!r}"
                )
            object.__setattr__(self, name, tuple(value))
        for name in ("args", "consoles"):
            for value in getattr(self, name):
                if not isinstance(value, str):
                    raise VMConfigError(f"VMConfig.{name} holds texts, not {value!r}")
        object.__setattr__(self, "shares", checked_shares(self.shares))
        object.__setattr__(self, "ports", checked_ports(self.ports))
        check_network(self)
        object.__setattr__(self, "allow", _checked_kinds(self.allow))
        object.__setattr__(self, "console_watch", _checked_patterns(self.console_watch))
        if self.backend not in (None, "qemu", "fake"):
            raise VMConfigError(f"VMConfig.backend is 'qemu' or 'fake', not {self.backend!r}")
        for name, value in checked_timing(self).items():
            object.__setattr__(self, name, value)
        if self.memory is not None:
            memory_bytes(self.memory)
        check_display(self.display)
        if isinstance(self.smp, int) and self.smp < 1:
            raise VMConfigError(f"VMConfig.smp is at least 1, not {self.smp}")
        slots = self.hotplug_slots
        if not isinstance(slots, int) or not 0 <= slots <= MOST_HOTPLUG_SLOTS:
            raise VMConfigError(
                f"VMConfig.hotplug_slots is a number up to {MOST_HOTPLUG_SLOTS}, not "
                f"{slots!r}: the root bus has 32 places in all"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise VMConfigError(f"VMConfig.timeout is a number of seconds, not {self.timeout!r}")
        for one in fields(self):
            if one.name not in _SEED:
                _check_texts(one.name, getattr(self, one.name))
        if self.has_cloud_init:
            from pytest_qmp.vm.seed import check_seed

            for name in _SEED:
                check_seed(f"VMConfig.{name}", getattr(self, name))
        if not all(isinstance(name, str) and "=" not in name for name in self.env):
            raise VMConfigError(f"VMConfig.env has names of variables, not {list(self.env)!r}")

    @property
    def has_cloud_init(self) -> bool:
        """True if there is a seed for cloud-init."""
        return any(getattr(self, name) is not None for name in _SEED)

    def replace(self, **changes: Any) -> VMConfig:
        """A copy with those fields changed.

        Raises:
            VMConfigError: for a field that there is not; the text names the nearest.
        """
        __tracebackhide__ = True
        check_names(changes, "VMConfig.replace")
        return replace(self, **changes)

    def passed_descriptors(self) -> list[int]:
        """The numbers of ``pass_fds``.

        Raises:
            VMConfigError: one is not open.
        """
        numbers = []
        for one in self.pass_fds:
            try:
                number = one if isinstance(one, int) else one.fileno()
                os.fstat(number)
            except (OSError, AttributeError, OverflowError, ValueError) as error:
                raise VMConfigError(
                    f"VMConfig.pass_fds holds open descriptors, and {one!r} is none: {error}"
                ) from None
            numbers.append(number)
        return numbers

    def filled(self, defaults: VMConfig) -> VMConfig:
        """A copy in which what is None comes from ``defaults``."""
        missing = {
            one.name: getattr(defaults, one.name)
            for one in fields(self)
            if getattr(self, one.name) is None
        }
        return replace(self, **missing)


def _check_texts(field: str, value: object) -> None:
    """Refuses what no program can be given as an argument, however deep in a value it is."""
    if isinstance(value, Drive):
        value = (value.path, value.format, value.interface, value.id)
    if isinstance(value, Share):
        value = (value.path, value.tag)
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for one in value:
            _check_texts(field, one)
        return
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(text, bytes):
        raise VMConfigError(f"VMConfig.{field} holds texts, not {text!r}: use os.fsdecode")
    if isinstance(text, str) and "\0" in text:
        raise VMConfigError(f"VMConfig.{field} holds a NUL byte: {text!r}")


def _checked_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    if not kinds:
        return ()
    from pytest_qmp.vm.verdicts import check_kinds

    return tuple(sorted(check_kinds(kinds, "VMConfig.allow")))


def _checked_patterns(
    patterns: Mapping[str, str] | Sequence[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    if not patterns:
        return ()
    pairs = patterns.items() if isinstance(patterns, Mapping) else patterns
    checked = []
    for pair in pairs:
        try:
            pattern, severity = pair
            re.compile(pattern.encode())
        except (ValueError, AttributeError, re.error) as error:
            raise VMConfigError(
                "VMConfig.console_watch maps regular expressions to severities, as in "
                f"{{'Kernel panic': 'fatal'}}; {pair!r} does not: {error}"
            ) from None
        if severity not in _SEVERITIES:
            raise VMConfigError(
                f"VMConfig.console_watch: the severity of {pattern!r} is 'fatal' or 'error', "
                f"not {severity!r}"
            )
        checked.append((pattern, severity))
    return tuple(checked)


def check_names(names: Mapping[str, Any] | Sequence[str], where: str, *more: str) -> None:
    """Refuses a name that is no field of VMConfig, and names the nearest.

    Raises:
        VMConfigError: for the first such name.
    """
    __tracebackhide__ = True
    known = [*(one.name for one in fields(VMConfig)), *more]
    for name in names:
        if name not in known:
            raise VMConfigError(
                f"{where} has no keyword {name!r}{nearest(name, known)}\n"
                f"The keywords are: {', '.join(known)}"
            )


def memory_bytes(memory: str | int) -> int:
    """Bytes that a memory size stands for; a bare number counts MiB, as for QEMU's ``-m``.

    Raises:
        VMConfigError: if it is no size.

    >>> memory_bytes("256M") == memory_bytes(256) == 256 * 1024 * 1024
    True
    """
    match = _MEMORY.fullmatch(str(memory).strip()) if not isinstance(memory, bool) else None
    if match is None or int(match[1]) == 0:
        raise VMConfigError(f"a memory size is written like '256M' or '2G', not {memory!r}")
    scale: int = 1024 ** _UNITS[(match[2] or "m").lower()]
    return int(match[1]) * scale
