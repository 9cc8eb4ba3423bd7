"""The buses of a machine: which one a device goes on, and at which place of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .qom import ObjectTree
from .qom_tree import Node, Row
from .replies import CommandFailed

__all__ = ["Buses"]

#: The type of bus that devices of a type go on; the first that fits counts.
_BUS_OF = {
    "pci-device": "PCI",
    "usb-device": "usb-bus",
    "isa-device": "ISA",
    "ide-device": "IDE",
    "scsi-device": "SCSI",
    "virtio-device": "virtio-bus",
    "virtio-serial-port": "virtio-serial-bus",
    "ccid-card": "ccid-bus",
    "hda-codec": "HDA",
    "i2c-slave": "i2c-bus",
    "ipack-device": "IndustryPack",
    "floppy": "floppy-bus",
    "sdmmc-common": "sd-bus",
    "sd-card": "sd-bus",
    "nvme-ns": "nvme-bus",
    "ufs-lu": "ufs-bus",
    "xen-device": "xen-bus",
    "vmbus-dev": "vmbus",
    "sys-bus-device": "System",
}
#: How many devices a bus takes, where it is the bus that counts.
_ROOM = {"virtio-bus": 1, "IDE": 2, "floppy-bus": 2, "ccid-bus": 1, "sd-bus": 1}
_CHILD = re.compile(r"child\[(\d+)\]")
_SLOTS = 32
_MAIN = "/machine/unattached/sysbus"


class Buses:
    """Finds buses, and places on them.

    Args:
        tree: the objects of the machine.
        version: of the emulated QEMU.
    """

    def __init__(self, tree: ObjectTree, version: tuple[int, int, int]) -> None:
        self._tree = tree
        self._version = version
        self._next: dict[str, int] = {}

    def kind_for(self, driver: str) -> str | None:
        """The type of bus that a device type goes on; None if it is on none."""
        is_a = self._tree.types.is_a
        return next((bus for device, bus in _BUS_OF.items() if is_a(driver, device)), None)

    def choose(self, driver: str, path: Any) -> Node | None:
        """The bus for a new device; CommandFailed if there is none.

        Args:
            driver: the type of the device.
            path: of the bus, as given; None to look for one.
        """
        kind = self.kind_for(driver)
        if path is not None:
            bus = self._by_path(path)
            if kind is None or not self._tree.types.is_a(bus.kind, kind):
                raise CommandFailed(f"Device '{driver}' can't go on {bus.kind} bus")
            return bus
        if kind is None:
            return None
        found = self._search(self._main(), None, kind)
        if found is not None and self.is_full(found) and self._version >= (11, 0, 0):
            raise CommandFailed(f"A '{kind}' bus was found but is full")
        if found is None or self.is_full(found):
            raise CommandFailed(f"No '{kind}' bus found for device '{driver}'")
        return found

    def hotpluggable(self, bus: Node) -> bool:
        """Whether devices come and go on a bus while the machine is there."""
        if self._tree.types.is_a(bus.kind, "PCIE") and not self._is_behind_port(bus):
            # Since QEMU 11 the root has a handler, which refuses all the same.
            return False
        return bool(bus.value("hotplug-handler"))

    def name(self, bus: Node) -> str:
        """What errors call a bus."""
        return "main-system-bus" if bus.path == _MAIN else bus.name

    def is_full(self, bus: Node) -> bool:
        """Whether a bus takes no more devices."""
        is_a = self._tree.types.is_a
        room = next((room for kind, room in _ROOM.items() if is_a(bus.kind, kind)), None)
        return room is not None and len(self.devices(bus)) >= room

    def devices(self, bus: Node) -> list[Node]:
        """The devices on a bus, the latest first."""
        numbered = [(int(m[1]), name) for name in bus.rows if (m := _CHILD.fullmatch(name))]
        found = (self._tree.lookup(bus.rows[name].value) for _, name in sorted(numbered)[::-1])
        return [node for node in found if isinstance(node, Node)]

    def child_buses(self, device: Node) -> list[Node]:
        """The buses of a device, the latest first."""
        is_bus = self._tree.types.is_a
        names = [name for name, child in device.children.items() if is_bus(child.kind, "bus")]
        return [device.children[name] for name in sorted(names, reverse=True)]

    def attach(self, bus: Node, device: Node) -> None:
        """Puts a device on a bus."""
        numbers = [int(m[1]) for name in bus.rows if (m := _CHILD.fullmatch(name))]
        number = max(self._next.get(bus.path, 0), max(numbers, default=-1) + 1)
        self._next[bus.path] = number + 1
        bus.add_row(f"child[{number}]", Row(f"link<{device.kind}>", device.path, ""))
        device.set_value("parent_bus", bus.path)

    def detach(self, device: Node) -> None:
        """Takes a device off its bus."""
        bus = self.of(device)
        if bus is None:
            return
        path = device.path
        for name in [name for name, row in bus.rows.items() if row.value == path]:
            if _CHILD.fullmatch(name):
                bus.remove(name)

    def of(self, device: Node) -> Node | None:
        """The bus that a device is on."""
        path = device.value("parent_bus")
        found = self._tree.lookup(path) if path else False
        return found if isinstance(found, Node) else None

    def pci_place(self, bus: Node, driver: str, wanted: int, *, hotplugged: bool) -> int:
        """The device and function number (slot * 8 + function) of a new PCI device.

        Args:
            bus: a PCI bus.
            driver: the type of the device.
            wanted: that number, or a negative one for the first free slot.
            hotplugged: the machine is there already.
        """
        taken = {node.value("addr"): node for node in self.devices(bus)}
        single = self._tree.types.is_a(bus.kind, "PCIE") and self._is_behind_port(bus)
        automatic = wanted < 0
        place = wanted
        if automatic:
            free = (slot * 8 for slot in range(_SLOTS))
            place = next((number for number in free if number not in taken), -1)
            if place < 0:
                raise CommandFailed(
                    f"PCI: no slot/function available for {driver}, all in use or reserved"
                )
        elif place in taken:
            holder = taken[place]
            raise CommandFailed(
                f"PCI: slot {place >> 3} function {place & 7} not available for {driver}, "
                f"in use by {holder.kind},id={self._id(holder)}"
            )
        first = taken.get(0 if single else place & ~7)
        checked = not automatic or self._version >= (8, 0, 0)
        if hotplugged and first is not None and checked:
            slot = 0 if single else place >> 3
            raise CommandFailed(
                f"PCI: slot {slot} function 0 already occupied by {first.kind}, new func {driver} "
                "cannot be exposed to guest."
            )
        return place

    def _is_behind_port(self, bus: Node) -> bool:
        parent = bus.parent
        return parent is not None and self._tree.types.is_a(parent.kind, "pcie-port")

    def _id(self, device: Node) -> str:
        parent = device.parent
        named = parent is not None and parent.name == "peripheral"
        return device.name if named else "(null)"

    def _main(self) -> Node:
        return self._tree.at(_MAIN)

    def _search(self, bus: Node, name: str | None, kind: str | None) -> Node | None:
        matches = (name is None or self.name(bus) == name) and (
            kind is None or self._tree.types.is_a(bus.kind, kind)
        )
        if matches and not self.is_full(bus):
            return bus
        picked = bus if matches else None
        for child in self._below(bus):
            found = self._search(child, name, kind)
            if found is not None and not self.is_full(found):
                return found
            picked = picked or found
        return picked

    def _below(self, bus: Node) -> Iterator[Node]:
        for device in self.devices(bus):
            yield from self.child_buses(device)

    def _by_path(self, path: str) -> Node:
        parts = [part for part in path.split("/") if part]
        bus = self._main()
        if not path.startswith("/"):
            first = parts.pop(0) if parts else ""
            found = self._search(bus, first, None)
            if found is None:
                raise CommandFailed(f"Bus '{first}' not found")
            bus = found
        while parts:
            bus = self._step(bus, parts)
        if self.is_full(bus):
            raise CommandFailed(f"Bus '{path}' is full")
        return bus

    def _step(self, bus: Node, parts: list[str]) -> Node:
        name = parts.pop(0)
        device = next((d for d in self.devices(bus) if name in (self._id(d), d.kind)), None)
        if device is None:
            raise CommandFailed(f"Device '{name}' not found", "DeviceNotFound")
        buses = self.child_buses(device)
        if not parts:
            if len(buses) == 1:
                return buses[0]
            state = "has multiple child buses" if buses else "has no child bus"
            raise CommandFailed(f"Device '{name}' {state}")
        wanted = parts.pop(0)
        found = next((child for child in buses if child.name == wanted), None)
        if found is None:
            raise CommandFailed(f"Bus '{wanted}' not found")
        return found
