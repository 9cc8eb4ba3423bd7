"""Reaches servers in a guest, and has guests talk to each other. Needs what is in ``build/``."""

# region: ports
import urllib.request

import pytest
from pytest_qmp import Link, VirtualMachine, VMConfig, VMFactory

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    return qmp_vm_config.replace(
        kernel="build/vmlinuz",
        initrd="build/initrd.gz",
        append="console=ttyS0 quiet panic=-1 network",
        memory="128M",
        ports=[80],
    )


def test_web_server_answers(qmp_vm: VirtualMachine) -> None:
    port = qmp_vm.wait_for_port(80, timeout=60)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
        assert page.status == 200


# endregion
# region: link
def test_two_guests_see_each_other(qmp_vm_factory: VMFactory, qmp_link: Link) -> None:
    machines = [qmp_vm_factory(ports=(), links=[qmp_link]) for _ in range(2)]
    for number, machine in enumerate(machines, 1):
        machine.console.expect_exact("guest# ", timeout=60)
        machine.console.run(f"ip address add 10.1.1.{number}/24 dev eth0", check=True)
        machine.console.run("ip link set eth0 up", check=True)
    first, second = machines

    first.console.run("ping -c 1 -W 20 10.1.1.2", check=True)

    with first.capture() as capture, second.link_down():
        assert first.console.run("ping -c 1 -W 1 10.1.1.2").status != 0
    capture.save("pings.pcap")


# endregion
