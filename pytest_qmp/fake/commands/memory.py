"""Commands that write the guest's memory to files, and those of the balloon."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ..guest_dump import DumpState, Region, memory_map, overlap, write_elf
from ..hardware import memory_size, vcpus
from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()

_FORMATS = {
    "7.2": ("elf", "kdump-zlib", "win-dmp"),
    "10.0": ("elf", "kdump-zlib", "kdump-raw-zlib", "win-dmp"),
    "11.1": ("elf", "kdump-zlib", "kdump-raw-zlib"),
}
_FILE, _FD = "file:", "fd:"
_LARGEST_ADDRESS = 1 << 48


@commands.handles("query-dump")
def query_dump(context: Context, arguments: Mapping[str, Any]) -> Any:
    return context.machine.dump.shown()


@commands.handles("query-dump-guest-memory-capability")
def query_dump_guest_memory_capability(context: Context, arguments: Mapping[str, Any]) -> Any:
    return {"formats": list(_FORMATS[context.dialect.name])}


@commands.handles("dump-guest-memory")
def dump_guest_memory(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine = context.machine
    _check_dump(context, arguments)
    kind = arguments.get("format", "elf")
    descriptor = _open_target(context, arguments["protocol"])
    was_running = machine.running
    if was_running:
        machine.stop("save-vm")
    try:
        regions = _regions(context, arguments)
    except CommandFailed:
        os.close(descriptor)
        _resume(context, was_running)
        raise
    total = sum(region.size for region in regions)
    machine.dump = DumpState("active", total, 0)

    def finish() -> None:
        error = "win-dump: invalid vmcoreinfo note size" if kind == "win-dmp" else ""
        if not error:
            error = _attempt(lambda: write_elf(descriptor, regions))
        os.close(descriptor)
        status, completed = ("failed", 0) if error else ("completed", total)
        machine.dump = DumpState(status, total, completed)
        told: dict[str, Any] = {"result": machine.dump.shown()}
        machine.emit("DUMP_COMPLETED", {**told, "error": error} if error else told)
        _resume(context, was_running)
        if error and not arguments.get("detach"):
            raise CommandFailed(error)

    if arguments.get("detach"):
        machine.clock.call_soon(finish)
    else:
        finish()
    return {}


def _check_dump(context: Context, arguments: Mapping[str, Any]) -> None:
    machine, recent = context.machine, context.dialect.version >= (11, 0, 0)
    kind = arguments.get("format", "elf")
    filters = "begin" in arguments or "length" in arguments
    if machine.status == "inmigrate":
        when = "migration" if recent else "incoming migration"
        raise CommandFailed(f"Dump not allowed during {when}.")
    if machine.dump.status == "active":
        raise CommandFailed("There is a dump in process, please wait.")
    if kind != "elf" and (arguments["paging"] or filters):
        raise CommandFailed("kdump-compressed format doesn't support paging or filter")
    for one, other in (("begin", "length"), ("length", "begin")):
        if one in arguments and other not in arguments:
            raise CommandFailed(f"Parameter '{other}' is missing")
    if kind == "win-dmp" and recent:
        raise CommandFailed("win-dump: no vmcoreinfo note from the guest")
    if kind.endswith(("lzo", "snappy")):
        raise CommandFailed(f"{kind.replace('-raw', '')} is not available now")


def _open_target(context: Context, protocol: str) -> int:
    recent = context.dialect.version >= (10, 0, 0)
    if protocol.startswith(_FD):
        name = protocol[len(_FD) :]
        descriptor = context.monitor.descriptors.take(name)
        if descriptor is None:
            raise CommandFailed(f"File descriptor named '{name}' has not been found")
        return descriptor
    if not protocol.startswith(_FILE):
        if recent:
            raise CommandFailed("parameter 'protocol' must start with 'file:' or 'fd:'")
        raise CommandFailed("Invalid parameter 'protocol'")
    path = protocol[len(_FILE) :]
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        sets = context.machine.descriptors
        of_set = sets.copy(path, flags) if recent else sets.open(path, flags)
        return os.open(path, flags | os.O_CLOEXEC, 0o400) if of_set is None else of_set
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "No such file or directory"
        verb = "create" if recent else "open"
        raise CommandFailed(f"Could not {verb} '{path}': {reason}") from error


def _regions(context: Context, arguments: Mapping[str, Any]) -> list[Region]:
    regions = memory_map(context.machine)
    if "length" in arguments:
        # QEMU takes a negative length as a number without sign.
        begin, length = arguments["begin"], arguments["length"] % 2**64
        if not length:
            if context.dialect.version >= (10, 0, 0):
                raise CommandFailed("parameter 'length' expects a non-zero size")
            raise CommandFailed("Invalid parameter 'length'")
        if arguments["begin"] < 0:
            if context.dialect.version >= (10, 0, 0):
                raise NotModelled("a dump from a negative address on")
            raise CommandFailed("Invalid parameter 'begin'")
        regions = overlap(regions, begin, length)
    if not regions:
        raise CommandFailed("dump: no guest memory to dump")
    return regions


def _resume(context: Context, was_running: bool) -> None:
    if was_running:
        context.machine.cont()


def _attempt(action: Callable[[], None]) -> str:
    """Does it; the reason why it failed, "" if it did not."""
    try:
        action()
    except OSError as error:
        return f"dump: failed to save memory: {error.strerror}"
    return ""


@commands.handles("memsave")
def memsave(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine, size = context.machine, arguments["size"]
    if not 0 <= arguments.get("cpu-index", 0) < vcpus(machine.options):
        raise CommandFailed("Parameter 'cpu-index' expects a CPU number")
    if size < 0 and context.dialect.version < (10, 0, 0):
        raise NotModelled("a size on which QEMU breaks down")
    value = arguments["val"] % 2**64
    _save(arguments["filename"], size)
    if value >= _LARGEST_ADDRESS or size < 0:
        raise CommandFailed(f"Invalid addr 0x{value:016x}/size {size % 2**64} specified")
    return {}


@commands.handles("pmemsave")
def pmemsave(context: Context, arguments: Mapping[str, Any]) -> Any:
    _save(arguments["filename"], arguments["size"])
    return {}


def _save(path: str, size: int) -> None:
    """Memory that is all zero, in a file."""
    try:
        with open(path, "wb") as file:
            file.truncate(max(0, size))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "No such file or directory"
        raise CommandFailed(f"Could not open '{path}': {reason}") from error


def _check_balloon(context: Context) -> None:
    if not context.machine.has_balloon:
        raise CommandFailed("No balloon device has been activated", "DeviceNotActive")


@commands.handles("query-balloon")
def query_balloon(context: Context, arguments: Mapping[str, Any]) -> Any:
    _check_balloon(context)
    actual = context.machine.balloon
    return {"actual": memory_size(context.machine.options) if actual is None else actual}


@commands.handles("balloon")
def balloon(context: Context, arguments: Mapping[str, Any]) -> Any:
    _check_balloon(context)
    if arguments["value"] <= 0:
        name = "target" if context.dialect.version < (10, 0, 0) else "value"
        raise CommandFailed(f"Parameter '{name}' expects a size")
    # The guest gives memory back, or does not.
    return {}
