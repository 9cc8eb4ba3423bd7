"""The block devices of the command line: ``-blockdev`` and ``-drive``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from pytest_qmp.qmp.schema import AlternateType, ArrayType, BuiltinType, ObjectType, Schema

from .arguments import check_arguments
from .block import BlockLayer
from .block_backends import Backend
from .block_images import read_qcow2
from .command_line import Argument
from .options import Options, parse_keys
from .replies import CommandFailed

__all__ = ["start_block_devices"]

_TRUE = frozenset({"on", "yes", "true", "y"})
#: Short options of a disk, and the index of their drive.
_DISKS = {"hda": 0, "hdb": 1, "hdc": 2, "hdd": 3, "cdrom": 2}
_INTERFACES = frozenset({"none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen"})
#: What an empty drive can have.
_WITHOUT_MEDIUM = frozenset(
    {
        *("if", "id", "media", "index", "bus", "unit", "rerror", "werror", "readonly"),
        *("read-only", "cache", "aio", "discard", "snapshot", "detect-zeroes", "copy-on-read"),
    }
)
_UNATTACHED = "/machine/unattached/device"
_CACHES = {
    "none": {"direct": True},
    "writeback": {},
    "writethrough": {},
    "directsync": {"direct": True},
    "unsafe": {"no-flush": True},
}


def start_block_devices(block: BlockLayer, options: Options, schema: Schema) -> None:
    """Makes what the command line asks for.

    Raises:
        StartFailed: QEMU would not start with it; the text is what it says.
    """
    for argument in options.arguments:
        if argument.option == "blockdev":
            try:
                _add_blockdev(block, argument.value, schema)
            except CommandFailed as failed:
                raise argument.failed(failed.desc) from None
    known_drivers = _drivers(schema)
    for argument in options.arguments:
        if argument.option == "drive" or argument.option in _DISKS:
            _add_drive(block, argument, options, known_drivers)


def _add_blockdev(block: BlockLayer, value: str, schema: Schema) -> None:
    if value.startswith("{"):
        try:
            given = json.loads(value)
        except ValueError:
            raise CommandFailed("JSON parse error") from None
    else:
        first, _, rest = value.partition(",")
        text = value if "=" in first else f"driver={first},{rest}"
        given = _typed(schema, schema.command("blockdev-add").arg_type, _nested(parse_keys(text)))
    check_arguments(schema, "blockdev-add", given)
    block.add(given)


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys with dots as objects in objects, or lists where they are numbers."""
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        inner = tree
        *path, last = key.split(".")
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    found = _lists(tree)
    return found if isinstance(found, dict) else {}


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(item) for key, item in value.items()}


def _typed(schema: Schema, type_name: str, value: Any, path: str = "") -> Any:
    """Text of the command line as the type that the schema wants."""
    found = schema.type(type_name)
    if isinstance(found, ObjectType) and isinstance(value, dict):
        members = {member.name: member.type for member in found.members}
        if found.tag is not None and value.get(found.tag) in found.variants:
            variant = schema.object(found.variants[value[found.tag]])
            members.update({member.name: member.type for member in variant.members})
        return {
            key: _typed(schema, members[key], item, f"{path}.{key}" if path else key)
            if key in members
            else item
            for key, item in value.items()
        }
    if isinstance(found, AlternateType):
        for name in found.types:
            if isinstance(schema.type(name), ObjectType) and isinstance(value, dict):
                return _typed(schema, name, value, path)
        return value
    if isinstance(found, ArrayType) and isinstance(value, list):
        return [_typed(schema, found.element_type, item, path) for item in value]
    if isinstance(found, BuiltinType) and isinstance(value, str):
        if found.json_type == "int":
            if not value.removeprefix("-").isdigit():
                raise CommandFailed(f"Parameter '{path}' expects integer")
            return int(value)
        if found.json_type == "boolean":
            if value not in ("on", "off"):
                raise CommandFailed(f"Parameter '{path}' expects 'on' or 'off'")
            return value == "on"
    return value


def _drivers(schema: Schema) -> frozenset[str]:
    """The block drivers that the schema knows."""
    added = schema.object(schema.command("blockdev-add").arg_type)
    return frozenset(added.variants)


