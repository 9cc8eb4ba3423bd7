"""Places on buses that are not PCI: USB ports, numbers of serial ports, SCSI targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .device_buses import Buses
from .facts import TypeFacts
from .qom_tree import Node
from .replies import CommandFailed

__all__ = ["Places"]

#: Ports of USB controllers and hubs that have no property for it.
_PORTS = {"usb-hub": 8, "pci-uhci-usb": 2, "pci-ehci-usb": 6, "usb-ehci": 6}
_ANY = 2**32 - 1
#: The largest target and the largest LUN of SCSI controllers.
_SCSI_LIMITS = {
    "virtio-scsi-common": (255, 16383),
    "lsi53c895a": (7, 0),
    "am53c974": (7, 7),
    "megasas-base": (64, 255),
    "mptsas1068": (8, 1),
    "pvscsi": (64, 0),
}
#: What USB devices call themselves.
_PRODUCTS = {
    "usb-mouse": "QEMU USB Mouse",
    "usb-kbd": "QEMU USB Keyboard",
    "usb-tablet": "QEMU USB Tablet",
    "usb-hub": "QEMU USB Hub",
    "usb-storage": "QEMU USB MSD",
    "usb-serial": "QEMU USB Serial",
    "usb-braille": "QEMU USB Braille",
    "usb-ccid": "QEMU USB CCID",
    "usb-audio": "QEMU USB Audio",
    "usb-wacom-tablet": "QEMU PenPartner tablet",
    "usb-uas": "QEMU USB Attached SCSI HBA",
}


class Places:
    """Gives devices their places.

    Args:
        types: the QOM types.
        buses: the buses.
    """

    def __init__(self, types: TypeFacts, buses: Buses) -> None:
        self._types = types
        self._buses = buses
        self._own_hubs: dict[str, list[str]] = {}

    def take(self, device: Node, bus: Node, values: Mapping[str, Any]) -> None:
        """Notes the place of a new device; CommandFailed if there is none for it.

        Args:
            device: what is not on the bus yet.
            bus: where it is to go.
            values: the properties that it was given.
        """
        if bus.kind == "virtio-serial-bus":
            self._serial(device, bus, values)
        elif bus.kind == "usb-bus":
            self._usb(device, bus, values)
        elif bus.kind == "SCSI":
            self._scsi(device, bus, values)

    def _serial(self, device: Node, bus: Node, values: Mapping[str, Any]) -> None:
        others = self._buses.devices(bus)
        taken = {other.value("nr") for other in others}
        name = values.get("name", "")
        if name and any(other.value("name") == name for other in others):
            raise CommandFailed(f"virtio-serial-bus: A port already exists by name {name}")
        number = values.get("nr", _ANY)
        console = device.kind == "virtconsole"
        if number in taken:
            raise CommandFailed(f"virtio-serial-bus: A port already exists at id {number}")
        most = self._most_serial(bus)
        if number == _ANY:
            # The first one is a console's.
            number = next(n for n in range(0 if console else 1, most + 1) if n not in taken)
            if number >= most:
                raise CommandFailed("virtio-serial-bus: Maximum port limit for this device reached")
        elif number >= most:
            raise CommandFailed(
                "virtio-serial-bus: Out-of-range port id specified, max. allowed: " + str(most - 1)
            )
        elif number == 0 and not console:
            raise CommandFailed(
                "Port number 0 on virtio-serial devices reserved for virtconsole devices for "
                "backward compatibility."
            )
        device.set_value("nr", number)

    def _most_serial(self, bus: Node) -> int:
        holder = bus.parent
        most = None if holder is None else holder.value("max_ports")
        return most if isinstance(most, int) else 31

    def _usb(self, device: Node, bus: Node, values: Mapping[str, Any]) -> None:
        others = {other.place: other for other in self._buses.devices(bus)}
        ports = [str(number + 1) for number in range(self._ports(bus.parent))]
        hubs = [path for path, other in others.items() if other.kind == "usb-hub"]
        hubs += self._own_hubs.get(bus.path, [])
        for path in hubs:
            ports += [f"{path}.{number + 1}" for number in range(_PORTS["usb-hub"])]
        free = [port for port in ports if port not in others and port not in hubs]
        fast = self._takes_only_high_speed(bus)
        wanted = values.get("port", "")
        if wanted and wanted in free and fast and device.kind == "usb-hub":
            raise CommandFailed(
                f'Warning: speed mismatch trying to attach usb device "{self._product(device)}" '
                f'(full speed) to bus "{bus.name}", port "{wanted}" (high speed)'
            )
        if wanted:
            if wanted not in free:
                raise CommandFailed(f"usb port {wanted} (bus {bus.name}) not found (in use?)")
            device.place = wanted
            return
        if not free:
            raise CommandFailed(
                f"tried to attach usb device {self._product(device)} to a bus with no free ports"
            )
        if len(free) == 1 and not fast and device.kind != "usb-hub":
            # QEMU puts a hub of its own at the last port.
            self._own_hubs.setdefault(bus.path, []).append(free[0])
            free = [f"{free[0]}.1"]
        device.place = free[0]

    def _ports(self, controller: Node | None) -> int:
        if controller is None:
            return 0
        holders = [controller, controller.parent] if controller.parent else [controller]
        for holder in holders:
            counts = [holder.value(name) for name in ("p2", "p3", "num-ports", "ports")]
            known = [count for count in counts if isinstance(count, int)]
            if known:
                return max(known)
        for kind, count in _PORTS.items():
            if self._types.is_a(controller.kind, kind):
                return count
        return 1

    def _product(self, device: Node) -> str:
        return _PRODUCTS.get(device.kind, device.kind)

    def _takes_only_high_speed(self, bus: Node) -> bool:
        controller = bus.parent
        return controller is not None and self._types.is_a(controller.kind, "pci-ehci-usb")

    def _scsi(self, device: Node, bus: Node, values: Mapping[str, Any]) -> None:
        others = self._buses.devices(bus)
        taken = {
            (other.value("channel"), other.value("scsi-id"), other.value("lun")): other
            for other in others
        }
        channel = values.get("channel", 0)
        lun = values.get("lun", -1)
        lun = 0 if lun in (-1, _ANY) else lun
        target = values.get("scsi-id", -1)
        self._check_scsi(bus, channel, target, lun)
        if target in (-1, _ANY):
            target = next(n for n in range(len(taken) + 1) if (channel, n, lun) not in taken)
        elif (channel, target, lun) in taken:
            holder = taken[channel, target, lun]
            raise CommandFailed(f"lun already used by '{holder.name}'")
        for name, value in (("channel", channel), ("scsi-id", target), ("lun", lun)):
            device.set_value(name, value)

    def _check_scsi(self, bus: Node, channel: int, target: int, lun: int) -> None:
        """CommandFailed if the controller has no such place."""
        controller = bus.parent
        limits = [
            _SCSI_LIMITS[kind]
            for kind in _SCSI_LIMITS
            if controller is not None and self._types.is_a(controller.kind, kind)
        ]
        if not limits:
            return
        if channel > 0:
            raise CommandFailed(f"bad scsi channel id: {channel}")
        if target not in (-1, _ANY) and target > limits[0][0]:
            raise CommandFailed(f"bad scsi device id: {target}")
        if lun > limits[0][1]:
            raise CommandFailed(f"bad scsi device lun: {lun}")
