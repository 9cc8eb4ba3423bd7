"""What stands behind devices: block nodes, netdevs, chardevs, objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .block_devices import attach_device, property_owner
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
        elif description.startswith("Node name") and value:
            block = self._machine.block
            if value not in block.backends.by_drive and block.graph.find(value) is None:
                owner = property_owner(driver) or owner
                raise CommandFailed(f"Property '{owner}.{name}' can't find value '{value}'")

    def _check_chardev(self, name: str, label: str) -> None:
        if label not in self._machine.chardevs:
            raise CommandFailed(f"Property '{name}' can't find value '{label}'")
        if self._machine.chardevs[label].users:
            taken = f"Device '{label}' is in use"
            if self._machine.dialect.version >= (10, 0, 0):
                taken = f"chardev '{label}' is already in use"
            raise CommandFailed(f"Property '{name}' can't take value '{label}': {taken}")

    def attach(
        self,
        device: Node,
        values: Mapping[str, Any],
        device_id: str | None,
    ) -> None:
        """A device is there: what it was given is in use.

        Args:
            device: its place in the tree is known, but it need not be there yet.
            values: the properties that it was given.
            device_id: None without one.
        """
        self._machine.screen.plug(device.path, device.kind)
        if device.kind != "nvme" or values.get("drive"):
            attach_device(self._machine.block, device.kind, device.path, device_id, values)
        types = self._machine.objects.tree.types
        known = types.properties(device.kind)
        for name, value in values.items():
            kind = known[name]["type"]
            if kind.startswith("link<"):
                device.set_value(name, self._machine.objects.tree.link(name, kind[5:-1], value))
            elif known[name].get("description", "").startswith("ID of a chardev") and value:
                self._machine.chardevs.attach(value, device.path, device.kind)
        if "mac" in known and "netdev" in known:
            mac = values.get("mac") or self._machine.network.free_mac()
            device.set_value("mac", mac)
            netdev = values.get("netdev", "")
            self._machine.network.plug(device_id, device.kind, device.path, mac, netdev)

    def detach(self, device: Node) -> None:
        """A device goes: what it was given is free."""
        self._machine.screen.unplug(device.path)
        self._machine.network.unplug(device.path)
        self._machine.block.detach(device.path)
        self._machine.chardevs.detach(device.path)
