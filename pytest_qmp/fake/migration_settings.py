"""What a migration can be told: its capabilities and parameters, and which QEMU refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from pytest_qmp.qmp.schema import ArrayType, EnumType, Schema

from .replies import CommandFailed
from .versions import Dialect

__all__ = ["MigrationSettings"]

_PAGE = 4096
_ZERO_COPY = "Zero copy only available for non-compressed non-TLS multifd migration"
#: What a snapshot in the background can't go with, in QEMU's order.
_NO_SNAPSHOT = """
    postcopy-ram dirty-bitmaps postcopy-blocktime late-block-activate return-path multifd
    pause-before-switchover auto-converge release-ram rdma-pin-all compress xbzrle x-colo
    validate-uuid zero-copy-send
"""

_DEFAULTS: dict[str, Any] = {
    "announce-initial": 50,
    "announce-max": 550,
    "announce-rounds": 5,
    "announce-step": 100,
    "avail-switchover-bandwidth": 0,
    "block-incremental": False,
    "compress-level": 1,
    "compress-threads": 8,
    "compress-wait-thread": True,
    "cpr-exec-command": [],
    "cpu-throttle-increment": 10,
    "cpu-throttle-initial": 20,
    "cpu-throttle-tailslow": False,
    "decompress-threads": 2,
    "direct-io": False,
    "downtime-limit": 300,
    "max-bandwidth": 128 << 20,
    "max-cpu-throttle": 99,
    "max-postcopy-bandwidth": 0,
    "mode": "normal",
    "multifd-channels": 2,
    "multifd-compression": "none",
    "multifd-qatzip-level": 1,
    "multifd-zlib-level": 1,
    "multifd-zstd-level": 1,
    "throttle-trigger-threshold": 50,
    "tls-authz": "",
    "tls-creds": "",
    "tls-hostname": "",
    "vcpu-dirty-limit": 1,
    "x-checkpoint-delay": 20000,
    "x-rdma-chunk-size": 1 << 20,
    "x-vcpu-dirty-limit-period": 1000,
    "xbzrle-cache-size": 64 << 20,
    "zero-page-detection": "multifd",
}

#: Lowest, highest, and how QEMU says so, in the order in which it looks.
_RANGES: dict[str, tuple[int, int, str]] = {
    "compress-level": (0, 9, "a value between 0 and 9"),
    "compress-threads": (1, 255, "a value between 1 and 255"),
    "decompress-threads": (1, 255, "a value between 1 and 255"),
    "throttle-trigger-threshold": (1, 100, "an integer in the range of 1 to 100"),
    "cpu-throttle-initial": (1, 99, "an integer in the range of 1 to 99"),
    "cpu-throttle-increment": (1, 99, "an integer in the range of 1 to 99"),
    "downtime-limit": (0, 2000000, "an integer in the range of 0 to (2000 * 1000) ms"),
    "multifd-channels": (1, 255, "a value between 1 and 255"),
    "multifd-zlib-level": (0, 9, "a value between 0 and 9"),
    "multifd-zstd-level": (0, 20, "a value between 0 and 20"),
    "multifd-qatzip-level": (1, 9, "a value between 1 and 9"),
    "xbzrle-cache-size": (
        _PAGE,
        1 << 63,
        "a power of two no less than the target page size",
    ),
    "max-cpu-throttle": (1, 99, "an integer in the range of cpu{0}throttle{0}initial to 99"),
    "announce-initial": (0, 100000, "a value between 0 and 100000"),
    "announce-max": (0, 100000, "a value between 0 and 100000"),
    "announce-rounds": (0, 1000, "a value between 0 and 1000"),
    "announce-step": (1, 10000, "a value between 1 and 10000"),
}
#: The same, of those that come after all else.
_LAST_RANGES: dict[str, tuple[int, int, str]] = {
    "x-vcpu-dirty-limit-period": (1, 1000, "a value between 1 and 1000"),
    "vcpu-dirty-limit": (1, 2**64, ""),
    "x-rdma-chunk-size": (1 << 20, 1 << 30, "a power of 2 in the range 1MiB to 1024MiB"),
}
_POWERS_OF_TWO = frozenset({"xbzrle-cache-size", "x-rdma-chunk-size"})
#: Where QEMU's words give another range than it has.
_SHOWN = {"announce-step": "a value between 0 and 10000"}
#: QEMU 7.2 looked at these levels nowhere, and did not keep them.
_LEVELS = ("multifd-zlib-level", "multifd-zstd-level")


class MigrationSettings:
    """Capabilities and parameters of one machine, for both directions.

    Args:
        dialect: the version that is emulated.
        schema: its schema, which names them.

    Attributes:
        capabilities: whether each is on, in QEMU's order.
        parameters: what ``query-migrate-parameters`` shows.
    """

    def __init__(self, dialect: Dialect, schema: Schema) -> None:
        self._dialect = dialect
        self.capabilities = dict.fromkeys(_capability_names(schema), False)
        shown = schema.object(schema.command("query-migrate-parameters").ret_type).members
        names = {member.name for member in shown}
        self.parameters = {name: value for name, value in _DEFAULTS.items() if name in names}

    def enabled(self, capability: str) -> bool:
        """Whether a capability is on; one that this version lacks never is."""
        return self.capabilities.get(capability, False)

    def set_capabilities(self, changes: Mapping[str, bool], *, incoming_began: bool) -> None:
        """Changes all of them, or none.

        Args:
            changes: the new states.
            incoming_began: this is a destination whose migration has begun.

        Raises:
            CommandFailed: they can't be had together.
        """
        wanted = {**self.capabilities, **changes}
        on = {name for name, state in wanted.items() if state}
        refusal = self._refusal(on, incoming_began)
        if refusal:
            raise CommandFailed(refusal)
        self.capabilities = wanted

    def set_parameters(self, changes: Mapping[str, Any]) -> None:
        """Changes all of them, or none.

        Raises:
            CommandFailed: one is out of its range, or they don't go together.
        """
        wanted = {**self.parameters, **changes}
        for name in ("tls-creds", "tls-hostname", "tls-authz"):
            if wanted[name] is None:
                wanted[name] = ""
        self._check_ranges(wanted, _RANGES)
        _check_mapping(wanted.get("block-bitmap-mapping", []))
        if self.enabled("zero-copy-send") and _is_compressed(wanted):
            raise CommandFailed(_ZERO_COPY)
        # QEMU looks at what was set before: there is no way back.
        if self.enabled("mapped-ram") and _is_compressed(self.parameters):
            raise CommandFailed(
                "Mapped-ram only available for non-compressed non-TLS multifd migration"
            )
        self._check_ranges(wanted, _LAST_RANGES)
        if self._dialect.version < (10, 0, 0):
            for name in _LEVELS:
                wanted[name] = self.parameters[name]
        self.parameters = wanted

    def _check_ranges(
        self, wanted: Mapping[str, Any], ranges: Mapping[str, tuple[int, int, str]]
    ) -> None:
        for name, (lowest, highest, text) in ranges.items():
            if name not in wanted or (name in _LEVELS and self._dialect.version < (10, 0, 0)):
                continue
            if name == "max-cpu-throttle":
                lowest = wanted["cpu-throttle-initial"]
            value = wanted[name]
            odd = name in _POWERS_OF_TWO and value & (value - 1)
            if odd or not lowest <= value <= highest:
                self._refuse_parameter(name, _SHOWN.get(name, text))

    def _refuse_parameter(self, name: str, text: str) -> NoReturn:
        old = self._dialect.version < (11, 0, 0)
        if name == "vcpu-dirty-limit":
            shown = name.replace("-", "_") if old else name
            raise CommandFailed(f"Parameter '{shown}' must be greater than 1 MB/s")
        if old:
            shown = name if name.startswith("x-") else name.replace("-", "_")
            raise CommandFailed(f"Parameter '{shown}' expects {text.format('_')}")
        shown = "x_rdma_chunk_size" if name == "x-rdma-chunk-size" else name
        raise CommandFailed(f"Option {shown} expects {text.format('-')}")

    def _refusal(self, on: set[str], incoming_began: bool) -> str:
        """Why QEMU can't have these on at the same time; "" where it can."""
        new = self._dialect.version >= (10, 0, 0)
        for refused, text in (
            (
                self._dialect.version >= (11, 0, 0) and "x-colo" in on and "return-path" not in on,
                "Capability 'x-colo' requires capability 'return-path'",
            ),
            (
                {"postcopy-ram", "x-ignore-shared"} <= on,
                "Postcopy is not compatible with ignore-shared",
            ),
            (
                new and self._dialect.version < (11, 0, 0) and {"postcopy-ram", "multifd"} <= on,
                "Postcopy is not yet compatible with multifd",
            ),
            *(
                (
                    {"background-snapshot", other} <= on,
                    f"Background-snapshot is not compatible with {other}",
                )
                for other in _NO_SNAPSHOT.split()
            ),
            (
                "zero-copy-send" in on
                and (
                    "multifd" not in on
                    or bool(on & {"compress", "xbzrle"})
                    or _is_compressed(self.parameters)
                ),
                _ZERO_COPY,
            ),
            (
                "postcopy-preempt" in on and "postcopy-ram" not in on,
                "Postcopy preempt requires postcopy-ram",
            ),
            (
                {"postcopy-preempt", "compress"} <= on,
                "Postcopy preempt not compatible with compress",
            ),
            (
                new
                and "postcopy-preempt" in on
                and incoming_began
                and not self.enabled("postcopy-preempt"),
                "Postcopy preempt must be set before incoming starts",
            ),
            (
                not new and {"multifd", "compress"} <= on,
                "Multifd is not compatible with compress",
            ),
            (
                new and "multifd" in on and incoming_began and not self.enabled("multifd"),
                "Multifd must be set before incoming starts",
            ),
            (
                "switchover-ack" in on and "return-path" not in on,
                "Capability 'switchover-ack' requires capability 'return-path'",
            ),
            (
                {"dirty-limit", "auto-converge"} <= on,
                "dirty-limit conflicts with auto-converge either of then available currently",
            ),
            (
                "dirty-limit" in on,
                "dirty-limit requires KVM with accelerator property 'dirty-ring-size' set",
            ),
            (new and {"multifd", "xbzrle"} <= on, "Multifd is not compatible with xbzrle"),
            (
                {"mapped-ram", "xbzrle"} <= on,
                "Mapped-ram migration is incompatible with xbzrle",
            ),
            (
                {"mapped-ram", "postcopy-ram"} <= on,
                "Mapped-ram migration is incompatible with postcopy",
            ),
        ):
            if refused:
                return text
        return ""


