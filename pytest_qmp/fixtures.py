"""The fixtures, each small and overridable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_qmp.options import settings_of

if TYPE_CHECKING:
    from pytest_qmp.fake.server import FakeQMPServer
    from pytest_qmp.qmp.client import QMPClient
    from pytest_qmp.settings import QMPSettings
    from pytest_qmp.vm.config import VMConfig
    from pytest_qmp.vm.links import Link
    from pytest_qmp.vm.machine import VirtualMachine

    Boot = Callable[[VirtualMachine], object]

__all__ = [
    "VMFactory",
    "_qmp_qemu",
    "qmp_boot",
    "qmp_client",
    "qmp_fake_server",
    "qmp_link",
    "qmp_settings",
    "qmp_vm",
    "qmp_vm_config",
    "qmp_vm_factory",
]


class VMFactory(Protocol):
    """What ``qmp_vm_factory`` gives."""

    def __call__(
        self, config: VMConfig | None = None, *, boot: Boot | None = ..., **overrides: Any
    ) -> VirtualMachine:
        """Starts one more machine; it is ended with the test.

        Args:
            config: what to start; default: the test's ``qmp_vm_config`` and its marker.
            boot: boots it, once for all that are like it; default: what ``qmp_boot`` returns; None
                leaves it as it starts.
            overrides: fields of it to change.
        """


@pytest.fixture(scope="session")
def qmp_settings(pytestconfig: pytest.Config) -> QMPSettings:
    """What the options and the ini file came to."""
    return settings_of(pytestconfig)


@pytest.fixture(scope="session")
def _qmp_qemu(request: pytest.FixtureRequest) -> str | None:
    """The QEMU binary of this test, where ``--qmp-qemu`` was given several times."""
    return getattr(request, "param", None)


@pytest.fixture
def qmp_vm_config(
    request: pytest.FixtureRequest, qmp_settings: QMPSettings, _qmp_qemu: str | None
) -> VMConfig:
    """What ``qmp_vm`` is made of: the options and the test's marker. Override it to configure.

    An override may build on it (``qmp_vm_config.replace(kernel=…)``) or return a VMConfig of its
    own; what that leaves open comes from the options.
    """
    from pytest_qmp.launch import complete
    from pytest_qmp.vm.config import VMConfig

    return complete(VMConfig(), qmp_settings, _qmp_qemu, request.node).replace(backend=None)


@pytest.fixture(scope="session")
def qmp_boot() -> Boot | None:
    """How a machine is booted once, for all tests that have one like it. Override it.

    It returns a function that takes the started machine and brings it to where every test is to
    begin: it waits for a prompt, or logs in. Each test's machine is then a fresh one at that very
    place, at the cost of a clone. None (the default): each test starts its machine, and boots it.
    """
    return None


@pytest.fixture
def qmp_vm_factory(
    request: pytest.FixtureRequest,
    qmp_settings: QMPSettings,
    qmp_vm_config: VMConfig,
    qmp_boot: Boot | None,
    _qmp_qemu: str | None,
) -> Iterator[VMFactory]:
    """Starts machines: ``qmp_vm_factory()``, ``qmp_vm_factory(memory="1G")``.

    Each is ended with the test, the last one first. Those that ``qmp_boot`` boots come booted;
    ``qmp_vm_factory(boot=None)`` gives one that does not.
    """
    from pytest_qmp.launch import complete, launch, require
    from pytest_qmp.markers import marker_changes
    from pytest_qmp.sharing import release_ended
    from pytest_qmp.vm.config import check_names

    item = request.node
    require(item, complete(qmp_vm_config, qmp_settings, _qmp_qemu, item), qmp_settings)
    started: list[VirtualMachine] = []

    def start(
        config: VMConfig | None = None, *, boot: Boot | None = qmp_boot, **overrides: Any
    ) -> VirtualMachine:
        __tracebackhide__ = True
        check_names(overrides, "qmp_vm_factory")
        if config is None:
            # Who plays it is decided anew: an override may ask for the fake, or for QEMU.
            config = complete(qmp_vm_config, qmp_settings, _qmp_qemu, item)
            config = config.replace(backend=marker_changes(item).get("backend"))
        config = complete(config.replace(**overrides), qmp_settings, _qmp_qemu)
        if config.incoming and any(one.config.cloneable for one in started):
            # As the machine whose guest it is for: there the memory has another name.
            config = config.replace(cloneable=True)
        if boot is None or config.incoming:
            machine = launch(item, config, qmp_settings)
        else:
            from pytest_qmp.booting import launch_booted

            machine = launch_booted(item, config, qmp_settings, boot)
        started.append(machine)
        return machine

    yield start
    for machine in reversed(started):
        machine.close()
    release_ended(request.config)
    for machine in started:
        _report_faults(machine.check)


@pytest.fixture
def qmp_link() -> Iterator[Link]:
    """A private network for the test's machines: ``qmp_vm_factory(links=[qmp_link])``."""
    from pytest_qmp.vm.links import Link

    with Link() as link:
        yield link


@pytest.fixture
def qmp_vm(qmp_vm_factory: VMFactory) -> VirtualMachine:
    """A started virtual machine with a connected QMP client, ended with the test."""
    __tracebackhide__ = True
    return qmp_vm_factory()


@pytest.fixture
def qmp_client(qmp_vm: VirtualMachine) -> QMPClient:
    """The QMP client of ``qmp_vm``."""
    return qmp_vm.qmp


@pytest.fixture
def qmp_fake_server(request: pytest.FixtureRequest) -> Iterator[FakeQMPServer]:
    """A fake QEMU that listens on a unix socket (``.address``), for code that speaks QMP.

    ``@pytest.mark.qmp(emulate="7.2")`` chooses the version that it plays. A command that it does
    not model, and no stub answers, fails the test at its end.
    """
    from pytest_qmp.fake.server import FakeQMPServer
    from pytest_qmp.launch import checks_of
    from pytest_qmp.markers import marker_changes

    server = FakeQMPServer(
        **{name: value for name, value in marker_changes(request.node).items() if name == "emulate"}
    )
    checks_of(request.node).append(("qmp_fake_server", server.check))
    server.start()
    try:
        yield server
    finally:
        server.close()
    _report_faults(server.check)


def _report_faults(check: Callable[[], None]) -> None:
    """Fails the test with what went wrong beside it, without our own source around it."""
    from pytest_qmp.errors import FakeQMPServerError, VMVerdictError

    __tracebackhide__ = True
    try:
        check()
    except (FakeQMPServerError, VMVerdictError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
