"""How wide QEMU's integers are: the schema calls them all ``int``."""

from __future__ import annotations

from typing import Any

__all__ = ["integer_fault"]

# Observed on QEMU 7.2 by sending each integer of each command values out of range; the members
# that came later are by the documentation of QEMU 10.0 and 11.1. A name with a command in front
# is for that command alone, where others have a plain integer of the same name.
_NAMES_BY_WIDTH = {
    "uint64": """
        announce-initial announce-max announce-rounds announce-step avail-switchover-bandwidth
        bandwidth block-size boundaries boundaries-flush boundaries-read boundaries-write
        boundaries-zap cluster-size compare_timeout dirty-rate downtime-limit dpa
        extent-size-hint gpa hugetlbsize latency latency-ns log-size log-super-update-interval
        logical-block-size max-bandwidth max-postcopy-bandwidth mem min-cluster-size rxcookie
        sndbuf start txcookie vcpu-dirty-limit write-threshold x-rdma-chunk-size
        x-vcpu-dirty-limit-period xbzrle-cache-size
        blockdev-create:size object-add:size set-numa-node:size object-add:align
    """,
    "uint32_t": """
        cbitpos cbw-timeout expired_scan_cycle granularity handle handshake-max-seconds interval
        log-sector-size max-connections max_queue_size maxlen open-timeout policy poll-us
        prealloc-threads reconnect-delay reduced-phys-bits rxsession tbl-id txsession vectors
        x-checkpoint-delay netdev_add:offset object-add:queues set-numa-node:node-id
    """,
    "int32_t": """
        hubid max-discard max-transfer max-write-zero opt-discard opt-write-zero serial
    """,
    "uint16_t": """
        cpu-affinity cpus dst host-nodes index initiator line mode node-affinity nodeid
        num-queues queue queue-size src target to netdev_add:port
    """,
    "uint8_t": """
        compress-level compress-threads cpu-throttle-increment cpu-throttle-initial
        decompress-threads level max-cpu-throttle multifd-channels multifd-qatzip-level
        multifd-zlib-level multifd-zstd-level throttle-trigger-threshold type set-numa-node:val
    """,
}
_WIDTH_BY_NAME = {name: width for width, names in _NAMES_BY_WIDTH.items() for name in names.split()}
_RANGES = {
    "int32_t": range(-(2**31), 2**31),
    "uint32_t": range(2**32),
    "uint16_t": range(2**16),
    "uint8_t": range(2**8),
}


def integer_fault(command: str, path: str, leaf: str | None, value: Any) -> str:
    """What QEMU says about a value where it wants an integer; "" for nothing.

    Args:
        command: whose argument it is; "" for what QEMU itself says.
        path: the whole path of the member, with dots and indexes.
        leaf: its own name; None for the element of a list.
        value: what was given.
    """
    name = path.rpartition(".")[2].partition("[")[0]
    width = _WIDTH_BY_NAME.get(f"{command}:{name}") or _WIDTH_BY_NAME.get(name, "int64")
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if width in ("int64", "int32_t"):
        if not is_integer or not -(2**63) <= value < 2**63:
            return f"Invalid parameter type for '{path or 'null'}', expected: integer"
    elif not is_integer:
        return f"Parameter '{path or 'null'}' expects uint64"
    if width in _RANGES and value not in _RANGES[width]:
        return f"Parameter '{leaf or 'null'}' expects {width}"
    return ""
