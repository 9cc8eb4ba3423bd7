"""pytest fixtures, a QMP client and a fake QEMU for anything that runs in QEMU or speaks QMP.

Public names are loaded when they are first used, so that importing the plugin into a test run
that has no virtual machine costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pytest_qmp._version import __version__

if TYPE_CHECKING:
    from pytest_qmp.errors import (
        FakeQMPServerError,
        NeedsRealGuestError,
        QEMUNotFoundError,
        QMPAddressError,
        QMPCapabilitiesError,
        QMPCommandError,
        QMPConnectError,
        QMPDisconnectedError,
        QMPError,
        QMPProtocolError,
        QMPTimeoutError,
        ScreenMismatchError,
        UnmodelledCommandError,
        VMConfigError,
        VMError,
        VMGoneError,
        VMHotplugError,
        VMJobError,
        VMLaunchError,
        VMMigrationError,
        VMVerdictError,
    )
    from pytest_qmp.fake.server import FakeQMPServer
    from pytest_qmp.fixtures import VMFactory
    from pytest_qmp.qmp.aio import AsyncQMPClient
    from pytest_qmp.qmp.client import QMPClient
    from pytest_qmp.qmp.events import QMPEvent
    from pytest_qmp.qmp.guest_agent import GuestAgentClient, GuestExecResult
    from pytest_qmp.qmp.legacy import QEMUMonitorProtocol
    from pytest_qmp.vm.capture import Capture
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.console import (
        CommandResult,
        Console,
        ConsoleCommandError,
        ConsoleEOFError,
        ConsoleLoginError,
        ConsoleTimeoutError,
        ConsoleVerdictError,
    )
    from pytest_qmp.vm.disks import BlockNode
    from pytest_qmp.vm.drive import Drive
    from pytest_qmp.vm.images import create_disk
    from pytest_qmp.vm.job_story import JobInfo
    from pytest_qmp.vm.links import Link
    from pytest_qmp.vm.machine import VirtualMachine
    from pytest_qmp.vm.migrating import Migration
    from pytest_qmp.vm.screenshot import Screenshot
    from pytest_qmp.vm.seed import create_seed_image
    from pytest_qmp.vm.shares import Share
    from pytest_qmp.vm.template import Template
    from pytest_qmp.vm.verdicts import Verdict

_HOMES = {
    "AsyncQMPClient": "pytest_qmp.qmp.aio",
    "BlockNode": "pytest_qmp.vm.disks",
    "Capture": "pytest_qmp.vm.capture",
    "CommandResult": "pytest_qmp.vm.console",
    "Console": "pytest_qmp.vm.console",
    "ConsoleCommandError": "pytest_qmp.vm.console",
    "ConsoleEOFError": "pytest_qmp.vm.console",
    "ConsoleLoginError": "pytest_qmp.vm.console",
    "ConsoleTimeoutError": "pytest_qmp.vm.console",
    "ConsoleVerdictError": "pytest_qmp.vm.console",
    "Drive": "pytest_qmp.vm.drive",
    "FakeQMPServer": "pytest_qmp.fake.server",
    "FakeQMPServerError": "pytest_qmp.errors",
    "GuestAgentClient": "pytest_qmp.qmp.guest_agent",
    "GuestExecResult": "pytest_qmp.qmp.guest_agent",
    "JobInfo": "pytest_qmp.vm.job_story",
    "Link": "pytest_qmp.vm.links",
    "Migration": "pytest_qmp.vm.migrating",
    "NeedsRealGuestError": "pytest_qmp.errors",
    "QEMUMonitorProtocol": "pytest_qmp.qmp.legacy",
    "QEMUNotFoundError": "pytest_qmp.errors",
    "QMPAddressError": "pytest_qmp.errors",
    "QMPCapabilitiesError": "pytest_qmp.errors",
    "QMPClient": "pytest_qmp.qmp.client",
    "QMPCommandError": "pytest_qmp.errors",
    "QMPConnectError": "pytest_qmp.errors",
    "QMPDisconnectedError": "pytest_qmp.errors",
    "QMPError": "pytest_qmp.errors",
    "QMPEvent": "pytest_qmp.qmp.events",
    "QMPProtocolError": "pytest_qmp.errors",
    "QMPTimeoutError": "pytest_qmp.errors",
    "ScreenMismatchError": "pytest_qmp.errors",
    "Screenshot": "pytest_qmp.vm.screenshot",
    "Share": "pytest_qmp.vm.shares",
    "Template": "pytest_qmp.vm.template",
    "UnmodelledCommandError": "pytest_qmp.errors",
    "VMConfig": "pytest_qmp.vm.config",
    "VMConfigError": "pytest_qmp.errors",
    "VMError": "pytest_qmp.errors",
    "VMFactory": "pytest_qmp.fixtures",
    "VMGoneError": "pytest_qmp.errors",
    "VMHotplugError": "pytest_qmp.errors",
    "VMJobError": "pytest_qmp.errors",
    "VMLaunchError": "pytest_qmp.errors",
    "VMMigrationError": "pytest_qmp.errors",
    "VMVerdictError": "pytest_qmp.errors",
    "Verdict": "pytest_qmp.vm.verdicts",
    "VirtualMachine": "pytest_qmp.vm.machine",
    "create_disk": "pytest_qmp.vm.images",
    "create_seed_image": "pytest_qmp.vm.seed",
}

__all__ = [
    "AsyncQMPClient",
    "BlockNode",
    "Capture",
    "CommandResult",
    "Console",
    "ConsoleCommandError",
    "ConsoleEOFError",
    "ConsoleLoginError",
    "ConsoleTimeoutError",
    "ConsoleVerdictError",
    "Drive",
    "FakeQMPServer",
    "FakeQMPServerError",
    "GuestAgentClient",
    "GuestExecResult",
    "JobInfo",
    "Link",
    "Migration",
    "NeedsRealGuestError",
    "QEMUMonitorProtocol",
    "QEMUNotFoundError",
    "QMPAddressError",
    "QMPCapabilitiesError",
    "QMPClient",
    "QMPCommandError",
    "QMPConnectError",
    "QMPDisconnectedError",
    "QMPError",
    "QMPEvent",
    "QMPProtocolError",
    "QMPTimeoutError",
    "ScreenMismatchError",
    "Screenshot",
    "Share",
    "Template",
    "UnmodelledCommandError",
    "VMConfig",
    "VMConfigError",
    "VMError",
    "VMFactory",
    "VMGoneError",
    "VMHotplugError",
    "VMJobError",
    "VMLaunchError",
    "VMMigrationError",
    "VMVerdictError",
    "Verdict",
    "VirtualMachine",
    "__version__",
    "create_disk",
    "create_seed_image",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
