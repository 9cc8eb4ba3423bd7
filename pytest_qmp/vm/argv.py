"""From a VMConfig to QEMU's command line. Nothing here touches the system but to read a format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_qmp.errors import VMConfigError
from pytest_qmp.vm.config import Drive, VMConfig, memory_bytes
from pytest_qmp.vm.display_config import display_device
from pytest_qmp.vm.drive import disk_bytes
from pytest_qmp.vm.network_argv import network_argv
from pytest_qmp.vm.restore_disks import LayeredDrive
from pytest_qmp.vm.serial_ports import serial_port
from pytest_qmp.vm.timing import timing_argv

__all__ = [
    "AGENT",
    "build_argv",
    "default_machine",
    "needs_preparation",
    "option",
    "required_files",
    "starts_held",
    "virtio_device",
]

#: The chardev of the guest agent.
AGENT = "guest-agent"

_MIB = 1024 * 1024
# Of the ports for hotplug, above those that people number themselves.
_FIRST_CHASSIS = 128
_BEGINNINGS = frozenset(
    {"-S", "--S", "-incoming", "--incoming", "-preconfig", "--preconfig", "-loadvm", "--loadvm"}
)


def option(first: str, /, **values: object) -> str:
    """One option's text, with every value quoted for QEMU (commas doubled).

    Args:
        first: what comes before the first ``=``, such as the backend's name.
        values: the rest; ``_`` stands for ``-``, None is left out, booleans are on and off.

    >>> option("socket", id="a", path="/tmp/x,y")
    'socket,id=a,path=/tmp/x,,y'
    """
    return _join(first, {key.replace("_", "-"): value for key, value in values.items()})


def _join(first: str, values: Mapping[str, object]) -> str:
    parts = [first]
    for key, value in values.items():
        if value is None:
            continue
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        parts.append(f"{key}={text.replace(',', ',,')}")
    return ",".join(part for part in parts if part)


def default_machine(arch: str) -> str | None:
    """The machine type for an architecture, when none was named; None leaves it to QEMU."""
    if arch in ("x86_64", "i386"):
        return "q35"
    return "virt" if arch in ("aarch64", "arm", "loongarch64", "riscv32", "riscv64") else None


def virtio_device(arch: str, machine: str | None, name: str) -> str:
    """A virtio device as a machine has it: on PCI, a CCW, or memory-mapped (microvm).

    >>> virtio_device("aarch64", "virt", "virtio-9p")
    'virtio-9p-pci'
    """
    if arch == "s390x":
        return f"{name}-ccw"
    return f"{name}-device" if (machine or "").startswith("microvm") else f"{name}-pci"


def starts_held(config: VMConfig) -> bool:
    """True if the CPUs wait until the monitor is there, so that no event of the guest is missed.

    Where the config says itself how the machine begins, it begins so.
    """
    return not (config.paused or config.incoming or _BEGINNINGS.intersection(config.args))


def required_files(config: VMConfig) -> list[tuple[str, str]]:
    """What has to be readable before a start makes sense: (field, path)."""
    found = [
        (name, os.fspath(value))
        for name in ("firmware", "kernel", "initrd")
        if (value := getattr(config, name)) is not None
    ]
    paths = [os.fspath(_drive(one).path) for one in config.drives]
    found += [("drive", path) for path in paths if path]
    return [(name, path) for name, path in found if (name, path) != ("firmware", "none")]


def needs_preparation(config: VMConfig) -> bool:
    """True if files or programs have to be there at the start that the start itself makes."""
    made = any(isinstance(one, Drive) and one.made_at_start for one in config.drives)
    return made or config.has_cloud_init or bool(config.shares)


def build_argv(
    config: VMConfig,
    qemu: str,
    accel: str,
    monitors: Mapping[str, int],
    consoles: Mapping[str, int],
    agent: int | None = None,
    links: Sequence[int] = (),
) -> tuple[str, ...]:
    """The whole command line.

    Args:
        config: with ``arch`` set.
        qemu: path of the binary.
        accel: the accelerator, chosen.
        monitors: descriptors of the QMP sockets that QEMU inherits, by the name of the chardev.
        consoles: descriptors of the serial ports' sockets, by name.
        agent: descriptor of the guest agent's socket, if it has a port.
        links: descriptors of the connections to ``config.links``, in order.

    Raises:
        VMConfigError: for a device or drive that can't be described.
    """
    arch = config.arch or "x86_64"
    machine = config.machine or default_machine(arch)
    argv = [qemu, "-nodefaults", "-no-user-config", "-display", "none"]
    if machine is not None:
        argv += ["-machine", machine]
    argv += ["-accel", accel]
    cpu = config.cpu
    if cpu is None and arch == "aarch64" and (machine or "").startswith("virt"):
        cpu = "cortex-a72" if accel.startswith("tcg") else "host"
    if cpu is not None:
        argv += ["-cpu", cpu]
    if config.smp is not None:
        argv += ["-smp", str(config.smp)]
    if config.memory is not None:
        argv += ["-m", _memory(config.memory)]
    argv += timing_argv(config)
    if config.name is not None:
        argv += ["-name", _join("", {"guest": config.name})]
    if config.uuid is not None:
        argv += ["-uuid", config.uuid]
    for flag, value in (
        ("-bios", config.firmware),
        ("-kernel", config.kernel),
        ("-initrd", config.initrd),
        ("-append", config.append),
    ):
        if value is not None:
            argv += [flag, os.fspath(value)]
    for number, drive in enumerate(config.drives):
        argv += _drive_arguments(_drive(drive), number, machine)
    for device in config.devices:
        argv += ["-device", _device_option(device)]
    display = display_device(config.display, arch, machine)
    if display is not None:
        argv += ["-device", display]
    argv += network_argv(config, arch, machine, links)
    for number in range(1, config.hotplug_slots + 1 if _needs_ports(arch, machine) else 1):
        values = {"id": f"hotplug-slot{number}", "chassis": _FIRST_CHASSIS + number}
        argv += ["-device", _join("pcie-root-port", values)]
    for name, fd in monitors.items():
        # Not -mon, of which QEMU 11.1 warns at every start.
        argv += ["-chardev", option("socket", id=name, fd=fd), "-qmp", f"chardev:{name}"]
    for number, (name, fd) in enumerate(consoles.items()):
        argv += ["-chardev", option("socket", id=name, fd=fd)]
        argv += serial_port(arch, machine, number, name)
    if agent is not None:
        argv += ["-chardev", option("socket", id=AGENT, fd=agent)]
        argv += ["-device", virtio_device(arch, machine, "virtio-serial")]
        port = {"chardev": AGENT, "name": "org.qemu.guest_agent.0", "id": f"{AGENT}-port"}
        argv += ["-device", _join("virtserialport", port)]
    if config.incoming:
        argv += ["-incoming", "defer"]
    if config.paused or starts_held(config):
        argv.append("-S")
    return (*argv, *config.args)


def _needs_ports(arch: str, machine: str | None) -> bool:
    """True if the machine's root bus is PCI Express, which takes no device at run time."""
    name = (machine or "").partition(",")[0]
    if arch in ("x86_64", "i386"):
        return not name.startswith("pc") or name.startswith("pc-q35")
    return arch in ("aarch64", "arm", "loongarch64", "riscv32", "riscv64")


