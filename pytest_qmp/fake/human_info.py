"""What ``info`` prints in the human monitor, made of what QMP's queries answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .human_commands import Monitor
from .human_migration import show_capabilities
from .replies import CommandFailed, NotModelled

__all__ = ["INFO", "InfoTopic"]

#: The shape of the arguments, and what prints.
InfoTopic = tuple[str, Callable[[Monitor, Mapping[str, Any]], str]]


def _status(monitor: Monitor, given: Mapping[str, Any]) -> str:
    status = monitor.run("query-status")
    shown = "running" if status["running"] else "paused"
    why = "" if status["status"] in ("running", "paused") else f" ({status['status']})"
    return f"VM status: {shown}{why}\n"


def _version(monitor: Monitor, given: Mapping[str, Any]) -> str:
    version = monitor.run("query-version")
    number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
    return f"{number}{version['package']}\n"


def _name(monitor: Monitor, given: Mapping[str, Any]) -> str:
    name = monitor.run("query-name").get("name")
    return f"{name}\n" if name else ""


def _uuid(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return f"{monitor.run('query-uuid')['UUID']}\n"


def _chardev(monitor: Monitor, given: Mapping[str, Any]) -> str:
    chardevs = monitor.run("query-chardev")
    return "".join(f"{one['label']}: filename={one['filename']}\n" for one in chardevs)


def _mice(monitor: Monitor, given: Mapping[str, Any]) -> str:
    lines = [
        f"{'*' if one['current'] else ' '} Mouse #{one['index']}: {one['name']}"
        f"{' (absolute)' if one['absolute'] else ''}\n"
        for one in monitor.run("query-mice")
    ]
    return "".join(lines) or "No mouse devices connected\n"


def _kvm(monitor: Monitor, given: Mapping[str, Any]) -> str:
    kvm = monitor.run("query-kvm")
    state = ("enabled" if kvm["enabled"] else "disabled") if kvm["present"] else "not compiled"
    return f"kvm support: {state}\n"


def _balloon(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return f"balloon: actual={monitor.run('query-balloon')['actual'] >> 20}\n"


def _cpus(monitor: Monitor, given: Mapping[str, Any]) -> str:
    def line(cpu: Mapping[str, Any], first: bool) -> str:
        model = ""
        if "qom-type" in cpu:
            model = f" model={cpu['qom-type'].removesuffix('-x86_64-cpu')}"
        mark = "*" if first else " "
        return f"{mark} CPU #{cpu['cpu-index']}: thread_id={cpu['thread-id']}{model}\n"

    cpus = monitor.run("query-cpus-fast")
    return "".join(line(cpu, number == 0) for number, cpu in enumerate(cpus))


def _dump(monitor: Monitor, given: Mapping[str, Any]) -> str:
    dump = monitor.run("query-dump")
    text = f"Status: {dump['status']}\n"
    if dump["status"] == "active":
        text += f"Finished: {100 * dump['completed'] / dump['total']:.2f} %\n"
    return text


def _vnc(monitor: Monitor, given: Mapping[str, Any]) -> str:
    text = ""
    for one in monitor.run("query-vnc-servers"):
        text += f"{one['id']}:\n"
        for server in one["server"]:
            address = f"{server['host']}:{server['service']} ({server['family']})"
            text += f"  Server: {address}\n    Auth: {server['auth']} (Sub: none)\n"
        if not one["server"]:
            text += f"  Auth: {one['auth']} (Sub: none)\n"
    return text or "None\n"


def _memory_summary(monitor: Monitor, given: Mapping[str, Any]) -> str:
    summary = monitor.run("query-memory-size-summary")
    text = f"base memory: {summary['base-memory']}\n"
    if "plugged-memory" in summary:
        text += f"plugged memory: {summary['plugged-memory']}\n"
    return text


def _snapshots(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if monitor.run("query-block"):
        raise NotModelled("snapshots in the human monitor")
    text = "no block device can store vmstate for snapshot"
    if monitor.version >= (11, 0, 0):
        raise CommandFailed(text)
    return f"{text}\n"


def _trace_events(monitor: Monitor, given: Mapping[str, Any]) -> str:
    events = monitor.run("trace-event-get-state", name=given.get("name", "*"))
    return "".join(f"{one['name']} : state {int(one['state'] == 'enabled')}\n" for one in events)


def _registers(monitor: Monitor, given: Mapping[str, Any]) -> str:
    text = monitor.first_registers
    if text is None:
        raise NotModelled("the registers of a guest that has run, or of another CPU")
    return text


def _network(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if monitor.has_network:
        raise NotModelled("info network in the human monitor")
    return ""


def _virtio(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if monitor.run("x-query-virtio"):
        raise NotModelled("info virtio in the human monitor")
    return "No VirtIO devices\n"


def _constant(text: str) -> InfoTopic:
    def show(monitor: Monitor, given: Mapping[str, Any]) -> str:
        return text

    return "", show


def _refusal(query: str, *names: str) -> InfoTopic:
    """A query that is always refused."""

    def show(monitor: Monitor, given: Mapping[str, Any]) -> str:
        monitor.run(query, **given)
        raise NotModelled(f"what the human monitor prints of {query}")

    return " ".join(f"{name}:s" for name in names), show


def _sgx(monitor: Monitor, given: Mapping[str, Any]) -> str:
    try:
        monitor.run("query-sgx")
    except CommandFailed as failed:
        return f"{failed.desc}\n"
    raise NotModelled("info sgx in the human monitor")


def _replay(monitor: Monitor, given: Mapping[str, Any]) -> str:
    return "Record/replay is not active\n"


def _capture(monitor: Monitor, given: Mapping[str, Any]) -> str:
    if monitor.version < (11, 0, 0):
        return ""
    return "warning: 'info capture' is deprecated since v10.2, to be removed\n"


def _if_empty(query: str, text: str = "") -> InfoTopic:
    """Prints a text while a query answers with nothing."""

    def show(monitor: Monitor, given: Mapping[str, Any]) -> str:
        if monitor.run(query):
            raise NotModelled(f"what the human monitor prints of {query}")
        return text

    return "", show


def _text_of(query: str) -> InfoTopic:
    """Prints the text that a query answers with."""

    def show(monitor: Monitor, given: Mapping[str, Any]) -> str:
        return str(monitor.run(query)["human-readable-text"])

    return "", show


def _block(monitor: Monitor, given: Mapping[str, Any]) -> str:
    device = given.get("device")
    if given["-n"]:
        raise NotModelled("info block -n in the human monitor")
    found = [one for one in monitor.run("query-block") if device in (None, one["device"])]
    if given["-v"] and any("inserted" in one for one in found):
        raise NotModelled("info block -v in the human monitor")
    return "\n".join(_drive(one) for one in found)


def _drive(one: Mapping[str, Any]) -> str:
    inserted = one.get("inserted")
    node = inserted.get("node-name") if inserted else None
    text = one["device"] + (f" ({node})" if node else "")
    text = text if one["device"] else node or one.get("qdev") or "<anonymous>"
    if inserted is None:
        text += ": [not inserted]\n"
    else:
        ro, secret = inserted.get("ro"), inserted.get("encrypted")
        marks = (", read-only" if ro else "") + (", encrypted" if secret else "")
        text += f": {inserted['file']} ({inserted['drv']}{marks})\n"
    if one.get("qdev"):
        text += f"    Attached to:      {one['qdev']}\n"
    if one.get("io-status", "ok") != "ok":
        text += f"    I/O status:       {one['io-status']}\n"
    if one["removable"]:
        locked = "" if one["locked"] else "not "
        tray = "open" if one.get("tray_open") else "closed"
        text += f"    Removable device: {locked}locked, tray {tray}\n"
    return text if inserted is None else text + _medium(inserted)


def _medium(inserted: Mapping[str, Any]) -> str:
    cache = inserted["cache"]
    text = f"    Cache mode:       {'writeback' if cache['writeback'] else 'writethrough'}"
    text += (", direct" if cache["direct"] else "") + "\n"
    if cache["no-flush"]:
        text = text.removesuffix("\n") + ", ignore flushes\n"
    if "backing_file" in inserted:
        depth = inserted["backing_file_depth"]
        text += f"    Backing file:     {inserted['backing_file']} (chain depth: {depth})\n"
    if inserted["detect_zeroes"] != "off":
        text += f"    Detect zeroes:    {inserted['detect_zeroes']}\n"
    rates = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
    if any(inserted[rate] for rate in rates):
        raise NotModelled("drives with limits in the human monitor")
    return text


def _iothreads(monitor: Monitor, given: Mapping[str, Any]) -> str:
    numbers = ("poll-max-ns", "poll-grow", "poll-shrink", "poll-weight", "aio-max-batch")
    text = ""
    for one in monitor.run("query-iothreads"):
        text += f"{one['id']}:\n  thread_id={one['thread-id']}\n"
        text += "".join(f"  {name}={one[name]}\n" for name in numbers if name in one)
    return text


def _memdev(monitor: Monitor, given: Mapping[str, Any]) -> str:
    def flag(value: bool) -> str:
        return "true" if value else "false"

    text = ""
    for one in monitor.run("query-memdev"):
        if one["host-nodes"]:
            raise NotModelled("memory of host nodes in the human monitor")
        text += f"memory backend: {one['id']}\n  size:  {one['size']}\n"
        for name in ("merge", "dump", "prealloc", "share", "reserve"):
            if name in one:
                text += f"  {name}: {flag(one[name])}\n"
        text += f"  policy: {one['policy']}\n  host nodes: \n"
    return f"{text}\n"


#: By what follows ``info``.
INFO: dict[str, InfoTopic] = {
    "status": ("", _status),
    "version": ("", _version),
    "name": ("", _name),
    "uuid": ("", _uuid),
    "chardev": ("", _chardev),
    "mice": ("", _mice),
    "migrate_capabilities": ("", show_capabilities),
    "kvm": ("", _kvm),
    "balloon": ("", _balloon),
    "cpus": ("", _cpus),
    "dump": ("", _dump),
    "vnc": ("", _vnc),
    "memory_size_summary": ("", _memory_summary),
    "snapshots": ("", _snapshots),
    "trace-events": ("name:s? vcpu:i?", _trace_events),
    "replay": ("", _replay),
    "capture": ("", _capture),
    "block": ("-n -v device:B?", _block),
    "memdev": ("", _memdev),
    "blockstats": _if_empty("query-block"),
    "block-jobs": _if_empty("query-block-jobs", "No active jobs\n"),
    "iothreads": ("", _iothreads),
    "memory-devices": _if_empty("query-memory-devices"),
    "tpm": _if_empty("query-tpm"),
    "vcpu_dirty_limit": _if_empty("query-vcpu-dirty-limit", "Dirty page limit not enabled!\n"),
    "registers": ("-a", _registers),
    "network": ("", _network),
    "virtio": ("", _virtio),
    "sev": _constant("SEV is not enabled\n"),
    "spice": _constant("Server: disabled\n"),
    "sgx": ("", _sgx),
    "vm-generation-id": _refusal("query-vm-generation-id"),
    "firmware-log": _refusal("query-firmware-log"),
    "rocker": _refusal("query-rocker", "name"),
    "rocker-ports": _refusal("query-rocker-ports", "name"),
    "numa": _text_of("x-query-numa"),
    "usb": _text_of("x-query-usb"),
    "opcount": _text_of("x-query-opcount"),
    "profile": _text_of("x-query-profile"),
    "rdma": _text_of("x-query-rdma"),
}
