"""The devices of a machine: added, asked to go, gone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .cpu_places import check_cpu_place
from .device_backends import Backends
from .device_buses import Buses
from .device_places import Places
from .device_rules import check_numbers, check_only_one, check_pci, lacks
from .device_values import given_values
from .emitter import hash_ordered
from .facts import failed, load_facts
from .identifiers import is_identifier
from .memory_devices import MemorySlots
from .options import parse_value
from .property_values import as_text
from .qom_tree import Node, build, not_found
from .replies import CommandFailed, NotModelled

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Devices"]

_DUT = "/machine/peripheral/dut"
_SINCE_TYPES_COUNT = (9, 2, 0)
#: Handlers of hot-plugging that ask the guest to let a device go.
_ASKS_GUEST = ("PIIX4_PM", "ICH9-LPC", "pci-bridge", "pcie-slot")
#: Other names of device types.
_ALIASES = {
    "ahci": "ich9-ahci",
    "ac97": "AC97",
    "es1370": "ES1370",
    "e1000-82540em": "e1000",
    "lsi": "lsi53c895a",
    "virtio-input-host": "virtio-input-host-pci",
}


class Devices:
    """What stands under ``/machine/peripheral`` and ``/machine/peripheral-anon``.

    Args:
        machine: their machine, with its objects, its block layer, its chardevs and its network.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._version = machine.dialect.version
        self._buses: Buses | None = None
        self._backends = Backends(machine)
        self._memory = MemorySlots(machine)
        self._leaving: dict[str, bool] = {}
        self._asked_by_acpi: dict[str, bool] = {}
        self._anonymous = 0
        self._named_buses: dict[str, int] = {}
        self._started = False

    @property
    def buses(self) -> Buses:
        """The buses; the devices of the command line are made when they are first asked for."""
        if self._buses is None:
            tree = self._machine.objects.tree
            self._buses = Buses(tree, self._version)
            self._places = Places(tree.types, self._buses)
        return self._buses

    def start(self) -> None:
        """Makes the devices of the command line, unless that is done."""
        if self._started:
            return
        self._started = True
        given = [text for option, text in self._machine.options.pairs if option == "device"]
        # QEMU makes those that are written as JSON after all others.
        for text in sorted(given, key=lambda text: text.startswith("{")):
            self._start_one(text)

    def add(self, arguments: Mapping[str, Any]) -> None:
        """Plugs a device in; CommandFailed as ``device_add`` fails."""
        self.start()
        strict = self._version >= _SINCE_TYPES_COUNT
        given = dict(arguments)
        if not strict:
            given = {key: text for key in given if (text := as_text(arguments[key])) is not None}
            name = given.get("id") if isinstance(arguments.get("id"), str) else None
            given.pop("id", None)
            if name is not None:
                if not is_identifier(name):
                    raise CommandFailed("Parameter 'id' expects an identifier")
                given["id"] = name
        self._plug(given, strict=strict, hotplugged=True)

    def remove(self, name: str) -> None:
        """Asks for a device to go; CommandFailed as ``device_del`` fails."""
        self.start()
        device = self.find(name)
        path = device.path
        if path in self._leaving and not self._machine.running:
            raise CommandFailed(f"Device {name} is already in the process of unplug")
        bus = self.buses.of(device)
        if bus is not None and not self.buses.hotpluggable(bus):
            raise CommandFailed(f"Bus '{self.buses.name(bus)}' does not support hotplugging")
        if device.value("hotpluggable") is False:
            raise CommandFailed(f"Device '{device.kind}' does not support hotplugging")
        if bus is None:
            if self._is_a(device.kind, "cpu"):
                raise CommandFailed("Boot CPU is unpluggable")
            # Memory: the guest is asked each time, and a reset does not take it away.
            self._asked_by_acpi[path] = True
            return
        handler = self._machine.objects.tree.lookup(str(bus.value("hotplug-handler")))
        kind = handler.kind if isinstance(handler, Node) else ""
        is_port = self._is_a(kind, "pcie-port") and kind in self._machine.objects.tree.types.all
        if is_port and not self._machine.running:
            # Nothing has switched the slot on, so it is free at once, with all that is in it.
            for one in self.buses.devices(bus)[::-1]:
                self.unplug(one)
        elif kind in _ASKS_GUEST or is_port:
            self._leaving[path] = True
        else:
            self.unplug(device)

    def leaving(self) -> list[str]:
        """The paths of devices that the guest was asked to let go, in order."""
        return [*self._leaving, *self._asked_by_acpi]

    def accept(self, name: str) -> bool:
        """The guest lets a device go; False if it was not asked to."""
        path = self._path_of(name)
        if not self.is_leaving(name):
            return False
        self.unplug(self._machine.objects.tree.at(path))
        return True

    def is_leaving(self, name: str) -> bool:
        """Whether the guest was asked for a device."""
        return self._path_of(name) in (*self._leaving, *self._asked_by_acpi)

    def keep(self, name: str, *, tell: bool) -> None:
        """The guest does not let a device go, and tells so or not; a new request is needed."""
        path = self._path_of(name)
        self._leaving.pop(path, None)
        self._asked_by_acpi.pop(path, None)
        if tell:
            named = {} if "peripheral-anon" in path else {"device": path.rpartition("/")[2]}
            self._machine.emit("DEVICE_UNPLUG_GUEST_ERROR", {**named, "path": path})

    def reset(self) -> None:
        """The machine is reset: what was to go goes."""
        for path in list(self._leaving):
            found = self._machine.objects.tree.lookup(path)
            if not isinstance(found, Node):
                continue
            # Firmware never lets go of a bridge that was there from the start.
            if found.value("hotplugged") or not self._is_a(found.kind, "base-pci-bridge"):
                self.unplug(found)
        self._leaving.clear()

    def all(self) -> Iterator[Node]:
        """The devices that the user made, those with an id first."""
        for holder in ("peripheral", "peripheral-anon"):
            yield from self._container(holder).children.values()

    def unplug(self, device: Node) -> None:
        """A device goes, with all that is on its buses; events tell of it after the reply."""
        for bus in [node for node in device.walk() if self._is_a(node.kind, "bus")]:
            for child in self.buses.devices(bus):
                if child.parent is not None and child.parent.name.startswith("peripheral"):
                    self.unplug(child)
        inner = [node for node in device.walk() if self._is_a(node.kind, "device")]
        gone = [(node.path, None) for node in inner[:0:-1]]
        anonymous = device.parent is not None and device.parent.name == "peripheral-anon"
        gone_last = (device.path, None if anonymous else device.name)
        self._leaving.pop(device.path, None)
        self._asked_by_acpi.pop(device.path, None)
        self.buses.detach(device)
        self._backends.detach(device)
        if device.parent is not None:
            device.parent.remove(device.name)

        def tell() -> None:
            for path, name in [*gone, gone_last]:
                data = {"path": path} if name is None else {"device": name, "path": path}
                self._machine.emit("DEVICE_DELETED", data)

        self._machine.clock.call_soon(tell)

    def _plug(self, given: dict[str, Any], *, strict: bool, hotplugged: bool) -> Node:
        driver = given.pop("driver", None)
        if not isinstance(driver, str):
            raise CommandFailed("Parameter 'driver' is missing")
        driver, facts = self._class(driver, hotplugged)
        path = given.pop("bus", None)
        bus = self.buses.choose(driver, path if isinstance(path, str) else None)
        if hotplugged:
            self._check_hotplug(bus, facts)
        name = given.pop("id", None)
        name = name if isinstance(name, str) else None
        self._check_id(name)
        types = self._machine.objects.tree.types
        order = {key: given[key] for key in hash_ordered(given)}
        owners = self._owners(facts)
        values = given_values(types, driver, order, strict=strict, owners=owners)
        for key, value in values.items():
            self._backends.check(driver, key, value, owners.get(key, driver))
        if types.is_a(driver, "cpu"):
            check_cpu_place(driver, values, self._machine.options, self._cpu_type(driver))
            raise NotModelled("CPUs that are plugged in")
        node = self._make(driver, facts, name, values, bus, hotplugged)
        self._realize(node, facts, values, bus, name, hotplugged)
        return node

    def _check_hotplug(self, bus: Node | None, facts: Mapping[str, Any]) -> None:
        """CommandFailed if the bus, or the device, is there from the start or not at all."""
        refused = failed(facts.get("hot", {}).get("bare"))
        device = re.match(r"Device '.*(hotplugg|can not be)", refused[1]) if refused else None
        if device and refused and self._version >= (10, 0, 0):
            raise CommandFailed(refused[1], refused[0])
        if bus is not None and not self.buses.hotpluggable(bus):
            raise CommandFailed(f"Bus '{self.buses.name(bus)}' does not support hotplugging")
        if device and refused:
            raise CommandFailed(refused[1], refused[0])

    def _class(self, name: str, hotplugged: bool) -> tuple[str, dict[str, Any]]:
        types = self._machine.objects.tree.types
        driver = name
        if name not in types.all or not types.is_a(name, "device"):
            driver = _ALIASES.get(name, f"{name}-pci" if name.startswith("virtio-") else name)
        if driver not in types.all or not types.is_a(driver, "device"):
            raise CommandFailed(f"'{name}' is not a valid device model name")
        if types.is_abstract(driver):
            raise CommandFailed("Parameter 'driver' expects a non-abstract device type")
        if types.is_a(driver, "cpu"):
            self._cpu_type(driver)
        facts = load_facts(self._machine.dialect.name, "devices").get(driver, {})
        refused = failed(facts.get("hot", {}).get("bare")) if hotplugged else None
        if refused and refused[1].startswith("Parameter 'driver' expects"):
            raise CommandFailed(refused[1], refused[0])
        return driver, facts

    def _cpu_type(self, driver: str) -> str:
        """The type of the machine's CPUs; CommandFailed if none can be added."""
        cpus = self._machine.objects.tree.facts["queries"]["query-hotpluggable-cpus"]
        if not isinstance(cpus, list) or not cpus:
            raise CommandFailed(f"Device '{driver}' can not be hotplugged on this machine")
        for option, text in self._machine.options.pairs:
            if option == "cpu":
                return f"{text.partition(',')[0]}-x86_64-cpu"
        return str(cpus[0]["type"])

    def _check_id(self, name: str | None) -> None:
        if name is None:
            return
        if self._version >= (11, 0, 0) and not is_identifier(name):
            raise CommandFailed(f"Invalid qdev ID '{name}'")
        if name in self._container("peripheral").order:
            raise CommandFailed(f"Duplicate device ID '{name}'")

    def _owners(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """The type that a property belongs to, where that is a part of the device."""
        rows = self._recorded(facts).get(_DUT, [])
        owners = {}
        for row in rows:
            refused = failed(row[3]) if len(row) > 3 else None
            found = re.search(r"\(type '([^']+)'\)", refused[1]) if refused else None
            if found:
                owners[row[0]] = found[1]
        return owners

    def _recorded(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        found = facts.get("hot", {}).get("tree") or facts.get("cold", {}).get("tree") or {}
        return dict(found)

    def _make(
        self,
        driver: str,
        facts: Mapping[str, Any],
        name: str | None,
        values: Mapping[str, Any],
        bus: Node | None,
        hotplugged: bool,
    ) -> Node:
        shown = name if name is not None else f"device[{self._anonymous}]"
        holder = "peripheral" if name is not None else "peripheral-anon"
        path = f"/machine/{holder}/{shown}"
        whose = f"device '{name}'" if name is not None else "anonymous device"

        def rename(value: Any) -> Any:
            if isinstance(value, list):
                return list(value)
            if not isinstance(value, str):
                return value
            if value.startswith(_DUT):
                value = path + value[len(_DUT) :]
            return value.replace("device 'dut'", whose).replace("/dut.", f"/{name}.")

        recorded = self._recorded(facts)
        if recorded:
            node = build(recorded, _DUT, shown, rename)
            self._name_buses(node, name)
        else:
            node = self._machine.objects.tree.from_class(driver, shown)
        node.set_value("hotplugged", hotplugged)
        for key, value in values.items():
            node.set_value(key, value)
        return node

    def _name_buses(self, node: Node, name: str | None) -> None:
        for child in [c for c in node.walk() if c.name == "dut" or c.name.startswith("dut.")]:
            if name is not None:
                fresh = name + child.name[3:]
            else:
                kind = child.kind.lower()
                number = self._named_buses.get(kind, 0)
                self._named_buses[kind] = number + 1
                fresh = f"{kind}.{number}"
            (child.parent or node).rename(child, fresh)

    def _realize(
        self,
        node: Node,
        facts: Mapping[str, Any],
        values: Mapping[str, Any],
        bus: Node | None,
        name: str | None,
        hotplugged: bool,
    ) -> None:
        if bus is not None and self._is_a(bus.kind, "PCI"):
            wanted = values.get("addr", -1)
            place = self.buses.pci_place(bus, node.kind, wanted, hotplugged=hotplugged)
            check_pci(node, self.buses.devices(bus), hotplugged=hotplugged)
            node.set_value("addr", place)
            node.set_value("legacy-addr", f"{place >> 3:02x}.{place & 7:x}")
        found = facts.get("hot", {})
        refused = failed(found.get("bare"))
        if self._is_a(node.kind, "pc-dimm"):
            refused = None
            self._memory.check(node, values)
        if refused is not None and "tree" in found:
            if lacks(found.get("with", ()), values, refused[1]):
                raise CommandFailed(refused[1] or f"{node.kind} can't be made", refused[0])
        elif refused is not None and "tree" not in facts.get("cold", {}):
            if values.keys() - {"addr", "multifunction"}:
                raise NotModelled(f"{node.kind} with {', '.join(sorted(values))}")
            raise CommandFailed(refused[1].replace("dut", name or "(null)"), refused[0])
        elif not hotplugged and "stderr" in facts.get("cold", {}):
            raise CommandFailed(facts["cold"]["stderr"])
        holder = self._container("peripheral" if name is not None else "peripheral-anon")
        check_numbers(node, self._version)
        check_only_one(node, [*self.all()])
        node.parent = holder
        self._backends.attach(node, values, name)
        if bus is not None:
            self._places.take(node, bus, values)
        if self._is_a(node.kind, "pc-dimm"):
            self._memory.plug(node, values)
        self._adopt_buses(node)
        if name is None:
            self._anonymous += 1
        holder.add_child(node)
        if bus is not None:
            self.buses.attach(bus, node)

    def _adopt_buses(self, node: Node) -> None:
        """Says who handles plugging on the buses of a bridge, which depends on the machine."""
        tree = self._machine.objects.tree
        if not self._is_a(node.kind, "pcie-port") or not self._acpi_bridges():
            return
        chipset = tree.lookup("/machine/q35/pcie.0/child[1]")
        for bus in self.buses.child_buses(node):
            if node.value("hotplug") is False:
                bus.set_value("hotplug-handler", "")
            elif isinstance(chipset, Node) and bus.value("hotplug-handler"):
                bus.set_value("hotplug-handler", chipset.path)

    def _acpi_bridges(self) -> bool:
        options = [text for option, text in self._machine.options.pairs if option == "global"]
        return not any("acpi-pci-hotplug-with-bridge-support=off" in text for text in options)

    def _start_one(self, text: str) -> None:
        try:
            given = parse_value(text, "driver")
            self._plug(given, strict=text.startswith("{"), hotplugged=False)
        except CommandFailed as failed:
            self._machine.refuse("device", text, failed.desc)
        except (NotModelled, ValueError):
            # Options that are not modelled are accepted, and have no effect.
            return

    def find(self, name: str) -> Node:
        """The device of an id or a path; CommandFailed if there is none."""
        tree = self._machine.objects.tree
        what = "a device" if self._version >= (10, 0, 0) else "a hotpluggable device"
        if not name:
            raise CommandFailed(f" is not {what}")
        if not name.startswith("/"):
            device = self._container("peripheral").children.get(name)
            if device is None:
                raise not_found(name)
            return device
        found = tree.lookup(name)
        if not isinstance(found, Node):
            raise not_found(name)
        if not self._is_a(found.kind, "device"):
            raise CommandFailed(f"{name} is not {what}")
        return found

    def _path_of(self, name: str) -> str:
        return name if name.startswith("/") else f"/machine/peripheral/{name}"

    def _container(self, name: str) -> Node:
        return self._machine.objects.tree.at(f"/machine/{name}")

    def _is_a(self, kind: str, ancestor: str) -> bool:
        return self._machine.objects.tree.types.is_a(kind, ancestor)
