"""The handle on a virtual machine: what a test holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qmp.vm.assertions import MachineAssertions
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig, check_names
from pytest_qmp.vm.disks import MachineDisks
from pytest_qmp.vm.host import arch_of_binary
from pytest_qmp.vm.hotplug import MachineHotplug
from pytest_qmp.vm.jobs import MachineJobs
from pytest_qmp.vm.keyboard import MachineKeyboard
from pytest_qmp.vm.lifecycle import require_files
from pytest_qmp.vm.migration import MachineMigration
from pytest_qmp.vm.network import MachineNetwork
from pytest_qmp.vm.network_config import ends_of
from pytest_qmp.vm.ports import MachinePorts
from pytest_qmp.vm.power import MachinePower
from pytest_qmp.vm.process import QEMUProcess
from pytest_qmp.vm.restore_process import ClonableProcess
from pytest_qmp.vm.screen import MachineScreen
from pytest_qmp.vm.snapshots import MachineSnapshots

if TYPE_CHECKING:
    from pytest_qmp.qmp.address import AddressLike

__all__ = ["VirtualMachine"]


class VirtualMachine(
    MachineSnapshots,
    MachinePower,
    MachinePorts,
    MachineAssertions,
    MachineDisks,
    MachineJobs,
    MachineMigration,
    MachineHotplug,
    MachineNetwork,
    MachineKeyboard,
    MachineScreen,
):
    """A machine: QEMU in a process of its own, the fake, or a QEMU that somebody else runs.

    Start it with ``start()`` or as a context manager, which also ends it.

    Args:
        config: what to start; default: the defaults.
        overrides: fields of the config to change.

    Raises:
        VMConfigError: the config can't describe a machine.
        QEMUNotFoundError: there is no such QEMU binary.

    >>> from pytest_qmp import VirtualMachine
    >>> with VirtualMachine(backend="fake", paused=True) as vm:
    ...     vm.assert_status("prelaunch")
    ...     vm.cont()
    ...     vm.wait_for_event("RESUME").name
    'RESUME'
    """

    def __init__(self, config: VMConfig | None = None, **overrides: Any) -> None:
        check_names(overrides, "VirtualMachine")
        config = (config or VMConfig()).replace(**overrides)
        if config.arch is None:
            named = arch_of_binary(config.qemu) if config.qemu is not None else None
            config = config.replace(arch=named or "x86_64")
        if config.links:
            config = config.replace(links=ends_of(config.links))
        require_files(config)
        super().__init__(config, _backend(config))

    @classmethod
    def attach(cls, address: AddressLike, *, timeout: float | None = None) -> VirtualMachine:
        """A handle on a QEMU that runs already; ``close()`` leaves it running.

        Args:
            address: of its QMP monitor.
            timeout: seconds that a wait takes at most.
        """
        from pytest_qmp.vm.external import ExternalMachine

        return cls.run_by(VMConfig(timeout=timeout, consoles=()), ExternalMachine(address))

    @classmethod
    def run_by(cls, config: VMConfig, backend: Backend) -> VirtualMachine:
        """A handle on what something else than the config's own choice runs."""
        machine = cls.__new__(cls)
        super(VirtualMachine, machine).__init__(config, backend)
        return machine


def _backend(config: VMConfig) -> Backend:
    if config.backend != "fake":
        return ClonableProcess(config) if config.cloneable else QEMUProcess(config)
    from pytest_qmp.vm.fake_machine import FakeMachine

    return FakeMachine(config)
