"""How wide QEMU's integers are: the schema calls them all ``int``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = ["integer_fault"]

# Observed on QEMU 7.2, 10.0 and 11.1, by sending each integer of each command values out of range.
# A name with a command in front is for that command, one with others behind it for objects that
# have these members too; what has no name here is an int64.
_NAMES_BY_WIDTH = {
    "uint64": """
        align announce-initial announce-max announce-rounds announce-step attributes
        avail-switchover-bandwidth bandwidth block-size boundaries boundaries-flush
        boundaries-read boundaries-write boundaries-zap cluster-size compare_timeout
        correction-mask dirty-rate downtime-limit dpa extent-size-hint gpa hugetlbsize latency
        latency-ns len length+path log-size log-super-update-interval logical-block-size
        max-bandwidth max-postcopy-bandwidth max-size mem min-cluster-size offset policy+id-auth
        rxcookie size sndbuf start throttle-bps throttle-ops txcookie vcpu-dirty-limit
        write-threshold x-rdma-chunk-size x-vcpu-dirty-limit-period xbzrle-cache-size
        memsave:val pmemsave:val
    """,
    "int64": """
        align+image offset+file port+hostname queues+chardev+vhostforce queues+x-svq size+device
        size+file+offset size+latency-ns size+logfile
    """,
    "uint32_t": """
        cbitpos cbw-timeout cme-count corrected-persistent-error-count
        corrected-volatile-error-count cvme-count device dirty-shutdown-count expired_scan_cycle
        flags+ld-id granularity handle handshake-max-seconds header interval keep-alive-count
        keep-alive-idle keep-alive-interval log-sector-size max-connections max_queue_size maxlen
        nibble-mask node node-id+line offset+dst open-timeout policy poll-us prealloc-threads
        queues reconnect-delay reduced-phys-bits row rxsession tbl-id txsession vectors
        x-checkpoint-delay xen-event-inject:port
    """,
    "int32_t": """
        hubid max-discard max-transfer max-write-zero opt-discard opt-write-zero serial
    """,
    "uint16_t": """
        book-id+dedicated column core-id+dedicated cpu-affinity cpus drawer-id+dedicated dst
        host-id host-nodes index initiator ld-id line mode node-affinity nodeid num-queues port
        queue queue-size socket-id+dedicated src target to
    """,
    "int16_t": "temperature",
    "uint8_t": """
        additional-status bank bank-group channel cme-ev-flags compress-level compress-threads
        cpu-throttle-increment cpu-throttle-initial decompress-threads descriptor flags head-id
        health-status level life-used maint-op-class maint-op-subclass max-cpu-throttle
        media-status multifd-channels multifd-qatzip-level multifd-zlib-level multifd-zstd-level
        rank region sub-channel sub-type throttle-trigger-threshold transaction-type type val
    """,
}
#: By name: the other members, and the width; those that ask for most members come first.
_WIDTHS: dict[str, list[tuple[frozenset[str], str]]] = {}
for _width, _names in _NAMES_BY_WIDTH.items():
    for _name, *_siblings in (entry.split("+") for entry in _names.split()):
        _WIDTHS.setdefault(_name, []).append((frozenset(_siblings), _width))
for _choices in _WIDTHS.values():
    _choices.sort(key=lambda choice: -len(choice[0]))
#: Signed still where QEMU has no command of this name.
_UNSIGNED_LATER = frozenset({"memsave", "pmemsave"})
LATER_COMMAND = "block-job-change"
_RANGES = {
    "int16_t": range(-(2**15), 2**15),
    "int32_t": range(-(2**31), 2**31),
    "uint32_t": range(2**32),
    "uint16_t": range(2**16),
    "uint8_t": range(2**8),
}


def integer_fault(
    command: str,
    siblings: Collection[str],
    path: str,
    leaf: str | None,
    value: Any,
    *,
    is_later: bool,
) -> str:
    """What QEMU says about a value where it wants an integer; "" for nothing.

    Args:
        command: whose argument it is.
        siblings: the members of the object that the integer is in.
        path: the whole path of the member, with dots and indexes.
        leaf: its own name; None for the element of a list.
        value: what was given.
        is_later: this QEMU has the ``LATER_COMMAND``.
    """
    name = path.rpartition(".")[2].partition("[")[0]
    width = _width_of(command, name, siblings)
    if command in _UNSIGNED_LATER and not is_later:
        width = "int64"
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if width.startswith("int"):
        if not is_integer or not -(2**63) <= value < 2**63:
            return f"Invalid parameter type for '{path or 'null'}', expected: integer"
    elif not is_integer:
        return f"Parameter '{path or 'null'}' expects uint64"
    if width in _RANGES and value not in _RANGES[width]:
        return f"Parameter '{leaf or 'null'}' expects {width}"
    return ""


def _width_of(command: str, name: str, siblings: Collection[str]) -> str:
    for wanted, width in _WIDTHS.get(f"{command}:{name}") or _WIDTHS.get(name, []):
        if wanted.issubset(siblings):
            return width
    return "int64"