def _add_drive(
    block: BlockLayer, argument: Argument, options: Options, known_drivers: frozenset[str]
) -> None:
    if argument.option in _DISKS:
        keys = {"file": argument.value, "index": str(_DISKS[argument.option])}
        if argument.option == "cdrom":
            keys["media"] = "cdrom"
    else:
        keys = parse_keys(argument.value)
    interface = keys.get("if", "none" if options.machine == "none" else "ide")
    if interface not in _INTERFACES:
        raise argument.failed(f"unsupported bus type '{interface}'")
    driver = keys.get("format", keys.get("driver", "raw"))
    if driver not in known_drivers:
        raise argument.failed(f"Unknown driver '{driver}'")
    if not keys.keys() & {"file", "driver", "format"} and not keys.keys() <= _WITHOUT_MEDIUM:
        raise argument.failed("Must specify either driver or file")
    cdrom = keys.get("media") == "cdrom"
    name = keys.get("id") or _drive_name(block, interface, keys, cdrom=cdrom)
    if name in block.backends.by_drive:
        raise argument.failed(f"Duplicate ID '{name}' for drive")
    backend = Backend(drive=name)
    backend.last_read_only = cdrom
    backend.rerror = keys.get("rerror", "auto")
    backend.werror = keys.get("werror", "auto")
    backend.user.text = f"block device '{name}'"
    opened = _drive_options(keys, cdrom=cdrom)
    if opened is not None:
        if opened.get("node-name") is None:
            opened.pop("node-name", None)
        try:
            node = block.opener.open(opened)
        except CommandFailed as failed:
            raise argument.failed(failed.desc) from None
        node.facts["probed"] = "format" not in keys and node.driver == "raw"
        block.backends.use(backend, node)
    block.backends.all.append(backend)
    if interface == "ide":
        _attach_ide(block, name, options.machine, cdrom=cdrom)


def _attach_ide(block: BlockLayer, name: str, machine: str, *, cdrom: bool) -> None:
    """The machine makes a disk of its own for the drive."""
    first = next((n for kind, n in _first_disks(block).items() if kind in machine), None)
    if first is None:
        return
    number = first + sum(
        1 for b in block.backends.all if (b.qom_path or "").startswith(_UNATTACHED)
    )
    block.attach(
        name,
        None,
        f"{_UNATTACHED}[{number}]",
        removable=cdrom,
        tray=cdrom,
        reads_only=cdrom,
        allows_read_only=False,
        grows=not cdrom,
    )


def _first_disks(block: BlockLayer) -> dict[str, int]:
    """The number of the first IDE disk among a machine's own devices, without any other."""
    if block.dialect.version < (8, 0, 0):
        return {"q35": 16, "pc": 18}
    return {"q35": 13, "pc": 4}


def _drive_name(block: BlockLayer, interface: str, keys: Mapping[str, str], *, cdrom: bool) -> str:
    kind = "cd" if cdrom else "hd"
    taken = block.backends.by_drive
    number = int(keys["index"]) if keys.get("index", "").isdigit() else 0
    if "bus" in keys or "unit" in keys:
        number = 2 * int(keys.get("bus", "0")) + int(keys.get("unit", "0"))
    while True:
        if interface == "ide":
            name = f"ide{number // 2}-{kind}{number % 2}"
        elif interface == "floppy":
            name = f"floppy{number}"
        elif interface == "scsi":
            name = f"scsi0-{kind}{number}"
        else:
            name = f"{interface}{number}"
        if name not in taken or "index" in keys:
            return name
        number += 1


def _drive_options(keys: Mapping[str, str], *, cdrom: bool) -> dict[str, Any] | None:
    """What ``-drive`` opens, None for an empty drive."""
    filename = keys.get("file", "")
    dotted = _nested({key: value for key, value in keys.items() if "." in key})
    if not filename and "file" not in dotted and "driver" not in keys:
        return None
    read_only = keys.get("readonly", keys.get("read-only", "off")) in _TRUE or cdrom
    cache: dict[str, Any] = dict(_CACHES.get(keys.get("cache", "writeback"), {}))
    for name, value in dotted.get("cache", {}).items():
        cache[name] = value in _TRUE
    options: dict[str, Any] = {"read-only": read_only}
    if cache:
        options["cache"] = {key: cache[key] for key in cache if key != "writeback"}
    for name in ("detect-zeroes", "discard", "node-name"):
        if name in keys:
            options[name] = keys[name]
    driver = keys.get("format") or keys.get("driver")
    if filename.startswith("json:"):
        return {**json.loads(filename[5:]), **options}
    if filename.startswith(("null-co://", "null-aio://")):
        return {**options, "driver": driver or "raw", "file": {"driver": filename.split(":")[0]}}
    below: Any = dotted.get("file") or {"driver": "file", "filename": filename}
    if isinstance(below, dict) and filename:
        below = {"driver": "file", "filename": filename}
    if driver in ("null-co", "null-aio"):
        sized = {"size": int(keys["size"])} if keys.get("size", "").isdigit() else {}
        return {**options, **sized, "driver": driver}
    if driver is None:
        driver = _probe(below.get("filename", "")) if isinstance(below, dict) else "raw"
    return {**options, "driver": driver, "file": below}


def _probe(filename: str) -> str:
    try:
        return "qcow2" if os.path.isfile(filename) and read_qcow2(filename) else "raw"
    except OSError:
        return "raw"
