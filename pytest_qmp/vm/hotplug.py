"""Devices that come and go while the guest runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pytest_qmp.errors import QMPCommandError, QMPTimeoutError, VMHotplugError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.events import EventMatcher, QMPEvent
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import nearest
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.commands import MachineCommands, sooner
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.progress import progress

__all__ = ["MachineHotplug"]

_PERIPHERAL = "/machine/peripheral"
_EVENTS = (
    "DEVICE_DELETED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    "MEM_UNPLUG_ERROR",
    "ACPI_DEVICE_OST",
)
# A guest that still boots does not hear the first request; QEMU takes another after 1 s to 5 s.
_FIRST_REPEAT_SECONDS = 1.0
_LAST_REPEAT_SECONDS = 5.0
# Of ACPI's _OST: an ejection was asked for, by the hardware or by the guest itself.
_EJECTION = frozenset({3, 0x103})
_OST_WORDS = {
    1: "it failed",
    2: "it does not know what was asked",
    0x80: "it has no driver that could",
    0x81: "the device is in use",
    0x82: "the device is busy",
    0x83: "another device depends on it",
}
_GOES_ON = frozenset({0, 0x84, 0x85})


class MachineHotplug(MachineCommands):
    """Plugs devices of ``VirtualMachine`` in and out.

    Args:
        config: what to start.
        backend: what runs it.
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self._plugged = 0

    def hotplug(
        self,
        driver: str,
        /,
        id: str | None = None,
        *,
        timeout: Timeout = DEFAULT,
        **properties: Any,
    ) -> str:
        """Plugs a device in (``device_add``).

        When it returns, the machine has the device; the guest may take a moment to use it. A PCI
        device without a ``bus`` takes a free ``pcie-root-port`` where the root bus takes none
        (see ``VMConfig.hotplug_slots``), and a CPU without a place the first free one.

        Args:
            driver: such as ``virtio-net-pci``, ``usb-tablet``, ``pc-dimm``.
            id: for ``unplug()``; None chooses one.
            timeout: seconds.
            properties: of the device; ``_`` in a name stands for ``-``, unless the device spells
                that property with it.

        Returns:
            The id.

        Raises:
            VMHotplugError: there is no place for it; the text says how to make one.
            QMPCommandError: QEMU refused it.
            QMPTimeoutError: QEMU does not answer.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        given = {
            self._property(driver, name, deadline): value for name, value in properties.items()
        }
        if id is None:
            self._plugged += 1
            name = re.sub(r"[^\w.-]", "-", driver, flags=re.ASCII)
            id = f"{name if name[:1].isalpha() else f'device-{name}'}-{self._plugged}"
        device = {"driver": driver, "id": id, **given}
        if driver.endswith("-cpu") and not any(name.endswith("-id") for name in given):
            device = {**self._free_cpu(driver, deadline), **device}
        try:
            self._add(device, deadline)
        except QMPCommandError as error:
            bus = re.fullmatch(r"Bus '(.+)' does not support hotplugging", error.desc)
            if bus is None or "bus" in given:
                raise
            port = next(self._free_ports(deadline), None)
            if port is None:
                raise self._no_port(driver, bus[1]) from None
            self._add({**device, "bus": port}, deadline)
        return id

    def _add(self, device: dict[str, Any], deadline: Deadline) -> None:
        __tracebackhide__ = True
        try:
            self.qmp.execute("device_add", device, timeout=deadline)
        except QMPCommandError as error:
            error.hint = error.hint or self._hint(device["driver"], error.desc, deadline)
            raise

    def unplug(self, id: str, timeout: Timeout = DEFAULT) -> QMPEvent | None:
        """Unplugs a device (``device_del``) and waits until it has gone.

        Most devices go when the guest lets them: it is asked, and asked again until it listens.
        The event is only looked at: ``wait_for_event("DEVICE_DELETED")`` still finds it.

        Args:
            id: the device's, or its path in QOM.
            timeout: seconds for the whole wait.

        Returns:
            The DEVICE_DELETED event; None if the device has gone and QEMU does not tell, as of a
            CPU under TCG.

        Raises:
            VMHotplugError: the guest would not let it go, or does not run and so can't.
            QMPCommandError: QEMU refused it, as there is no such device, or it can't be unplugged.
            QMPTimeoutError: the guest has not answered.
            VMVerdictError: something happened to the machine meanwhile.
        """
        __tracebackhide__ = True
        deadline = self._deadline(timeout)
        since = self.events.total
        matcher = EventMatcher(_EVENTS, lambda event: _answers(event, id))
        refusal = self._ask(id, deadline)
        status = str(self.qmp.execute("query-status", timeout=deadline)["status"])
        # What needs no guest has gone by now, though the event may lag behind.
        found = self.events.find(matcher, since)
        if found is None and status != "running" and self._is_there(id, deadline):
            raise VMHotplugError(
                f"{self} can't let go of {id!r} while its run state is {status!r}: the guest has "
                "to agree, and does not run. The request stays: let it run with cont(), and call "
                "unplug() again",
                device=id,
            )
        repeat = _FIRST_REPEAT_SECONDS
        with progress(f"unplugging {id} from {self.label}"):
            while found is None:
                found = self._await_answer(matcher, since, sooner(deadline, repeat))
                if found is not None:
                    break
                if deadline.expired:
                    raise self._unanswered(id, deadline, refusal)
                if not self._is_there(id, deadline):
                    # It has gone, and QEMU forgets to say so: of a CPU under TCG.
                    return None
                refusal = self._ask(id, deadline) or refusal
                repeat = min(2 * repeat, _LAST_REPEAT_SECONDS)
        event = found[1]
        if event.name != "DEVICE_DELETED":
            raise self._refused(id, event)
        return event

    def _await_answer(
        self, matcher: EventMatcher, since: int, deadline: Deadline
    ) -> tuple[int, QMPEvent] | None:
        __tracebackhide__ = True
        while True:
            events = self.events
            seen = events.total
            found = events.find(matcher, since)
            if found is not None or deadline.expired:
                return found
            self.qmp.wait_for_news(seen, deadline)

    def _ask(self, id: str, deadline: Deadline) -> str:
        """Has the guest asked to let a device go; why QEMU did not ask it again, if it did not."""
        __tracebackhide__ = True
        try:
            self.qmp.execute("device_del", {"id": id}, timeout=deadline)
        except QMPCommandError as error:
            if "in the process of unplug" in error.desc or "guest is busy" in error.desc:
                return error.desc
            if "not found" in error.desc:
                known = [name for name, _ in self._devices(deadline)]
                error.hint = error.hint or (
                    f"The devices with an id are: {', '.join(known) or 'none'}{nearest(id, known)}"
                )
            raise
        return ""

    def _is_there(self, id: str, deadline: Deadline) -> bool:
        __tracebackhide__ = True
        path = id if id.startswith("/") else f"{_PERIPHERAL}/{id}"
        try:
            self.qmp.execute("qom-list", {"path": path}, timeout=deadline)
        except QMPCommandError:
            return False
        return True

    # -- places ------------------------------------------------------------------------------------

    def _devices(self, deadline: Deadline) -> Iterator[tuple[str, str]]:
        """The devices with an id, and their types."""
        __tracebackhide__ = True
        for one in self.qmp.execute("qom-list", {"path": _PERIPHERAL}, timeout=deadline):
            kind = re.fullmatch(r"child<(.+)>", one["type"])
            if kind is not None:
                yield one["name"], kind[1]

    def _free_ports(self, deadline: Deadline) -> Iterator[str]:
        __tracebackhide__ = True
        for name, kind in self._devices(deadline):
            if kind != "pcie-root-port":
                continue
            # A port's bus has its name. QEMU before 8 takes a second device there, which no
            # guest would ever see.
            path = f"{_PERIPHERAL}/{name}/{name}"
            on_bus = self.qmp.execute("qom-list", {"path": path}, timeout=deadline)
            if not any(one["name"].startswith("child[") for one in on_bus):
                yield name

    def _no_port(self, driver: str, bus: str) -> VMHotplugError:
        slots = self.config.hotplug_slots
        why = (
            f"all {slots} of its hotplug_slots are taken: unplug a device, or have more of them"
            if slots
            else "it has no hotplug_slots"
        )
        return VMHotplugError(
            f"{self} can't take a {driver!r} while it runs: its root bus {bus!r} takes devices "
            f"only at the start, and {why}. VMConfig(hotplug_slots={slots + 2}) gives the machine "
            "PCI Express ports for them; bus= names one of your own; machine='pc' needs none"
        )

    def _free_cpu(self, driver: str, deadline: Deadline) -> dict[str, Any]:
        """The first place for a CPU that is not taken."""
        __tracebackhide__ = True
        places = self.qmp.execute("query-hotpluggable-cpus", timeout=deadline)
        for place in reversed(places):
            if "qom-path" not in place:
                return dict(place["props"])
        raise VMHotplugError(
            f"{self} can't take a {driver!r}: it has {len(places)} places for CPUs, and all are "
            f"taken. VMConfig(smp='{len(places)},maxcpus={2 * len(places)}') gives it more"
        )

    # -- names -------------------------------------------------------------------------------------

    def _property(self, driver: str, name: str, deadline: Deadline) -> str:
        """A property as the device spells it: most have dashes, some underscores."""
        __tracebackhide__ = True
        name = name[:-1] if name.endswith("_") else name
        if "_" in name and name in self._properties(driver, deadline):
            return name
        return name.replace("_", "-")

    def _properties(self, driver: str, deadline: Deadline) -> list[str]:
        __tracebackhide__ = True
        try:
            listed = self.qmp.execute(
                "device-list-properties", {"typename": driver}, timeout=deadline
            )
        except QMPCommandError:
            return []  # No such device, or another name of one: device_add knows.
        return [str(one["name"]) for one in listed]

    def _hint(self, driver: str, desc: str, deadline: Deadline) -> str:
        __tracebackhide__ = True
        lacking = re.fullmatch(r"Property '.+\.(.+)' not found", desc)
        if lacking is not None:
            known = self._properties(driver, deadline)
            return f"{driver} has no property {lacking[1]!r}{nearest(lacking[1], known)}"
        if "is not a valid device model name" in desc:
            types = self.qmp.execute(
                "qom-list-types", {"implements": "device", "abstract": False}, timeout=deadline
            )
            known = [str(one["name"]) for one in types]
            return f"This QEMU has no device {driver!r}{nearest(driver, known)}"
        return ""

    # -- what is said ------------------------------------------------------------------------------

    def _refused(self, id: str, event: QMPEvent) -> VMHotplugError:
        info = event.data.get("info", {})
        why = str(event.data.get("msg", ""))
        if event.name == "ACPI_DEVICE_OST":
            status = int(info.get("status", 0))
            why = _OST_WORDS.get(status, f"status {status:#x}")
        return VMHotplugError(
            f"the guest of {self} does not let go of {id!r}"
            + (f": {why}" if why else "")
            + f" ({event.name}). Have the guest stop using it, and call unplug() again"
            + self._shown_console(),
            device=id,
        )

    def _unanswered(self, id: str, deadline: Deadline, refusal: str) -> QMPTimeoutError:
        again = f" It was asked more than once; QEMU said last: {refusal}." if refusal else ""
        return QMPTimeoutError(
            f"waited {deadline.words} for the guest of {self} to let go of {id!r}, in vain: it has "
            f"not answered.{again} The guest has to have booted, with a driver for hotplug (ACPI, "
            f"or PCI Express's own), and nothing in it may use the device.{self._shown_console()}"
        )


def _answers(event: QMPEvent, id: str) -> bool:
    """Whether an event is the answer to the request to let a device go."""
    data = event.data
    if event.name == "ACPI_DEVICE_OST":
        info = data.get("info", {})
        refuses = info.get("source") in _EJECTION and info.get("status") not in _GOES_ON
        return bool(refuses and info.get("device") == id)
    return id in (data.get("device"), data.get("path"))
