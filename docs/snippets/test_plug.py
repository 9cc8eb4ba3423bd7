"""Devices that come and go while the guest runs."""

# region: plug
import pytest
from pytest_qmp import VirtualMachine, VMConfig, VMHotplugError


@pytest.fixture
def qmp_vm_config(qmp_vm_config: VMConfig) -> VMConfig:
    return qmp_vm_config.replace(hotplug_slots=2, devices=["qemu-xhci"])


def test_a_card_is_plugged_in(qmp_vm: VirtualMachine) -> None:
    card = qmp_vm.hotplug("virtio-net-pci", mac="52:54:00:00:00:01")
    path = f"/machine/peripheral/{card}"
    assert qmp_vm.execute("qom-get", path=path, property="mac") == "52:54:00:00:00:01"


def test_usb_goes_at_once(qmp_vm: VirtualMachine) -> None:
    tablet = qmp_vm.hotplug("usb-tablet")
    qmp_vm.unplug(tablet)


# endregion
# region: fake
@pytest.mark.qmp(backend="fake")
def test_a_guest_that_refuses(qmp_vm: VirtualMachine) -> None:
    guest = qmp_vm.fake.guest
    card = qmp_vm.hotplug("virtio-net-pci")

    guest.on_unplug(guest.refuse_unplug)
    with pytest.raises(VMHotplugError, match="does not let go"):
        qmp_vm.unplug(card)

    guest.on_unplug(guest.accept_unplug)
    qmp_vm.unplug(card)


# endregion
