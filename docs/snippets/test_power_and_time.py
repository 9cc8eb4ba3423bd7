"""Power and time."""

# mypy: allow-untyped-defs
import boot_sector
import pytest
from pytest_qmp import Drive

pytestmark = pytest.mark.qmp(backend="qemu")


@pytest.fixture
def qmp_vm_config(qmp_vm_config, tmp_path):
    disk = tmp_path / "boot.img"
    boot_sector.write_disk(disk)
    return qmp_vm_config.replace(drives=[Drive(disk, format="raw")])


# region: reboot
def test_comes_up_again(qmp_vm):
    qmp_vm.console.expect_exact("Hello")
    reset = qmp_vm.reboot(until="Hello")  # presses the reset button
    assert reset.data["guest"] is False


# endregion
# region: pause
def test_says_nothing_while_it_stands(qmp_vm):
    with qmp_vm.paused():
        qmp_vm.assert_status("paused")
    qmp_vm.assert_status("running")


# endregion
# region: shutdown
def test_powers_off(qmp_vm):
    qmp_vm.console.expect_exact("Hello")
    qmp_vm.console.send("x")
    qmp_vm.wait_for_shutdown()
    assert qmp_vm.wait() == 0


# endregion
# region: time
@pytest.mark.qmp(rtc="2026-01-01T00:00:00", icount=True, seed=1, accel="tcg")
def test_on_new_year_s_day(qmp_vm):
    qmp_vm.console.expect_exact("Hello")
    qmp_vm.assert_qmp("qom-get", "tm_year", 126, path="/machine", property="rtc-time")


# endregion
