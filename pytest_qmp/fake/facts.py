"""What a real QEMU said about its types, machines, devices, objects and CPUs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

__all__ = ["TypeFacts", "failed", "load_facts", "load_types"]


@functools.cache
def load_facts(version: str, part: str) -> dict[str, Any]:
    """One part of the facts of a version, read once in the life of the process.

    They are shared: who changes anything makes a copy. ``scripts/record_facts.py`` writes them.
    """
    # Most fakes are never asked for any, and start sooner so.
    import json
    import lzma

    path = Path(__file__).with_name("facts") / f"{version}-{part}.json.xz"
    # Members are in QEMU's order; made in the opposite one, they are sent in QEMU's again.
    facts: dict[str, Any] = json.loads(
        lzma.decompress(path.read_bytes()), object_pairs_hook=lambda pairs: dict(pairs[::-1])
    )
    return facts


@functools.cache
def load_types(version: str) -> TypeFacts:
    """The QOM types of a version."""
    return TypeFacts(load_facts(version, "types"))


def failed(answer: Any) -> tuple[str, str] | None:
    """The class and description of a recorded error; None for a recorded value.

    A question on which the recorded QEMU ended counts as one for a type that isn't there: it
    ends that way where the module with the type isn't installed.
    """
    if isinstance(answer, dict) and len(answer) == 1:
        if "error" in answer:
            return answer["error"][0], answer["error"][1]
        if "abort" in answer:
            return "DeviceNotFound", ""
    return None


class TypeFacts:
    """QOM's types: what is what, and which properties there are.

    Args:
        facts: as recorded.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        self.all: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in facts["types"]}
        self._properties: list[dict[str, Any]] = facts["properties"]
        # Recorded are all that implement a type, also those that inherit it.
        self._implementers = {
            name: frozenset(found)
            for name, found in facts["implementers"].items()
            if isinstance(found, list)
        }

    def is_abstract(self, name: str) -> bool:
        """Whether there are no objects of just that type."""
        return bool(self.all[name].get("abstract", False))

    def is_a(self, name: str, ancestor: str) -> bool:
        """Whether a type is another one, descends from it or implements it."""
        current: str | None = name
        while current is not None:
            if current == ancestor:
                return True
            current = self.all.get(current, {}).get("parent")
        return name in self._implementers.get(ancestor, ())

    def listed(self, command: str, name: str) -> Any:
        """What ``device-list-properties`` or ``qom-list-properties`` says of a type."""
        answer = self._facts[command][name]
        if isinstance(answer, list):
            return [self._properties[number] for number in answer]
        return answer

    def properties(self, name: str) -> dict[str, dict[str, Any]]:
        """The properties of a device type that can be given to ``device_add``."""
        listed = self.listed("device-list-properties", name)
        return {} if failed(listed) else {entry["name"]: entry for entry in listed}
