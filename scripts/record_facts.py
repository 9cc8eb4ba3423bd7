"""Asks a QEMU for the facts of its devices, objects, machines and CPUs that the fake answers from.

``python scripts/record_facts.py --version 7.2 QEMU-SYSTEM-X86_64`` starts that binary many
times, on TCG and with no network, and writes ``pytest_qmp/fake/facts/7.2-PART.json.xz``:

- ``types``: every QOM type with its parent, what else implements it, and its properties, as
  qom-list-types, device-list-properties and qom-list-properties show them;
- ``machines``: the QOM tree with all values, and the answers of the queries, of bare machines;
- ``devices``: what became of every device: the error, or the part of the tree that it added,
  hot-plugged (``hot``) and, where that is refused, on the command line (``cold``);
- ``objects``: the same for the types of object-add;
- ``cpus``: CPU models and their expansions.

A question on which QEMU ends is recorded as ``{"abort": text}``, with what it wrote before.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parents[1] / "pytest_qmp" / "fake" / "facts"
BARE = {
    "pc": ["-nodefaults", "-M", "pc", "-m", "16"],
    "q35": ["-nodefaults", "-M", "q35", "-m", "16"],
    "microvm": ["-nodefaults", "-M", "microvm", "-m", "16"],
    "none": ["-nodefaults", "-M", "none"],
}
MACHINES = {
    **BARE,
    "pc-usb": [*BARE["pc"], "-usb"],
    "q35-usb": [*BARE["q35"], "-usb"],
    "pc-defaults": BARE["pc"][1:],
    "q35-defaults": BARE["q35"][1:],
}
#: Where devices are tried: with a bus of every kind that a device may want.
BUSES = [
    *("-device", "qemu-xhci,id=xhci", "-device", "virtio-scsi-pci,id=vscsi"),
    *("-device", "virtio-serial-pci,id=vser", "-device", "usb-ccid,id=ccid"),
]
MAKE: dict[str, tuple[str, dict[str, Any]]] = {
    "netdev": ("netdev_add", {"type": "hubport", "id": "net", "hubid": 0}),
    "drive": ("blockdev-add", {"driver": "null-co", "node-name": "disk", "size": 1 << 20}),
    "chardev": ("chardev-add", {"id": "chr", "backend": {"type": "null", "data": {}}}),
    "memdev": ("object-add", {"qom-type": "memory-backend-ram", "id": "mem", "size": 1 << 24}),
    "cryptodev": ("object-add", {"qom-type": "cryptodev-backend-builtin", "id": "cry"}),
}
NAMES = {"netdev": "net", "drive": "disk", "chardev": "chr", "memdev": "mem", "cryptodev": "cry"}
#: What a type needs besides.
NEEDS: dict[str, dict[str, Any]] = {
    "nvme": {"serial": "1"},
    "pci-bridge": {"chassis_nr": 1},
    "pci-bridge-seat": {"chassis_nr": 1},
    "usb-mtp": {"rootdir": "/tmp"},
    "pxb": {"bus_nr": 8},
}
#: No property takes it; how it is refused shows whether a property can be set, and to what.
NO_VALUE = {"nosuch": 1}
QUERIES = [
    *("query-pci", "query-cpus-fast", "query-hotpluggable-cpus", "query-memory-devices"),
    *("query-current-machine", "query-kvm", "query-memdev", "query-iothreads"),
    *("query-memory-size-summary", "query-rx-filter", "query-vm-generation-id"),
    *("query-acpi-ospm-status", "query-balloon", "query-sgx", "query-mice", "query-tpm"),
    *("query-tpm-models", "query-tpm-types", "query-accelerators"),
]


class Ended(Exception):  # noqa: N818 - an answer of sorts, not a fault
    """QEMU is gone; the text is what it wrote."""


class Qemu:
    """A QEMU with a monitor."""

    def __init__(self, binary: str, args: list[str]) -> None:
        ours, theirs = socket.socketpair()
        monitor = ["-chardev", f"socket,id=mon,fd={theirs.fileno()}"]
        argv = [binary, "-accel", "tcg", "-display", "none", "-S", *args]
        argv += [*monitor, "-mon", "chardev=mon,mode=control"]
        self.process = subprocess.Popen(
            argv,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        ours.settimeout(30)
        self.sock = ours
        self.file = ours.makefile("rb")
        self.answer = None
        try:
            self.line()
            self.ask("qmp_capabilities")
        except Ended:
            self.close()
            raise

    def line(self) -> Any:
        while True:
            try:
                line = self.file.readline()
            except OSError as error:
                raise Ended(str(error)) from error
            if not line:
                _, text = self.process.communicate()
                raise Ended(text.strip())
            message = json.loads(line)
            if "event" not in message:
                return message

    def ask(self, command: str, **arguments: Any) -> Any:
        """The value, or ``{"error": [class, desc]}``."""
        names = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.send(command, names)

    def send(self, command: str, arguments: dict[str, Any]) -> Any:
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self.sock.sendall(json.dumps(message).encode())
        except OSError as error:
            raise Ended(str(error)) from error
        reply = self.line()
        if "error" in reply:
            return {"error": [reply["error"]["class"], reply["error"]["desc"]]}
        return reply["return"]

    def close(self) -> None:
        self.sock.close()
        self.file.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


class Host:
    """A QEMU that is started anew whenever a question ended it."""

    def __init__(self, binary: str, args: list[str]) -> None:
        self.binary, self.args = binary, args
        self.qemu: Qemu | None = None

    def ask(self, command: str, **arguments: Any) -> Any:
        names = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.send(command, names)

    def send(self, command: str, arguments: dict[str, Any]) -> Any:
        if self.qemu is None:
            self.qemu = Qemu(self.binary, self.args)
        try:
            return self.qemu.send(command, arguments)
        except Ended as ended:
            self.renew()
            return {"abort": str(ended)}

    def renew(self) -> None:
        if self.qemu is not None:
            self.qemu.close()
        self.qemu = None

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()


class Pool:
    """Values that stand many times in the facts, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.numbers: dict[str, int] = {}

    def put(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self.numbers:
            self.numbers[key] = len(self.values)
            self.values.append(value)
        return self.numbers[key]

    def put_all(self, values: Any) -> Any:
        return [self.put(value) for value in values] if isinstance(values, list) else values


def has_failed(answer: Any) -> bool:
    return isinstance(answer, dict) and bool({"error", "abort"} & set(answer))


def record_types(host: Host) -> dict[str, Any]:
    pool = Pool()
    listed = host.ask("qom-list-types", abstract=True)
    # QEMU builds whose modules are not installed end on the whole list.
    if has_failed(listed):
        raise SystemExit(f"cannot list the types: {listed}")
    names = [entry["name"] for entry in listed]
    parents = {entry["name"]: entry.get("parent") for entry in listed}
    implementers: dict[str, Any] = {}
    for name in [*names, "object", "interface"]:
        found = host.ask("qom-list-types", implements=name, abstract=True)
        if not has_failed(found):
            inherit = {
                entry["name"] for entry in found if not descends(parents, entry["name"], name)
            }
            if inherit:
                implementers[name] = sorted(inherit)
        else:
            implementers[name] = found
    return {
        "types": listed,
        "implementers": implementers,
        "device-list-properties": {
            name: pool.put_all(host.ask("device-list-properties", typename=name)) for name in names
        },
        "qom-list-properties": {
            name: pool.put_all(host.ask("qom-list-properties", typename=name)) for name in names
        },
        "properties": pool.values,
    }


def descends(parents: dict[str, str | None], name: str, ancestor: str) -> bool:
    current: str | None = name
    while current is not None:
        if current == ancestor:
            return True
        current = parents.get(current)
    return False


def record_tree(host: Host, root: str) -> dict[str, Any]:
    """Path to ``[name, type, value, what a wrong value is refused with]`` of each property.

    Children have no value.
    """
    tree: dict[str, Any] = {}
    todo = [root]
    while todo:
        path = todo.pop(0)
        listed = host.ask("qom-list", path=path)
        if has_failed(listed):
            tree[path] = listed
            continue
        rows: list[list[Any]] = []
        for entry in listed:
            name, kind = entry["name"], entry["type"]
            if kind.startswith("child<"):
                rows.append([name, kind])
                todo.append(f"{path.rstrip('/')}/{name}")
            else:
                value = host.ask("qom-get", path=path, property=name)
                refusal = host.ask("qom-set", path=path, property=name, value=NO_VALUE)
                rows.append([name, kind, value, refusal])
        tree[path] = rows
    return tree


def record_machines(binary: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, args in MACHINES.items():
        with Host(binary, args) as host:
            found[name] = {
                "tree": record_tree(host, "/"),
                "queries": {query: host.ask(query) for query in QUERIES},
            }
    with Host(binary, BARE["none"]) as host:
        found["query-machines"] = host.ask("query-machines")
        found["query-machines-compat"] = host.ask("query-machines", compat_props=True)
    return found


def record_device(binary: str, args: list[str], driver: str, wanted: set[str]) -> dict[str, Any]:
    """Adds a device, at first bare, then with what it misses."""
    found: dict[str, Any] = {}
    with Host(binary, args) as host:
        bare = host.ask("device_add", driver=driver, id="dut")
        arguments: dict[str, Any] = {}
        outcome = bare
        if "error" in bare or "abort" in bare:
            found["bare"] = bare
            wanted = wanted & set(MAKE)
            arguments.update(NEEDS.get(driver, {}))
            if (wanted or arguments) and "error" in bare:
                for need in wanted:
                    host.send(*MAKE[need])
                    arguments[need] = NAMES[need]
                outcome = host.send("device_add", {"driver": driver, "id": "dut", **arguments})
        if outcome == {}:
            found["with"] = sorted(arguments)
            found["tree"] = record_tree(host, "/machine/peripheral/dut")
            found["pci"] = pci_entry(host.ask("query-pci"))
        elif outcome != bare:
            found["with"] = sorted(arguments)
            found["error"] = outcome
    return found


def pci_entry(buses: Any) -> Any:
    """What query-pci says of the device on trial; None if it is no PCI device."""
    for bus in buses if isinstance(buses, list) else []:
        for entry in bus["devices"]:
            if entry["qdev_id"] == "dut":
                return entry
    return None


def record_cold(binary: str, args: list[str], driver: str, wanted: set[str]) -> dict[str, Any]:
    """The same on the command line."""
    given = {need: NAMES[need] for need in wanted & set(MAKE)} | NEEDS.get(driver, {})
    backends = {
        "netdev": ["-netdev", "hubport,id=net,hubid=0"],
        "drive": ["-blockdev", "null-co,node-name=disk,size=1048576"],
        "chardev": ["-chardev", "null,id=chr"],
        "memdev": ["-object", "memory-backend-ram,id=mem,size=16M"],
        "cryptodev": ["-object", "cryptodev-backend-builtin,id=cry"],
    }
    text = ",".join([f"{driver},id=dut", *(f"{key}={value}" for key, value in given.items())])
    options = [option for need in given for option in backends.get(need, [])]
    with Host(binary, [*args, *options, "-device", text]) as host:
        try:
            host.qemu = Qemu(binary, host.args)
        except Ended as ended:
            return {"stderr": str(ended)}
        return {
            "with": sorted(given),
            "tree": record_tree(host, "/machine/peripheral/dut"),
            "pci": pci_entry(host.ask("query-pci")),
        }


def record_devices(binary: str, types: dict[str, Any]) -> dict[str, Any]:
    parents = {entry["name"]: entry.get("parent") for entry in types["types"]}
    left_out = {entry["name"] for entry in types["types"] if entry.get("abstract")}
    left_out |= {name for name in parents if descends(parents, name, "cpu")}
    drivers = [n for n in parents if descends(parents, n, "device") and n not in left_out]
    pool = types["properties"]
    found: dict[str, Any] = {}
    for number, driver in enumerate(drivers):
        show(f"device {number}/{len(drivers)} {driver}")
        listed = types["device-list-properties"][driver]
        if has_failed(listed):
            continue
        wanted = {pool[index]["name"] for index in listed}
        facts: dict[str, Any] = {}
        args = [*BARE["pc"], *BUSES]
        facts["hot"] = record_device(binary, args, driver, wanted)
        refused = facts["hot"].get("bare", {}).get("error", ["", ""])[1]
        if "hotplug" in refused or "pluggable" in refused:
            facts["cold"] = record_cold(binary, args, driver, wanted)
        found[driver] = facts
    return found


def record_objects(binary: str, types: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in types["implementers"].get("user-creatable", []):
        show(f"object {name}")
        with Host(binary, BARE["pc"]) as host:
            bare = host.ask("object-add", qom_type=name, id="dut")
            facts: dict[str, Any] = {"bare": bare}
            outcome = bare
            if bare != {}:
                size = {"size": 1 << 24} if name.startswith("memory-backend") else {}
                outcome = host.ask("object-add", qom_type=name, id="dut", **size)
            if outcome == {}:
                facts["tree"] = record_tree(host, "/objects/dut")
            found[name] = facts
    return found


def record_cpus(binary: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pool = Pool()
    for machine in ("pc", "none"):
        with Host(binary, BARE[machine]) as host:
            listed = host.ask("query-cpu-definitions")
            found[machine] = {"definitions": listed, "full": {}, "static": {}}
            if machine == "none":
                continue
            for entry in listed:
                for kind in ("full", "static"):
                    answer = host.ask(
                        "query-cpu-model-expansion", type=kind, model={"name": entry["name"]}
                    )
                    if has_failed(answer):
                        found[machine][kind][entry["name"]] = answer
                        continue
                    props = answer["model"].pop("props")
                    rows = [pool.put([key, value]) for key, value in props.items()]
                    found[machine][kind][entry["name"]] = {**answer, "props": rows}
    found["pool"] = pool.values
    return found


def show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write(version: str, part: str, facts: Any) -> None:
    FACTS.mkdir(exist_ok=True)
    path = FACTS / f"{version}-{part}.json.xz"
    text = json.dumps(facts, separators=(",", ":"))
    path.write_bytes(lzma.compress(text.encode(), preset=9))
    show(f"{path.name}: {len(text)} characters, {os.path.getsize(path)} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--version", required=True, help="as the fake calls it, such as 7.2")
    parser.add_argument("--parts", default="types,machines,cpus,objects,devices")
    parser.add_argument("binary")
    options = parser.parse_args()
    binary, version, parts = options.binary, options.version, options.parts.split(",")
    with Host(binary, BARE["pc"]) as host:
        types = record_types(host)
    if "types" in parts:
        write(version, "types", types)
    if "machines" in parts:
        write(version, "machines", record_machines(binary))
    if "cpus" in parts:
        write(version, "cpus", record_cpus(binary))
    if "objects" in parts:
        write(version, "objects", record_objects(binary, types))
    if "devices" in parts:
        write(version, "devices", record_devices(binary, types))


if __name__ == "__main__":
    main()
