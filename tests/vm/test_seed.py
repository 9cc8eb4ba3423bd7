"""The seed of cloud-init: made, attached, and read by a real guest."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import linux_guest
import pycdlib
import pytest

from pytest_qmp import VirtualMachine, VMConfig, VMConfigError, VMError, create_seed_image
from tests.vm.every_backend import EVERY_QEMU, config_of

LIMIT = 60


def read(image: Path, name: str) -> bytes:
    """A file of an ISO image, by each of the two names that systems go by."""
    iso = pycdlib.PyCdlib()
    iso.open(str(image))
    try:
        found = []
        for way in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            data = io.BytesIO()
            iso.get_file_from_iso_fp(data, **way)
            found.append(data.getvalue())
    finally:
        iso.close()
    assert found[0] == found[1]
    return found[0]


def label(image: Path) -> str:
    """As blkid reads it."""
    return image.read_bytes()[0x8028:0x8048].decode().strip()


def test_a_text_and_what_comes_with_it(tmp_path: Path) -> None:
    image = create_seed_image(tmp_path / "seed.iso", "#cloud-config\nusers: [ü]\n")
    assert label(image) == "CIDATA"
    assert read(image, "user-data").decode() == "#cloud-config\nusers: [ü]\n"
    first = json.loads(read(image, "meta-data"))["instance-id"]
    assert first.startswith("pytest-qmp-")
    # cloud-init does its work once for each.
    create_seed_image(image, "#cloud-config\nusers: [o]\n")
    assert json.loads(read(image, "meta-data"))["instance-id"] != first
    with pytest.raises(pycdlib.pycdlibexception.PyCdlibInvalidInput):
        read(image, "network-config")


def test_mappings_and_files(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"#!/bin/sh\n\xff\n")
    image = create_seed_image(
        tmp_path / "seed.iso",
        script,
        {"instance-id": "i-1", "local-hostname": "host"},
        {"version": 2, "ethernets": {}},
    )
    assert read(image, "user-data") == script.read_bytes()
    assert json.loads(read(image, "meta-data")) == {"instance-id": "i-1", "local-hostname": "host"}
    assert json.loads(read(image, "network-config")) == {"version": 2, "ethernets": {}}
    create_seed_image(image, {"users": ["ü"]})
    first, _, rest = read(image, "user-data").decode().partition("\n")
    assert (first, json.loads(rest)) == ("#cloud-config", {"users": ["ü"]})
    create_seed_image(image, b"whatever")
    assert read(image, "user-data") == b"whatever"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"user_data": "users: []"}, "user_data begins with 'users.*'#cloud-config'.*pathlib.Path"),
        ({"user_data": 7}, "user_data is a text, a mapping, bytes, or a pathlib.Path.*not 7"),
        ({"user_data": {"x": object()}}, "user_data is a mapping of texts.*not JSON serializable"),
        ({"meta_data": ["x"]}, r"meta_data is a text.*not \['x'\]"),
        ({"network_config": 1}, "network_config is a text.*not 1"),
    ],
)
def test_what_is_no_seed(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        VMConfig(**fields)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VMConfigError, match=r"can't read the user_data '.*none': No such file"):
        create_seed_image(tmp_path / "seed.iso", tmp_path / "none")


def test_the_package_that_makes_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycdlib", None)
    with pytest.raises(VMError, match=r"pip install 'pytest-qmp\[cloud-init\]'"):
        create_seed_image(tmp_path / "seed.iso", "#cloud-config\n")


def test_the_fake_has_no_guest_to_read_it() -> None:
    with VirtualMachine(backend="fake", user_data="#cloud-config\n") as vm:
        vm.assert_status("running")


@pytest.mark.parametrize("qemu", EVERY_QEMU)
@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_it_is_attached_read_only(qemu: str, machine: str) -> None:
    config = config_of(qemu).replace(machine=machine, paused=True, meta_data={"instance-id": "i"})
    with VirtualMachine(config) as vm:
        (drive,) = (one for one in vm.execute("query-block") if one["device"] == "cloud-init")
        assert drive["inserted"]["ro"]
        image = Path(drive["inserted"]["file"])
        assert read(image, "user-data") == b""
    assert not image.exists()


@pytest.mark.needs_qemu
def test_a_guest_reads_it() -> None:
    try:
        guest = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    config = VMConfig(
        accel="tcg",
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        memory="256M",
        timeout=LIMIT,
        user_data={"runcmd": ["greet"]},
        network_config={"version": 2},
    )
    with VirtualMachine(config) as vm:
        vm.console.expect_exact(linux_guest.PROMPT)
        # By the label, as cloud-init finds it.
        vm.console.sendline("mkdir /seed; mount -t iso9660 -o ro LABEL=CIDATA /seed; cat /seed/*")
        vm.console.expect_exact('"instance-id"')
        vm.console.expect_exact('"version": 2')
        vm.console.expect_exact('"greet"')
