"""QEMU's arguments for folders that are shared by 9p."""

from __future__ import annotations

import os

from pytest_qmp.errors import VMError
from pytest_qmp.vm.argv import default_machine, option, virtio_device
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.shares import checked_shares

__all__ = ["require_device", "shared_by_9p"]


def require_device(device: str, config: VMConfig, qemu: str, remedy: str) -> None:
    """Raises VMError if a QEMU was built without a device.

    Args:
        device: its name.
        config: the machine.
        qemu: path of the binary.
        remedy: what to do then.
    """
    __tracebackhide__ = True
    from pytest_qmp.vm.requirements import missing

    trouble = missing(f"device:{device}", VMConfig(arch=config.arch, qemu=qemu))
    if trouble:
        raise VMError(f"can't share a folder with the guest: {trouble}. {remedy}")


def shared_by_9p(config: VMConfig, qemu: str) -> VMConfig:
    """The config with arguments for its shares by 9p, of which only the others are left.

    Raises:
        VMError: the QEMU has no such device.
    """
    __tracebackhide__ = True
    shares = checked_shares(config.shares)
    ours = [one for one in shares if one.kind == "9p"]
    if not ours:
        return config
    arch = config.arch or "x86_64"
    device = virtio_device(arch, config.machine or default_machine(arch), "virtio-9p")
    require_device(
        device,
        config,
        qemu,
        "Use a QEMU that was built with virtfs, as Debian's and Fedora's are, or "
        "Share(kind='virtiofs')",
    )
    args = list(config.args)
    for number, share in enumerate(ours):
        name = f"share{number}"
        folder = f"local,id={name},security_model={share.security_model},multidevs=remap"
        folder += ",readonly=on" if share.read_only else ""
        args += ["-fsdev", f"{folder},{option('', path=os.path.abspath(share.path))}"]
        args += ["-device", f"{device},fsdev={name},mount_tag={share.tag.replace(',', ',,')}"]
    return config.replace(args=args, shares=[one for one in shares if one.kind != "9p"])