def _capability_names(schema: Schema) -> tuple[str, ...]:
    arguments = schema.object(schema.command("migrate-set-capabilities").arg_type)
    (member,) = (one for one in arguments.members if one.name == "capabilities")
    listed = schema.type(member.type)
    if not isinstance(listed, ArrayType):
        raise TypeError(f"capabilities are {listed}, not a list")
    element = schema.object(listed.element_type)
    (name,) = (one for one in element.members if one.name == "capability")
    found = schema.type(name.type)
    if not isinstance(found, EnumType):
        raise TypeError(f"a capability is {found}, not one of several names")
    return tuple(found.values)


def _is_compressed(parameters: Mapping[str, Any]) -> bool:
    """Whether it is compressed, or goes through TLS."""
    return parameters["multifd-compression"] != "none" or bool(parameters["tls-creds"])


def _check_mapping(mapping: list[dict[str, Any]]) -> None:
    nodes: set[str] = set()
    aliases: set[str] = set()
    for node in mapping:
        name, alias = node["node-name"], node["alias"]
        if not _is_well_formed(alias):
            _refuse_mapping(f"The node alias '{alias}' is not well-formed")
        if len(alias) > 255:
            _refuse_mapping(f"The node alias '{alias}' is longer than 255 bytes")
        if name in nodes:
            _refuse_mapping(f"The node name '{name}' is mapped twice")
        if alias in aliases:
            _refuse_mapping(f"The node alias '{alias}' is used twice")
        nodes.add(name)
        aliases.add(alias)
        bitmaps: set[str] = set()
        bitmap_aliases: set[str] = set()
        for bitmap in node["bitmaps"]:
            inner, inner_alias = bitmap["name"], bitmap["alias"]
            if len(inner_alias) > 255:
                _refuse_mapping(f"The bitmap alias '{inner_alias}' is longer than 255 bytes")
            if inner in bitmaps:
                _refuse_mapping(f"The bitmap '{name}'/'{inner}' is mapped twice")
            if inner_alias in bitmap_aliases:
                _refuse_mapping(f"The bitmap alias '{alias}'/'{inner_alias}' is used twice")
            bitmaps.add(inner)
            bitmap_aliases.add(inner_alias)


def _is_well_formed(name: str) -> bool:
    return (
        name[:1].isascii()
        and name[:1].isalpha()
        and all(char.isascii() and (char.isalnum() or char in "-._") for char in name)
    )


def _refuse_mapping(text: str) -> NoReturn:
    raise CommandFailed(f"Invalid mapping given for block-bitmap-mapping: {text}")
