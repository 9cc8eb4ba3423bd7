"""From settings, markers and fixtures to a started machine: which backend, and what if none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_qmp.errors import NeedsRealGuestError
from pytest_qmp.markers import check_marker, marker_changes, unmet_requirement

if TYPE_CHECKING:
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.machine import VirtualMachine

__all__ = ["complete", "launch", "machines_of", "outcome", "require"]

_machines = pytest.StashKey[list["VirtualMachine"]]()


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
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.host import QEMUNotFoundError, arch_of_binary, find_qemu

    if not isinstance(config, VMConfig):
        raise pytest.UsageError(
            f"the fixture qmp_vm_config returns a VMConfig, not {config!r}: return "
            "qmp_vm_config.replace(…), or pytest_qmp.VMConfig(…)"
        )
    if item is not None:
        config = config.replace(**marker_changes(item))
    asked = config.backend
    config = config.filled(settings.defaults(qemu))
    if config.arch is None:
        config = config.replace(arch=arch_of_binary(config.qemu or "") or "x86_64")
    if config.arch != (arch_of_binary(config.qemu or "") or config.arch) and qemu is None:
        # A binary from the options is for its own architecture; a test of another finds its own.
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


def launch(
    item: pytest.Item, config: VMConfig, settings: QMPSettings, qemu: str | None, **overrides: Any
) -> VirtualMachine:
    """Starts a machine for a test; reports of the test will tell of it.

    Raises:
        VMLaunchError, VMConfigError: it can't be started.
        NeedsRealGuestError, QEMUNotFoundError: as ``complete``.
    """
    __tracebackhide__ = True
    from pytest_qmp.vm.config import check_names
    from pytest_qmp.vm.machine import VirtualMachine

    check_names(overrides, "qmp_vm_factory")
    config = complete(config, settings, qemu, item)
    if overrides:
        config = complete(config.replace(backend=None, **overrides), settings, qemu)
    machines = machines_of(item)
    if settings.connect is not None and config.backend == "qemu":
        machine = VirtualMachine.attach(settings.connect, timeout=settings.timeout)
    else:
        machine = VirtualMachine(config)
    machine.label = config.name or f"vm{len(machines)}"
    machines.append(machine)
    return machine.start()


def machines_of(item: pytest.Item) -> list[VirtualMachine]:
    """The machines that were started for a test, in order."""
    return item.stash.setdefault(_machines, [])


def require(item: pytest.Item, settings: QMPSettings) -> None:
    """Looks into what a test's markers ask for.

    Raises:
        NeedsRealGuestError: a requirement is not met.
        pytest.UsageError: a marker can't be right.
    """
    __tracebackhide__ = True
    if item.get_closest_marker("qmp") is None:
        return
    check_marker(item)
    if not any(mark.kwargs.get("requires") for mark in item.iter_markers("qmp")):
        return
    from pytest_qmp.vm.config import VMConfig

    parametrized = getattr(item, "callspec", None)
    qemu = parametrized.params.get("_qmp_qemu") if parametrized is not None else None
    reason = unmet_requirement(item, complete(VMConfig(), settings, qemu, item))
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
    ours = ("pytest_qmp", "_pytest", "pluggy", "xdist")
    traceback = error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in ours:
            return True
        traceback = traceback.tb_next
    return False
