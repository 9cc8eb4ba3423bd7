"""Look at a guest's screen and press its keys."""

# mypy: allow-untyped-defs
# region: config
import boot_sector
import pytest
from pytest_qmp import Drive


@pytest.fixture
def qmp_vm_config(qmp_vm_config, tmp_path):
    disk = tmp_path / "boot.img"
    boot_sector.write_disk(disk)
    return qmp_vm_config.replace(drives=[Drive(disk, format="raw")], display=True)


# endregion
# region: picture
def test_takes_a_picture(qmp_vm, tmp_path):
    picture = qmp_vm.screenshot(tmp_path / "screen.png")
    assert picture.size in [(640, 480), (720, 400)]


# endregion
# region: keys
@pytest.mark.qmp(backend="qemu")
def test_three_keys_start_it_anew(qmp_vm):
    qmp_vm.console.expect_exact("Hello from 512 bytes!")
    before = qmp_vm.screenshot()

    qmp_vm.send_keys("ctrl-alt-delete")
    qmp_vm.wait_for_event("RESET", match={"data": {"guest": True}})

    # All but a thousandth of it, as the cursor blinks.
    qmp_vm.wait_for_screen(before, tolerance=0.001)


# endregion
