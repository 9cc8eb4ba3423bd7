"""From the network of a VMConfig to QEMU's command line."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.network_config import ends_of, port_and_protocol

__all__ = ["USER_NETWORK", "link_id", "network_argv"]

#: The id of the user-mode network.
USER_NETWORK = "network"

_MAC = "52:54:00:12:34:56"


def link_id(index: int) -> str:
    """The id of a machine's end of a link, as ``set_link`` takes it."""
    return f"link{index}"


def network_argv(
    config: VMConfig, arch: str, machine: str | None, link_fds: Sequence[int]
) -> list[str]:
    """The arguments for the network cards and what they are connected to.

    Args:
        config: the machine.
        arch: its architecture.
        machine: its type.
        link_fds: descriptors for ``config.links``, in order.
    """
    argv: list[str] = []
    if config.network or config.ports:
        # QEMU itself finds a free port and listens on it in one step: nobody can come between.
        forwards = (
            f",hostfwd={protocol}:127.0.0.1:0-:{port}"
            for port, protocol in map(port_and_protocol, config.ports)
        )
        restricted = "" if config.network == "user" else ",restrict=on"
        argv += ["-netdev", f"user,id={USER_NETWORK}{restricted}{''.join(forwards)}"]
        argv += ["-device", _card(config, arch, machine, USER_NETWORK, _MAC)]
    for index, (end, fd) in enumerate(zip(ends_of(config.links), link_fds, strict=False)):
        argv += ["-netdev", f"socket,id={link_id(index)},fd={fd}"]
        argv += ["-device", _card(config, arch, machine, link_id(index), end.mac)]
    return argv


def _card(config: VMConfig, arch: str, machine: str | None, netdev: str, mac: str) -> str:
    return f"{_model(config, arch, machine)},id={netdev}-nic,netdev={netdev},mac={mac}"


def _model(config: VMConfig, arch: str, machine: str | None) -> str:
    if config.nic is not None:
        return config.nic
    if arch == "s390x":
        return "virtio-net-ccw"
    if (machine or "").startswith("microvm"):
        return "virtio-net-device"
    # Without its firmware, which only boots from the network and is a package of its own.
    return "virtio-net-pci,romfile="
