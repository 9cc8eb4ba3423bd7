"""What stands behind devices: block nodes, netdevs, chardevs, objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .block_devices import attach_device
from .qom_tree import Node
from .replies import CommandFailed

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Backends"]


class Backends:
    """Ties devices to what they were given, and frees it when they go.

    Args:
        machine: their machine.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def check(self, driver: str, name: str, value: Any, owner: str) -> None:
        """CommandFailed if a property can't have what it names.

        Args:
            driver: the type of the device.
            name: of the property.
            value: of the property.
            owner: the type that the property belongs to.
        """
        tree = self._machine.objects.tree
        entry = tree.types.properties(driver)[name]
        description = entry.get("description", "")
        if entry["type"].startswith("link<"):
            tree.link(name, entry["type"][5:-1], value)
        elif description.startswith("ID of a netdev") and value:
            self._machine.network.check_free(owner, value)
        elif description.startswith("ID of a chardev") and value:
            self._check_chardev(f"{owner}.{name}", value)

    def _check_chardev(self, name: str, label: str) -> None:
        if label not in self._machine.chardevs:
            raise CommandFailed(f"Property '{name}' can't find value '{label}'")
        if self._machine.chardevs[label].users:
            raise CommandFailed(f"Property '{name}' can't take value '{label}', it's in use")

    def attach(self, device: Node, values: Mapping[str, Any], device_id: str | None) -> None:
        """A device is there: what it was given is in use."""
        attach_device(self._machine.block, device.kind, device.path, device_id, values)
        types = self._machine.objects.tree.types
        known = types.properties(device.kind)
        for name, value in values.items():
            kind = known[name]["type"]
            if kind.startswith("link<"):
                device.set_value(name, self._machine.objects.tree.link(name, kind[5:-1], value))
        if "mac" in known and "netdev" in known:
            mac = values.get("mac") or self._machine.network.free_mac()
            device.set_value("mac", mac)
            netdev = values.get("netdev", "")
            self._machine.network.plug(device_id, device.kind, device.path, mac, netdev)

    def detach(self, device: Node) -> None:
        """A device goes: what it was given is free."""
        self._machine.network.unplug(device.path)
        self._machine.block.detach(device.path)

    def place(self, device: Node, bus: Node, others: list[Node], values: Mapping[str, Any]) -> None:
        """Gives a device its place on a bus that is not PCI; CommandFailed if there is none."""