def _memory(memory: str | int) -> str:
    size = memory_bytes(memory)
    return str(size // _MIB) if size % _MIB == 0 else f"{size}b"


def _drive(drive: Drive | str | os.PathLike[str]) -> Drive:
    return drive if isinstance(drive, Drive) else Drive(drive)


def _drive_arguments(drive: Drive, number: int, machine: str | None) -> list[str]:
    if drive.interface != "virtio" or not (machine or "").startswith("microvm"):
        return ["-drive", _drive_option(drive)]
    # QEMU itself would plug it into PCI, which such a machine has not.
    name = drive.id or f"virtio{number}"
    plain = replace(drive, interface="none", id=name)
    return ["-drive", _drive_option(plain), "-device", option("virtio-blk-device", drive=name)]


def _drive_option(drive: Drive) -> str:
    layers = drive.top_options() if isinstance(drive, LayeredDrive) else {}
    if not layers and not os.fspath(drive.path) and drive.size is not None:
        # One that is made at the start, which the fake has not.
        empty = {"driver": "null-co", "size": disk_bytes(drive.size)}
        return _join("", {"if": drive.interface, "id": drive.id, **empty})
    # An absolute path can't be taken for a protocol (nbd:…), which QEMU looks for before a colon.
    return _join(
        "",
        {
            "if": drive.interface,
            "id": drive.id,
            "format": drive.image_format(),
            "readonly": True if drive.read_only else None,
            "snapshot": True if drive.snapshot else None,
            "file": os.path.abspath(drive.path),
            **layers,
        },
    )


def _device_option(device: str | Mapping[str, Any]) -> str:
    if isinstance(device, str):
        return device
    values = dict(device)
    driver = values.pop("driver", None)
    if not isinstance(driver, str):
        raise VMConfigError(f"a device names its driver, as in {{'driver': 'e1000'}}: {device!r}")
    for name in (driver, *values):
        if not isinstance(name, str) or "=" in name or ("," in name and name is not driver):
            raise VMConfigError(f"{name!r} is no name of a driver or of a property: {device!r}")
    return _join(driver.replace(",", ",,"), values)
