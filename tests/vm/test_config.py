"""What a machine is made of, and the command line that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qmp import Drive, QMPError, VirtualMachine, VMConfig, VMConfigError
from pytest_qmp.vm.argv import build_argv, option
from pytest_qmp.vm.config import memory_bytes


def argv(**fields: Any) -> tuple[str, ...]:
    """The command line of a config, with a monitor on descriptor 5."""
    return build_argv(VMConfig(**fields), "qemu", "tcg", {"qmp": 5}, {"serial0": 6})


def value_of(flag: str, line: tuple[str, ...]) -> str:
    """The value that follows a flag."""
    return line[line.index(flag) + 1]


def test_default_machine_has_nothing_that_was_not_asked_for() -> None:
    line = argv()
    assert line[:5] == ("qemu", "-nodefaults", "-no-user-config", "-display", "none")
    assert value_of("-machine", line) == "q35"


@pytest.mark.parametrize(
    ("arch", "machine"),
    [("x86_64", "q35"), ("aarch64", "virt"), ("riscv64", "virt")],
)
def test_default_machine_of_each_architecture(arch: str, machine: str) -> None:
    assert value_of("-machine", argv(arch=arch)) == machine


def test_an_architecture_without_virt_gets_qemus_own_default() -> None:
    assert "-machine" not in argv(arch="s390x")


def test_aarch64_gets_a_64_bit_cpu() -> None:
    assert value_of("-cpu", argv(arch="aarch64")) == "cortex-a72"
    assert value_of("-cpu", argv(arch="aarch64", cpu="max")) == "max"


def test_monitor_and_console_are_inherited_descriptors() -> None:
    line = argv()
    assert "socket,id=qmp,fd=5" in line
    assert "socket,id=serial0,fd=6" in line
    assert value_of("-serial", line) == "chardev:serial0"


@pytest.mark.parametrize(
    ("field", "flag"),
    [("kernel", "-kernel"), ("initrd", "-initrd"), ("firmware", "-bios"), ("append", "-append")],
)
def test_files_and_texts_are_single_arguments(field: str, flag: str) -> None:
    strange = "/tmp/-a, b=c\n,server=on"
    assert value_of(flag, argv(**{field: strange})) == strange


@given(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1))
def test_a_value_can_not_become_an_option(name: str) -> None:
    text = option("socket", id="a", path=name)
    # As QEMU reads it: a single comma separates, two of them are one comma of the value.
    parts = text.replace(",,", "\0").split(",")
    assert [part.replace("\0", ",") for part in parts] == ["socket", "id=a", f"path={name}"]


def test_a_drive_path_is_no_protocol_and_no_option(tmp_path: Path) -> None:
    image = tmp_path / "nbd:a,if=none.img"
    image.write_bytes(b"\0" * 512)
    drive = value_of("-drive", argv(drives=[image]))
    assert drive.endswith(f"file={tmp_path}/nbd:a,,if=none.img")
    assert drive.startswith("if=virtio,format=raw,")


def test_a_drive_format_is_seen_in_the_file(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"QFI\xfb" + b"\0" * 508)
    assert "format=qcow2" in value_of("-drive", argv(drives=[Drive(image)]))


def test_devices_are_texts_or_mappings() -> None:
    line = argv(devices=["e1000", {"driver": "virtio-rng-pci", "id": "r,1", "bus": None}])
    assert [line[i + 1] for i, one in enumerate(line) if one == "-device"] == [
        "e1000",
        "virtio-rng-pci,id=r,,1",
    ]


def test_a_device_without_driver_is_refused() -> None:
    with pytest.raises(VMConfigError, match="names its driver"):
        argv(devices=[{"id": "x"}])


def test_args_come_last_and_untouched() -> None:
    assert argv(args=["-S", "-name", "a,b"])[-3:] == ("-S", "-name", "a,b")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("256M", 256 << 20), ("1G", 1 << 30), (128, 128 << 20), ("64k", 64 << 10), ("2 GiB", 2 << 30)],
)
def test_memory_sizes(size: str | int, expected: int) -> None:
    assert memory_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "M", "-1", "1.5G", "256 apples", 0, True])
def test_wrong_memory_sizes(size: str | int) -> None:
    with pytest.raises(VMConfigError, match="a memory size is written like '256M'"):
        VMConfig(memory=size)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"args": "-S"}, r"VMConfig.args is a list, as in args=\['-S'\]"),
        ({"devices": {"driver": "x"}}, "VMConfig.devices is a list"),
        ({"drives": Path("a")}, "VMConfig.drives is a list"),
        ({"args": [1]}, "holds texts"),
        ({"backend": "kvm"}, "'qemu' or 'fake'"),
        ({"smp": 0}, "at least 1"),
        ({"timeout": 0}, "number of seconds"),
        ({"name": "a\0b"}, "NUL"),
    ],
)
def test_wrong_values_are_refused_at_once(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VMConfigError, match=words):
        VMConfig(**fields)


def test_replace_names_the_nearest_field() -> None:
    with pytest.raises(VMConfigError, match="no keyword 'memroy'; did you mean 'memory'"):
        VMConfig().replace(memroy="1G")


def test_config_errors_are_value_errors_and_qmp_errors() -> None:
    with pytest.raises(ValueError, match="memory"):
        VMConfig(memory="x")
    with pytest.raises(QMPError, match="memory"):
        VMConfig(memory="x")


def test_filled_keeps_what_is_set() -> None:
    filled = VMConfig(memory="1G").filled(VMConfig(memory="2G", machine="pc"))
    assert (filled.memory, filled.machine) == ("1G", "pc")


@pytest.mark.parametrize("field", ["kernel", "initrd", "firmware"])
def test_an_unreadable_file_is_named_before_anything_starts(field: str, tmp_path: Path) -> None:
    config = VMConfig(backend="fake").replace(**{field: tmp_path / "no-such-file"})
    with pytest.raises(VMConfigError, match=rf"can't read the {field} .*no-such-file.*No such"):
        VirtualMachine(config)


def test_a_folder_as_a_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(VMConfigError, match="Is a directory"):
        VirtualMachine(backend="fake", kernel=tmp_path)


def test_a_missing_drive_is_named(tmp_path: Path) -> None:
    with pytest.raises(VMConfigError, match="can't read the drive"):
        VirtualMachine(backend="fake", drives=[tmp_path / "none.qcow2"])


def test_a_wrong_keyword_of_a_machine_names_the_nearest() -> None:
    with pytest.raises(VMConfigError, match="did you mean 'kernel'"):
        VirtualMachine(kernal="x")
