"""What travels over QMP: the greeting, commands, and how their names are spelt."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = [
    "Greeting",
    "QMPVersion",
    "argument_name",
    "command_name",
    "encode",
    "encode_command",
]

# The commands that kept the underscores of QMP's first years; all others use hyphens.
_UNDERSCORE_COMMANDS = frozenset(
    {
        "add_client",
        "block_resize",
        "block_set_io_throttle",
        "client_migrate_info",
        "device_add",
        "device_del",
        "expire_password",
        "migrate_cancel",
        "netdev_add",
        "netdev_del",
        "qmp_capabilities",
        "set_link",
        "set_password",
        "system_powerdown",
        "system_reset",
        "system_wakeup",
    }
)

# Members that are spelt with underscores: of block_set_io_throttle by its schema, of device_add
# by the properties of the devices that people plug (device-list-properties of QEMU 7.2).
_UNDERSCORE_ARGUMENTS = {
    "block_set_io_throttle": frozenset(
        {f"{kind}{tail}" for kind in ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
         for tail in ("", "_max", "_max_length")}
        | {"iops_size"}
    ),
    "device_add": frozenset(
        {
            "any_layout",
            "boot_tpgt",
            "bus_nr",
            "chassis_nr",
            "ctrl_guest_offloads",
            "ctrl_mac_addr",
            "ctrl_rx",
            "ctrl_rx_extra",
            "ctrl_vlan",
            "ctrl_vq",
            "discard_granularity",
            "event_idx",
            "failover_pair_id",
            "guest_announce",
            "guest_csum",
            "guest_ecn",
            "guest_rsc_ext",
            "guest_tso4",
            "guest_tso6",
            "guest_ufo",
            "host_ecn",
            "host_mtu",
            "host_tso4",
            "host_tso6",
            "host_ufo",
            "indirect_desc",
            "iommu_platform",
            "logical_block_size",
            "max_io_size",
            "max_ioqpairs",
            "max_sectors",
            "max_unmap_size",
            "min_io_size",
            "mount_tag",
            "mrg_rxbuf",
            "notify_on_empty",
            "numa_node",
            "opt_io_size",
            "physical_block_size",
            "port_index",
            "queue_reset",
            "rotation_rate",
            "rx_queue_size",
            "scsi_version",
            "tx_queue_size",
            "usb_version",
            "vgamem_mb",
            "virtqueue_size",
        }
    ),
}  # fmt: skip


class QMPVersion(NamedTuple):
    """QEMU's version, as the greeting tells it. Compares like a tuple.

    >>> QMPVersion(7, 2, 22) >= (7, 2)
    True
    """

    major: int
    minor: int
    micro: int
    package: str = ""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"


class Greeting(NamedTuple):
    """What a QMP server says first.

    Attributes:
        version: QEMU's version.
        capabilities: what it offers, mostly ``("oob",)``.
        raw: the whole message.
    """

    version: QMPVersion
    capabilities: tuple[str, ...]
    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Greeting | None:
        """Reads a greeting, or returns None if its shape is not that of one."""
        try:
            inner = message["QMP"]
            qemu = inner["version"]["qemu"]
            version = QMPVersion(
                int(qemu["major"]),
                int(qemu["minor"]),
                int(qemu["micro"]),
                str(inner["version"].get("package", "")),
            )
            return cls(version, tuple(map(str, inner.get("capabilities", ()))), message)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} (a {type(value).__name__}) can't be sent over QMP: it is no JSON")


_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)
encode = _encoder.encode


@lru_cache(maxsize=512)
def _bare_command(command: str) -> bytes:
    return b'{"execute":' + encode(command).encode() + b"}"


def encode_command(
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    id: object = None,
    oob: bool = False,
) -> bytes:
    """A command as the fewest bytes that say it: QEMU reads a byte a system call.

    Args:
        command: its name.
        arguments: its arguments; left out when there are none.
        id: left out when None.
        oob: True for ``exec-oob``.

    Raises:
        TypeError, ValueError: if the arguments can't be JSON.

    >>> encode_command("query-status")
    b'{"execute":"query-status"}'
    """
    if not arguments and id is None and not oob:
        return _bare_command(command)
    message: dict[str, Any] = {"exec-oob" if oob else "execute": command}
    if arguments:
        message["arguments"] = arguments
    if id is not None:
        message["id"] = id
    return encode(message).encode()


def command_name(attribute: str) -> str:
    """The command that an attribute of a client stands for.

    >>> command_name("query_status"), command_name("device_add")
    ('query-status', 'device_add')
    """
    return attribute if attribute in _UNDERSCORE_COMMANDS else attribute.replace("_", "-")


def argument_name(command: str, keyword: str) -> str:
    """The member that a keyword of Python stands for.

    A trailing underscore frees a name that Python keeps for itself (``from_``).

    >>> argument_name("blockdev-add", "node_name")
    'node-name'
    """
    keyword = keyword[:-1] if keyword.endswith("_") else keyword
    if keyword in _UNDERSCORE_ARGUMENTS.get(command, ()):
        return keyword
    return keyword.replace("_", "-")
