"""Commands that ask what the machine is: CPUs, memory, PCI, machine types."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ..facts import failed, load_facts
from ..machine_size import memory_size, topology
from ..memory_devices import plugged_memory
from ..options import parse_value
from ..qom import machine_variant
from ..replies import CommandFailed
from .registry import Context, Registry

commands = Registry()

_BASE_MODEL = "qemu64"


def _recorded(context: Context, query: str) -> Any:
    variant = machine_variant(context.machine.options)
    answer = load_facts(context.dialect.name, "machines")[variant]["queries"][query]
    refused = failed(answer)
    if refused is not None:
        raise CommandFailed(refused[1], refused[0])
    return copy.deepcopy(answer)


def _simple(command: str) -> None:
    @commands.handles(command)
    def answer(context: Context, arguments: Mapping[str, Any]) -> Any:
        return _recorded(context, command)


for _command in ("query-current-machine", "query-kvm", "query-vm-generation-id"):
    _simple(_command)


@commands.handles("query-machines")
def query_machines(context: Context, arguments: Mapping[str, Any]) -> Any:
    more = "-compat" if arguments.get("compat-props") else ""
    return load_facts(context.dialect.name, "machines")[f"query-machines{more}"]


@commands.handles("query-cpu-definitions")
def query_cpu_definitions(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine = "none" if context.machine.options.machine == "none" else "pc"
    return load_facts(context.dialect.name, "cpus")[machine]["definitions"]


@commands.handles("query-cpu-model-expansion")
def query_cpu_model_expansion(context: Context, arguments: Mapping[str, Any]) -> Any:
    facts = load_facts(context.dialect.name, "cpus")
    model = arguments["model"]
    given = model.get("props", {})
    if not isinstance(given, dict):
        if context.dialect.version >= (9, 0, 0):
            raise CommandFailed("Invalid parameter type for 'model.props', expected: object")
        given = {}
    expansions = facts["pc"][arguments["type"]]
    if model["name"] not in expansions:
        raise CommandFailed(f"CPU model '{model['name']}' not found")
    answer = expansions[model["name"]]
    refused = failed(answer)
    if refused is not None:
        raise CommandFailed(refused[1], refused[0])
    props = dict(facts["pool"][number] for number in answer["props"][::-1])
    for name, value in given.items():
        if name not in props:
            raise CommandFailed(f"Property '{model['name']}-x86_64-cpu.{name}' not found")
        props[name] = value
    rest = {key: value for key, value in answer.items() if key not in ("props", "model")}
    return {**rest, "model": {**answer["model"], "props": props}}


@commands.handles("query-cpus-fast")
def query_cpus_fast(context: Context, arguments: Mapping[str, Any]) -> Any:
    bare = _recorded(context, "query-cpus-fast")
    if not bare:
        return []
    cpus = topology(context.machine.options)["cpus"]
    places = list(_places(context))[:cpus]
    kind = _cpu_kind(context)
    if "qom-type" in bare[0]:
        bare[0]["qom-type"] = kind
    return [
        {**bare[0], "cpu-index": number, "thread-id": bare[0]["thread-id"] + number}
        | {"props": place, "qom-path": f"/machine/unattached/device[{_device(number)}]"}
        for number, place in enumerate(places)
    ]


@commands.handles("query-hotpluggable-cpus")
def query_hotpluggable_cpus(context: Context, arguments: Mapping[str, Any]) -> Any:
    bare = _recorded(context, "query-hotpluggable-cpus")
    if not bare:
        return bare
    cpus = topology(context.machine.options)["cpus"]
    answer = []
    for number, place in enumerate(_places(context)):
        entry = {"props": place, "vcpus-count": 1, "type": _cpu_kind(context)}
        if number < cpus:
            entry["qom-path"] = f"/machine/unattached/device[{_device(number)}]"
        answer.append(entry)
    return answer[::-1]


@commands.handles("query-memory-size-summary")
def query_memory_size_summary(context: Context, arguments: Mapping[str, Any]) -> Any:
    answer = _recorded(context, "query-memory-size-summary")
    if answer.get("base-memory"):
        answer["base-memory"] = memory_size(context.machine.options)
    if "plugged-memory" in answer:
        context.machine.devices.start()
        devices = plugged_memory(context.machine)
        answer["plugged-memory"] = sum(device.value("size") for device in devices)
    return answer


@commands.handles("query-memory-devices")
def query_memory_devices(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    answer = []
    for device in plugged_memory(context.machine):
        shown = ("addr", "slot", "node", "memdev", "size", "hotplugged")
        data = {name: device.value(name) for name in shown}
        data["hotpluggable"] = True
        if device.parent is not None and device.parent.name == "peripheral":
            data["id"] = device.name
        kind = "nvdimm" if device.kind == "nvdimm" else "dimm"
        answer.append({"type": kind, "data": data})
    return answer


@commands.handles("query-pci")
def query_pci(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    buses = _recorded(context, "query-pci")
    for bus in buses:
        if bus["bus"] == 0:
            added = list(_added_pci(context))
            every = [*bus["devices"], *added]
            bus["devices"] = sorted(every, key=lambda one: (one["slot"], one["function"]))
    return buses


def _added_pci(context: Context) -> Iterator[dict[str, Any]]:
    """The entries of the devices on the first bus that the user made."""
    facts = load_facts(context.dialect.name, "devices")
    for node in context.machine.devices.all():
        recorded = facts.get(node.kind, {})
        entries = (recorded.get(way, {}).get("pci") for way in ("hot", "cold"))
        entry = next((one for one in entries if one), None)
        bus = context.machine.devices.buses.of(node)
        if entry is None or bus is None or bus.name not in ("pci.0", "pcie.0"):
            continue
        place = node.value("addr")
        anonymous = node.parent is not None and node.parent.name == "peripheral-anon"
        name = "" if anonymous else node.name
        changed = {"slot": place >> 3, "function": place & 7, "qdev_id": name}
        yield {key: changed.get(key, value) for key, value in entry.items()}


def _device(number: int) -> int:
    # The first CPU is followed by the interrupt controllers of all; the others come next.
    return number and number + 1


def _places(context: Context) -> Iterator[dict[str, int]]:
    parts = topology(context.machine.options)
    shown = ["sockets", "dies", "modules", "cores", "threads"]
    names = {name: f"{name[:-1]}-id" for name in shown}
    names["dies"] = "die-id"
    given = {name for name in shown if parts[name] > 1}
    basic = {"sockets", "cores", "threads"}
    kept = [name for name in shown if name in basic or name in given]

    def expand(rest: list[str], so_far: dict[str, int]) -> Iterator[dict[str, int]]:
        if not rest:
            yield so_far
            return
        for number in range(parts[rest[0]]):
            yield from expand(rest[1:], {**so_far, names[rest[0]]: number})

    yield from expand(kept, {})


def _cpu_kind(context: Context) -> str:
    model = _BASE_MODEL
    for option, text in context.machine.options.pairs:
        if option == "cpu":
            model = str(parse_value(text, "model").get("model", model)).split(",")[0]
    return f"{model}-x86_64-cpu"
