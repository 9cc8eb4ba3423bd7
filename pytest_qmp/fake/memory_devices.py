"""Memory that is plugged in: the slots of ``-m slots=…,maxmem=…`` and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .machine_size import maximal_memory, memory_size, memory_slots
from .qom_tree import Node
from .replies import CommandFailed

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["MemorySlots", "plugged_memory"]

_ANY = -1
#: Where memory devices begin, behind the hole for PCI.
_BASE = 4 << 30
_ALIGNMENT = 1 << 30
#: Memory of the machine up to here stays below the hole.
_BELOW_HOLE = 3 << 30


def plugged_memory(machine: Machine) -> list[Node]:
    """The memory devices of a machine, by address."""
    tree = machine.objects.tree
    found = [
        node
        for holder in ("peripheral", "peripheral-anon")
        if (place := tree.root.children["machine"].children.get(holder)) is not None
        for node in place.children.values()
        if tree.types.is_a(node.kind, "pc-dimm")
    ]
    return sorted(found, key=lambda node: int(node.value("addr")))


class MemorySlots:
    """Gives memory devices their slots and addresses.

    Args:
        machine: their machine.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def check(self, device: Node, values: Mapping[str, Any]) -> None:
        """CommandFailed if there is no room for a memory device with these properties."""
        machine = self._machine.objects.tree.root.children["machine"]
        if device.kind == "nvdimm" and not machine.value("nvdimm"):
            raise CommandFailed("nvdimm is not enabled: missing 'nvdimm' in '-M'")
        slots = memory_slots(self._machine.options)
        taken = {node.value("slot") for node in plugged_memory(self._machine)}
        wanted = values.get("slot", _ANY)
        if not slots:
            raise CommandFailed("no slots where allocated, please specify the 'slots' option")
        if wanted == _ANY:
            if len(taken) >= slots:
                raise CommandFailed("no free slots available")
        elif not 0 <= wanted < slots:
            raise CommandFailed(f"invalid slot number {wanted}, valid range is [0-{slots - 1}]")
        elif wanted in taken:
            raise CommandFailed(f"slot {wanted} is busy")
        if "memdev" not in values:
            raise CommandFailed("'memdev' property must be set")
        backend = self._backend(values)
        if self._machine.objects.is_used(backend):
            raise CommandFailed(f"can't use already busy memdev: {backend.name}")
        options = self._machine.options
        room = maximal_memory(options) - memory_size(options)
        used = sum(node.value("size") for node in plugged_memory(self._machine))
        if used + backend.value("size") > room:
            raise CommandFailed(
                f"not enough space, currently 0x{used:x} in use of total space for memory "
                f"devices 0x{room:x}"
            )

    def plug(self, device: Node, values: Mapping[str, Any]) -> None:
        """Gives a checked device its slot and its address."""
        others = plugged_memory(self._machine)
        taken = {node.value("slot") for node in others}
        slot = values.get("slot", _ANY)
        if slot == _ANY:
            slot = next(number for number in range(len(taken) + 1) if number not in taken)
        above = max(0, memory_size(self._machine.options) - _BELOW_HOLE)
        base = _BASE + -(-above // _ALIGNMENT) * _ALIGNMENT
        address = base
        size = self._backend(values).value("size")
        for other in others:
            if address + size <= other.value("addr"):
                break
            address = other.value("addr") + other.value("size")
        for name, value in (("slot", slot), ("addr", values.get("addr") or address)):
            device.set_value(name, value)
        device.set_value("size", size)
        device.set_value("node", values.get("node", 0))

    def _backend(self, values: Mapping[str, Any]) -> Node:
        return self._machine.objects.tree.find(values["memdev"])
