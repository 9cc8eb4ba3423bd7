"""From settings, markers and fixtures to a started machine: which backend, and what if none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_qmp.errors import NeedsRealGuestError
from pytest_qmp.markers import check_marker, marker_changes, unmet_requirement
from pytest_qmp.sharing import start_with_memory

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.machine import VirtualMachine

__all__ = [
    "adopt",
    "checks_of",
    "complete",
    "launch",
    "machines_of",
    "outcome",
    "require",
    "require_early",
]

_machines = pytest.StashKey[list["VirtualMachine"]]()
_checks = pytest.StashKey[list[tuple[str, Callable[[], None]]]]()


def complete(
    config: VMConfig, settings: QMPSettings, qemu: str | None, item: pytest.Item | None = None
) -> VMConfig:
    """Fills in what a config leaves open, and decides who plays the machine.

    Args:
        config: of the test.
        settings: what the options say.
        qemu: the binary of this test, where tests run on several.
        item: the test, whose markers win over the config.

    Raises:
        NeedsRealGuestError: the test asks for QEMU, and the options for the fake.
        QEMUNotFoundError: QEMU was asked for and there is none.
    """
    __tracebackhide__ = True
    from pytest_qmp.errors import QEMUNotFoundError
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.host import arch_of_binary, find_qemu

    if not isinstance(config, VMConfig):
        raise pytest.UsageError(
            f"the fixture qmp_vm_config returns a VMConfig, not {config!r}: return "
            "qmp_vm_config.replace(…), or pytest_qmp.VMConfig(…)"
        )
    if item is not None:
        config = config.replace(**marker_changes(item))
    asked = config.backend
    config = config.filled(settings.defaults(qemu))
    of_binary = arch_of_binary(config.qemu or "")
    if config.arch is None:
        config = config.replace(arch=of_binary or "x86_64")
    elif of_binary not in (None, config.arch):
        # A binary is for its own architecture; a test of another finds its own.
        config = config.replace(qemu=None)
    if asked == "qemu" and settings.backend == "fake":
        raise NeedsRealGuestError("this test needs a real QEMU, and --qmp-backend=fake was given")
    backend = asked or settings.backend
    if backend == "fake":
        return config.replace(backend="fake")
    if settings.connect is not None:
        return config.replace(backend="qemu")
    try:
        found = find_qemu(config.arch or "x86_64", config.qemu)
    except QEMUNotFoundError as error:
        if backend == "auto" and not error.given:
            return config.replace(backend="fake")
        raise
    return config.replace(backend="qemu", qemu=found)


def launch(item: pytest.Item, config: VMConfig, settings: QMPSettings) -> VirtualMachine:
    """Starts a machine for a test; reports of the test will tell of it.

    Args:
        item: the test.
        config: from ``complete``.
        settings: what the options say.

    Raises:
        VMLaunchError, VMConfigError: it can't be started, or there is not enough memory for it.
        QMPConnectError: nobody is at the address of ``--qmp-connect``.
    """
    __tracebackhide__ = True
    from pytest_qmp.vm.machine import VirtualMachine

    if settings.connect is not None and config.backend == "qemu":
        machine = VirtualMachine.attach(settings.connect, timeout=settings.timeout)
    else:
        machine = VirtualMachine(config)
    adopt(item, machine, settings)
    return (
        start_with_memory(machine, item, settings) if machine.backend == "qemu" else machine.start()
    )


def adopt(item: pytest.Item, machine: VirtualMachine, settings: QMPSettings) -> None:
    """Makes a machine one of a test's: reports will tell of it."""
    machines = machines_of(item)
    machine.label = machine.config.name or f"vm{len(machines)}"
    machine.update_screens = settings.update_screens
    machine.keep_logs()
    machines.append(machine)
    if len(machines) > 1:
        for one in machines:
            one.tell_apart()
    checks_of(item).append((machine.label, machine.check))


def machines_of(item: pytest.Item) -> list[VirtualMachine]:
    """The machines that were started for a test, in order."""
    return item.stash.setdefault(_machines, [])


def checks_of(item: pytest.Item) -> list[tuple[str, Callable[[], None]]]:
    """Of each fake of a test: its name, and what raises the faults that it has not told yet."""
    return item.stash.setdefault(_checks, [])


def require_early(item: pytest.Item, settings: QMPSettings) -> None:
    """Looks into what a test's markers ask for, as far as its fixtures need not be known.

    Raises:
        NeedsRealGuestError, QEMUNotFoundError: who is to play the machine is not there.
        NeedsRealGuestError: a requirement of a test without a machine is not met.
        pytest.UsageError: a marker can't be right.
    """
    __tracebackhide__ = True
    if item.get_closest_marker("qmp") is None:
        return
    check_marker(item)
    from pytest_qmp.vm.config import VMConfig

    parametrized = getattr(item, "callspec", None)
    qemu = parametrized.params.get("_qmp_qemu") if parametrized is not None else None
    config = complete(VMConfig(), settings, qemu, item)
    if "qmp_vm_config" not in getattr(item, "fixturenames", ()):
        require(item, config, settings)


def require(item: pytest.Item, config: VMConfig, settings: QMPSettings) -> None:
    """Looks into the requirements of a test's markers.

    Raises:
        NeedsRealGuestError: one is not met.
    """
    __tracebackhide__ = True
    reason = unmet_requirement(item, config, settings.connect)
    if reason:
        raise NeedsRealGuestError(reason)


def outcome(error: Exception, settings: QMPSettings) -> BaseException:
    """What to raise for an error in a test's set-up.

    A lack is a skip, or a failure under ``--qmp-require``. Another error is itself if it came
    through the user's own code, and else a failure with its text alone: our own source tells
    nobody anything.
    """
    text = str(error)
    if isinstance(error, NeedsRealGuestError) or getattr(error, "given", None) is False:
        if not settings.require:
            return pytest.skip.Exception(text, _use_item_location=True)
        return pytest.fail.Exception(f"{text} (and --qmp-require is given)", pytrace=False)
    return error if _came_through_user_code(error) else pytest.fail.Exception(text, pytrace=False)


def _came_through_user_code(error: BaseException) -> bool:
    # Below pytest's own frames lies the fixture that was set up: ours, or the user's. Above them
    # may be wrappers of any plugin.
    lowest = ""
    traceback = error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        lowest = "" if module in ("_pytest", "pluggy") else lowest or module
        traceback = traceback.tb_next
    return lowest not in ("", "pytest_qmp")
