"""What keeps a device from being made although its properties and its place are right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .qom_tree import Node
from .replies import CommandFailed

__all__ = ["check_numbers", "check_only_one", "check_pci", "lacks"]

_ONLY_ONE = {"virtio-balloon-pci": "Only one balloon device is supported"}


def check_numbers(device: Node, version: tuple[int, ...]) -> None:
    """CommandFailed if a number that the device was given is none that it can work with."""
    least = 1 if version >= (8, 0, 0) else 0
    if device.kind.startswith("virtio-rng-") and not least <= device.value("max-bytes") < 1 << 63:
        bound = "positive" if least else "non-negative"
        raise CommandFailed(f"'max-bytes' parameter must be {bound}, and less than 2^63")


def check_pci(device: Node, others: Sequence[Node], *, hotplugged: bool) -> None:
    """CommandFailed if a PCI device clashes with itself or with others on its bus."""
    index = device.value("acpi-index")
    if index and any(other.value("acpi-index") == index for other in others):
        raise CommandFailed(f"a PCI device with acpi-index = {index} already exist")
    if hotplugged and device.value("romfile") and device.value("rombar") == 0:
        raise CommandFailed("Hot-plugged device without ROM bar can't have an option ROM")


def lacks(needed: Iterable[str], given: Collection[str], refusal: str) -> bool:
    """Whether a device that is refused without any properties is so with some, too.

    Args:
        needed: with all of these it was made.
        given: the names of the properties that it has now.
        refusal: the text of the error without any, which may name what was missed.
    """
    missing = [name for name in needed if name not in given]
    named = [name for name in needed if name in refusal]
    return any(name in missing for name in named) if named else bool(missing)


def check_only_one(device: Node, others: Sequence[Node]) -> None:
    """CommandFailed if a machine has one of that kind already and takes no more."""
    for kind, text in _ONLY_ONE.items():
        if device.kind.startswith(kind) and any(other.kind.startswith(kind) for other in others):
            raise CommandFailed(text)
