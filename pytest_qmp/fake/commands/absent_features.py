"""Commands about what the emulated machine lacks: Xen, SEV, SGX, replay, a TPM and the like."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ..hardware import parts, vcpus
from ..qom_tree import Node
from ..replies import CommandFailed, NotModelled
from .registry import Context, Registry

commands = Registry()

#: Always refused with the same words, once the arguments are right.
_REFUSED = {
    "query-sev-capabilities": "KVM not enabled",
    "query-sev-launch-measure": "SEV launch measurement is not available",
    "query-sev-attestation-report": "SEV is not enabled",
    "sev-inject-launch-secret": "SEV not enabled for guest",
    "query-gic-capabilities": "GIC hardware is not available on this target",
    "query-s390x-cpu-polarization": "CPU polarization is not supported on this target",
    "set-cpu-topology": "CPU topology change is not supported on this target",
    "dump-skeys": "Storage keys information not available for this architecture",
    "xen-event-list": "Xen event channel emulation not enabled",
    "xen-event-inject": "Xen event channel emulation not enabled",
    "inject-ghes-v2-error": "GHES QMP error inject is not compiled in",
    "replay-break": "setting the breakpoint is allowed only in play mode",
    "replay-delete-break": "replay breakpoints are allowed only in play mode",
    "replay-seek": "replay must be enabled to seek",
    "set-numa-node": "The command is permitted only before the machine has been created",
    "query-cpu-model-comparison": "CPU model comparison is not supported on this target",
    "query-cpu-model-baseline": "CPU model baseline is not supported on this target",
    "x-query-profile": "Internal profiler not compiled",
    "set-vcpu-dirty-limit": (
        "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'"
    ),
}
#: Always answered with the same value.
_CONSTANT: dict[str, Any] = {
    "query-tpm": [],
    "query-tpm-models": ["tpm-crb", "tpm-tis"],
    "query-tpm-types": ["passthrough", "emulator"],
    "query-vcpu-dirty-limit": [],
    "cancel-vcpu-dirty-limit": {},
    "query-xen-replication-status": {"error": False},
    "xen-colo-do-checkpoint": {},
    "xen-set-global-dirty-log": {},
    "query-replay": {"icount": 0, "mode": "none"},
    "query-audiodevs": [],
    "query-colo-status": {"last-mode": "none", "mode": "none", "reason": "none"},
    "query-stats": [],
    "query-pr-managers": [],
    "query-cryptodev": [],
    "query-accelerators": {"enabled": "tcg", "present": ["kvm", "mshv", "tcg"]},
    "x-query-opcount": {"human-readable-text": "[TCG profiler not compiled]\n"},
    "x-query-rdma": {"human-readable-text": ""},
}


def _register() -> None:
    for command, desc in _REFUSED.items():
        commands.handles(command)(_refusing(desc))
    for command, value in _CONSTANT.items():
        commands.handles(command)(_answering(value))


def _refusing(desc: str) -> Any:
    def refuse(context: Context, arguments: Mapping[str, Any]) -> Any:
        raise CommandFailed(desc)

    return refuse


def _answering(value: Any) -> Any:
    def answer(context: Context, arguments: Mapping[str, Any]) -> Any:
        return value

    return answer


_register()


def _no_option(context: Context, *options: str) -> None:
    """What follows is true of a machine without any of these options only."""
    for option, _ in context.machine.options.pairs:
        if option in options:
            raise NotModelled(f"machines with -{option}")


@commands.handles("query-sev")
def query_sev(context: Context, arguments: Mapping[str, Any]) -> Any:
    sev = {
        "enabled": False,
        "api-major": 0,
        "api-minor": 0,
        "build-id": 0,
        "policy": 0,
        "state": "uninit",
        "handle": 0,
    }
    return sev if context.dialect.version < (10, 0, 0) else {**sev, "sev-type": "sev"}


@commands.handles("query-sgx")
def query_sgx(context: Context, arguments: Mapping[str, Any]) -> Any:
    if context.machine.options.machine in ("none", "microvm"):
        raise CommandFailed("SGX is only supported on PC machines")
    raise CommandFailed("No EPC regions defined, SGX not available")


@commands.handles("query-sgx-capabilities")
def query_sgx_capabilities(context: Context, arguments: Mapping[str, Any]) -> Any:
    if context.dialect.version < (10, 0, 0):
        raise CommandFailed("SGX is not enabled in KVM")
    raise CommandFailed("Could not open '/dev/sgx_vepc': No such file or directory")


@commands.handles("query-rocker")
@commands.handles("query-rocker-ports")
@commands.handles("query-rocker-of-dpa-flows")
@commands.handles("query-rocker-of-dpa-groups")
def query_rocker(context: Context, arguments: Mapping[str, Any]) -> Any:
    raise CommandFailed(f"rocker {arguments['name']} not found")


@commands.handles("xen-set-replication")
def xen_set_replication(context: Context, arguments: Mapping[str, Any]) -> Any:
    if "failover" in arguments and arguments["enable"]:
        raise CommandFailed("Parameter 'failover' is only for stopping replication")
    return {}


@commands.handles("x-query-usb")
def x_query_usb(context: Context, arguments: Mapping[str, Any]) -> Any:
    _no_option(context, "usb")
    if any("usb" in part.driver or "hci" in part.driver for part in parts(context.machine)):
        raise NotModelled("USB")
    raise CommandFailed("USB support not enabled")


@commands.handles("x-query-numa")
def x_query_numa(context: Context, arguments: Mapping[str, Any]) -> Any:
    _no_option(context, "numa")
    return {"human-readable-text": "0 nodes\n"}


@commands.handles("x-colo-lost-heartbeat")
def x_colo_lost_heartbeat(context: Context, arguments: Mapping[str, Any]) -> Any:
    if context.dialect.version < (10, 0, 0):
        raise CommandFailed("The feature 'colo' is not enabled")
    raise CommandFailed("VM is not in COLO mode")


@commands.handles("query-hv-balloon-status-report")
def query_hv_balloon_status_report(context: Context, arguments: Mapping[str, Any]) -> Any:
    if any(part.driver == "hv-balloon" for part in parts(context.machine)):
        raise NotModelled("hv-balloon")
    raise CommandFailed("no hv-balloon device present")


@commands.handles("query-firmware-log")
def query_firmware_log(context: Context, arguments: Mapping[str, Any]) -> Any:
    raise CommandFailed("firmware log buffer not found")


@commands.handles("add_client")
def add_client(context: Context, arguments: Mapping[str, Any]) -> Any:
    name = arguments["fdname"]
    descriptor = context.monitor.descriptors.take(name)
    if descriptor is None:
        raise CommandFailed(f"File descriptor named '{name}' has not been found")
    is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    if context.dialect.version >= (10, 0, 0) and not is_socket:
        raise CommandFailed("parameter @fdname must name a socket")
    protocol = arguments["protocol"]
    if protocol == "spice":
        raise CommandFailed("SPICE is not in use", "DeviceNotActive")
    if protocol == "@dbus-display":
        raise CommandFailed("D-Bus display is not in use", "DeviceNotActive")
    if protocol in context.machine.chardevs:
        raise CommandFailed("failed to add client")
    if protocol == "vnc":
        raise NotModelled("clients of VNC")
    raise CommandFailed(f"protocol '{protocol}' is invalid")


@commands.handles("client_migrate_info")
def client_migrate_info(context: Context, arguments: Mapping[str, Any]) -> Any:
    if arguments["protocol"] != "spice":
        raise CommandFailed("Parameter 'protocol' expects 'spice'")
    raise CommandFailed("SPICE is not in use", "DeviceNotActive")


@commands.handles("dumpdtb")
def dumpdtb(context: Context, arguments: Mapping[str, Any]) -> Any:
    article = "a" if context.dialect.version < (10, 0, 0) else "an"
    raise CommandFailed(f"This machine doesn't have {article} FDT")


@commands.handles("rtc-reset-reinjection")
def rtc_reset_reinjection(context: Context, arguments: Mapping[str, Any]) -> Any:
    if context.machine.options.machine == "none" and context.dialect.version >= (10, 0, 0):
        raise NotModelled("a machine without a clock, on which QEMU breaks down")
    return {}


@commands.handles("inject-nmi")
def inject_nmi(context: Context, arguments: Mapping[str, Any]) -> Any:
    if context.machine.options.machine == "none":
        if context.dialect.version < (10, 0, 0):
            raise CommandFailed("this feature or command is not currently supported")
        raise CommandFailed("machine does not provide NMIs")
    return {}


@commands.handles("announce-self")
def announce_self(context: Context, arguments: Mapping[str, Any]) -> Any:
    return {}


@commands.handles("query-acpi-ospm-status")
def query_acpi_ospm_status(context: Context, arguments: Mapping[str, Any]) -> Any:
    machine = context.machine.options.machine
    if machine in ("none", "isapc"):
        raise CommandFailed("command is not supported, missing ACPI device")
    for option, value in context.machine.options.pairs:
        if option == "m" and "slots" in value:
            raise NotModelled("the ACPI status of memory slots")
    if context.dialect.version < (11, 0, 0) or machine == "microvm":
        return []
    count = vcpus(context.machine.options)
    return [
        {"slot": str(number), "slot-type": "CPU", "source": 0, "status": 0}
        for number in range(count)
    ]


@commands.handles("x-query-virtio")
def x_query_virtio(context: Context, arguments: Mapping[str, Any]) -> Any:
    context.machine.devices.start()
    root = context.machine.objects.tree.root
    types = context.machine.objects.tree.types
    found = [
        {"name": device.kind.removesuffix("-device"), "path": device.path}
        for device in root.walk()
        if types.is_a(device.kind, "virtio-device")
    ]
    if found or context.dialect.version < (10, 0, 0):
        return found[::-1]
    raise CommandFailed("No virtio devices found")


def _no_virtio(context: Context, path: str, kind: str) -> CommandFailed:
    context.machine.devices.start()
    tree = context.machine.objects.tree
    found = tree.lookup(path)
    if isinstance(found, Node) and tree.types.is_a(found.kind, "virtio-device"):
        raise NotModelled("the state of virtio devices")
    return CommandFailed(f"Path {path} is not a {kind}")


@commands.handles("x-query-virtio-status")
def x_query_virtio_status(context: Context, arguments: Mapping[str, Any]) -> Any:
    realized = "" if context.dialect.version < (10, 0, 0) else "realized "
    raise _no_virtio(context, arguments["path"], f"{realized}VirtIODevice")


@commands.handles("x-query-virtio-queue-status")
@commands.handles("x-query-virtio-vhost-queue-status")
def x_query_virtio_queue_status(context: Context, arguments: Mapping[str, Any]) -> Any:
    raise _no_virtio(context, arguments["path"], "VirtIODevice")


@commands.handles("x-query-virtio-queue-element")
def x_query_virtio_queue_element(context: Context, arguments: Mapping[str, Any]) -> Any:
    raise _no_virtio(context, arguments["path"], "VirtIO device")


@commands.handles("xen-load-devices-state")
def xen_load_devices_state(context: Context, arguments: Mapping[str, Any]) -> Any:
    path = arguments["filename"]
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "No such file or directory"
        if context.dialect.version < (10, 0, 0):
            raise CommandFailed(f"Unable to open {path}: {reason}") from error
        raise CommandFailed(f"Could not open '{path}': {reason}") from error
    raise NotModelled("loading a machine's state")
