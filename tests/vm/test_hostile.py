"""Hostile input: names and paths that would be options, and guests that would drive a terminal."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_qmp import (
    Drive,
    GuestAgentClient,
    QMPClient,
    QMPCommandError,
    QMPError,
    VirtualMachine,
    VMConfig,
    VMConfigError,
)
from pytest_qmp.artifacts.bundle import write_bundle
from pytest_qmp.text import last_lines, printable
from pytest_qmp.vm import host
from pytest_qmp.vm.argv import build_argv
from pytest_qmp.vm.shared_state import SharedState
from tests import guests

# -- what becomes of a command line ----------------------------------------------------------------

#: A text as an attacker would choose it: full of what means something to QEMU or to a shell.
hostile = st.text(
    st.one_of(
        st.sampled_from(",=-:\n\t\"'\\ $;|&%{}[]?*@/"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=30,
)


def options(argv: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """A command line as QEMU takes it apart: each option with its value.

    Also what it would take for an option where only a value was meant.
    """
    without = {"-nodefaults", "-no-user-config", "-S"}
    words, found = list(argv[1:]), []
    while words:
        name = words.pop(0)
        found.append((name, None if name in without else words.pop(0)))
    return found


def pairs(text: str) -> list[tuple[str, str | None]]:
    """An option's value as QEMU takes it apart: a single comma separates, two stand for one."""
    parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    found: list[tuple[str, str | None]] = []
    for part in parts:
        name, equals, value = part.partition("=")
        found.append((name, value if equals else None))
    return found


def line(**fields: Any) -> list[tuple[str, str | None]]:
    return options(build_argv(VMConfig(**fields), "qemu", "tcg", {"qmp": 5}, {"serial0": 6}))


PLAIN = [name for name, _ in line()]


def value_of(found: list[tuple[str, str | None]], option: str) -> str:
    return next(value for name, value in found if name == option and value is not None)


@given(hostile)
def test_a_name_is_a_name(name: str) -> None:
    found = line(name=name)
    assert sorted(one for one, _ in found) == sorted([*PLAIN, "-name"])
    assert pairs(value_of(found, "-name")) == [("guest", name)]


@given(hostile, st.sampled_from(["firmware", "kernel", "initrd", "append"]))
def test_a_file_or_a_text_is_one_argument(text: str, field: str) -> None:
    option = {"firmware": "-bios"}.get(field, f"-{field}")
    assert value_of(line(**{field: text}), option) == text
    assert [one for one, _ in line(**{field: text})].count(option) == 1


@given(hostile, hostile, hostile, hostile)
def test_a_drive_is_its_own_values(path: str, form: str, interface: str, name: str) -> None:
    drive = Drive(Path("/images", path.lstrip("/")), form, interface, id=name)
    value = value_of(line(drives=[drive]), "-drive")
    assert pairs(value)[:3] == [("if", interface), ("id", name), ("format", form)]
    last, file = pairs(value)[-1]
    assert (last, len(pairs(value))) == ("file", 4)
    # A protocol, such as nbd:, would have to stand where the slash does.
    assert file is not None
    assert file.startswith("/")


@given(hostile)
def test_a_relative_drive_is_no_protocol(path: str) -> None:
    value = value_of(line(drives=[Drive(f"nbd:{path}", "raw")]), "-drive")
    file = pairs(value)[-1][1]
    assert file is not None
    assert file.startswith("/")


@given(hostile, st.dictionaries(hostile, hostile, max_size=3))
def test_a_device_is_its_own_properties(driver: str, values: dict[str, str]) -> None:
    values.pop("driver", None)
    try:
        text = value_of(line(devices=[{"driver": driver, **values}]), "-device")
    except VMConfigError as error:
        assert "is no name of a driver or of a property" in str(error)  # noqa: PT017
        return
    expected = [*([(driver, None)] if driver else []), *values.items()]
    assert (pairs(text) if text else []) == expected


@given(st.lists(hostile, max_size=3, unique=True))
def test_a_console_is_a_name(names: list[str]) -> None:
    argv = build_argv(VMConfig(), "qemu", "tcg", {"qmp": 5}, dict.fromkeys(names, 6))
    found = [value for name, value in options(argv) if name == "-chardev"]
    assert [pairs(one or "") for one in found[1:]] == [
        [("socket", None), ("id", name), ("fd", "6")] for name in names
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel": "a\0b"},
        {"kernel": Path("a\0b")},
        {"drives": ["a\0b"]},
        {"drives": [Drive("a", id="\0")]},
        {"devices": [{"driver": "e1000", "id": "\0"}]},
        {"args": ["-x\0"]},
        {"consoles": ["a\0"]},
        {"env": {"A": "\0"}},
    ],
)
def test_a_nul_byte_is_refused_wherever_it_is(fields: dict[str, Any]) -> None:
    with pytest.raises(VMConfigError, match=f"VMConfig.{next(iter(fields))} holds a NUL byte"):
        VMConfig(**fields)


def test_bytes_are_refused() -> None:
    with pytest.raises(VMConfigError, match=r"VMConfig\.kernel holds texts, not b'x'"):
        VMConfig(kernel=b"x")  # type: ignore[arg-type]


def test_a_variable_whose_name_assigns_is_refused() -> None:
    with pytest.raises(VMConfigError, match=r"VMConfig\.env has names of variables"):
        VMConfig(env={"A=B": "c"})


# -- what reaches QEMU -----------------------------------------------------------------------------

ODD = ",if=none,id=x:\n-drive 'ü\".img"


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, whose name could be an option as well."""
    folder = tmp_path / "nbd:a,b=c -S"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.needs_qemu
@pytest.mark.parametrize("name", [ODD, "-S", "nbd:localhost:1", "json:{}", "fat:rw:x", "=,,,"])
def test_a_drive_of_any_name_is_that_file(odd: Path, name: str) -> None:
    (odd / name).write_bytes(b"\0" * 512)
    with VirtualMachine(accel="tcg", drives=[Drive(name, read_only=True)]) as vm:
        (disk,) = vm.execute("query-block")
        assert disk["inserted"]["image"]["filename"] == str(odd / name)
        vm.assert_status("running")


@pytest.mark.needs_qemu
def test_files_and_texts_reach_the_machine_as_they_are(odd: Path) -> None:
    firmware = guests.overrides("spin", odd)["firmware"]
    (odd / ODD).write_bytes(firmware.read_bytes())
    append = "console=ttyS0 x,y=z\n-S 'quoted'"
    with VirtualMachine(
        accel="tcg", firmware=ODD, kernel=None, name="process=x,debug-threads=on", paused=True
    ) as vm:
        vm.assert_qmp("query-name", "name", "process=x,debug-threads=on")
        assert vm.execute("qom-get", path="/machine", property="firmware") == ODD
    kernel = guests.overrides("spin", odd, arch="aarch64")["kernel"]
    (odd / "-kernel").write_bytes(kernel.read_bytes())
    given: dict[str, Any] = {"kernel": "-kernel", "initrd": ODD, "append": append}
    with VirtualMachine(arch="aarch64", accel="tcg", paused=True, **given) as vm:
        for field, value in given.items():
            assert vm.execute("qom-get", path="/machine", property=field) == value


@pytest.mark.needs_qemu
def test_a_device_value_of_any_text_is_that_value() -> None:
    serial = "a,b=c\n-S,,"
    device = {"driver": "virtio-blk-pci", "drive": "disk", "serial": serial, "id": "d"}
    args = ["-blockdev", "driver=null-co,node-name=disk,size=512"]
    with VirtualMachine(accel="tcg", devices=[device], args=args) as vm:
        path = "/machine/peripheral/d/virtio-backend"
        assert vm.execute("qom-get", path=path, property="serial") == serial
        vm.assert_status("running")


@pytest.mark.needs_qemu
def test_no_port_is_opened() -> None:
    with VirtualMachine(accel="tcg", devices=["virtio-net-pci"], consoles=("a", "b")) as vm:
        assert vm.pid is not None
        assert psutil.Process(vm.pid).net_connections("inet") == []
        # Its sockets are those that it inherited, which have no path.
        paths = {str(one.laddr) for one in psutil.Process(vm.pid).net_connections("unix")}
        assert paths == {""}
    assert [one for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"] == []


# -- what a guest, or a peer, would do to a terminal -----------------------------------------------

ATTACKS = [
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x1b\\",
    "\x1b]8;;http://example.invalid\x1b\\here\x1b]8;;\x1b\\",
    "\x1bP$qm\x1b\\",
    "\x1b_application\x1b\\",
    "\x1b^private\x1b\\",
    "\x1b[6n",
    "\x1bc",
    "\x1b(0",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x90$qm\x9c",
    "\x84\x85\x8d",
    "\x1b\x1b[0m[2J",
    "\x1b[\x1b[0m2J",
    "\x1b]0;never ends",
    "\x1b[12;",
    "\x1b",
    "\x07\x08\x0b\x0c\x0e\x0f\x7f\x00",
    "\u202egnp.exe\u202c",
    "\u2066a\u2069\u200f\u200e\u061c",
    "\u2028\u2029\x85",
    "line\rover",
]
BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u061c\u200e\u200f"


def assert_harmless(text: str) -> None:
    """Nothing in it moves a cursor, asks a terminal to answer, or turns the order of the text."""
    bad = [
        one
        for one in text
        if (unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one not in "\n\t")
        or unicodedata.bidirectional(one) in BIDI
        or one in MARKS
    ]
    assert not bad


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_what_is_shown_is_harmless(attack: str) -> None:
    text = f"before {attack}\nafter"
    assert_harmless(printable(text))
    assert_harmless(last_lines(text))
    assert printable(text).startswith("before ")
    assert printable(text).endswith("\nafter")


@given(st.text(st.one_of(st.sampled_from("\x1b[]0;m\x07\\\x9b\x9d\x9c\r\n"), st.characters())))
def test_no_text_at_all_does_harm(text: str) -> None:
    assert_harmless(printable(text))
    assert_harmless(last_lines(text))


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_a_console_in_an_error_is_harmless(attack: str) -> None:
    with VirtualMachine(backend="fake") as vm:
        vm.fake.guest.write_console(f"$ {attack}".encode() + b"\xff\n")
        vm.console.expect_exact("$ ")
        with pytest.raises(QMPError) as caught:
            vm.console.expect("what nobody writes", timeout=0)
        assert_harmless(str(caught.value))
        with pytest.raises(QMPError) as caught:
            vm.wait_for_event("NEVER", timeout=0)
        assert_harmless(str(caught.value))
        assert_harmless(vm.console.tail())
        assert_harmless(vm.console_tail())


class Peer:
    """Somebody at the other end of a socket, who answers each command as he likes.

    Args:
        first: what he sends at once.
        answers: what he answers each command with, the last one for ever.
    """

    def __init__(self, first: bytes, *answers: dict[str, Any]) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._first, self._answers = first, answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        answers, answer = iter(self._answers), None
        with contextlib.suppress(OSError), self._theirs:
            self._theirs.sendall(self._first)
            # A client sends one command at a time, and no newline after it.
            while command := self._theirs.recv(65536):
                answer = next(answers, answer)
                if answer is not None:
                    self._theirs.sendall(as_json({**answer, "id": json.loads(command).get("id")}))

    def end(self) -> None:
        self.ours.close()
        with contextlib.suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)


@pytest.fixture(params=ATTACKS, ids=ascii)
def attack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\r\n"


GREETING = as_json(
    {
        "QMP": {
            "version": {"qemu": {"major": 9, "minor": 0, "micro": 0}, "package": ""},
            "capabilities": [],
        }
    }
)


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for one in made:
        one.end()


def test_the_words_of_a_server_are_harmless(attack: str, peers: list[Peer]) -> None:
    refusal = {"error": {"class": f"Generic{attack}", "desc": f"no {attack}"}}
    event = as_json({"event": f"E{attack}", "data": {attack: attack}, "timestamp": {}})
    peers.append(Peer(GREETING + event, {"return": {}}, refusal))
    with QMPClient.connect(peers[-1].ours, timeout=10) as client:
        with pytest.raises(QMPCommandError) as caught:
            client.execute("query-status")
        assert_harmless(str(caught.value))
        assert caught.value.desc == f"no {attack}"
        with pytest.raises(QMPError) as missed:
            client.wait_for_event("NEVER", timeout=0)
        assert_harmless(str(missed.value))


def test_a_refused_negotiation_is_harmless(attack: str, peers: list[Peer]) -> None:
    peers.append(Peer(GREETING, {"error": {"class": attack, "desc": attack}}))
    with pytest.raises(QMPError) as caught:
        QMPClient.connect(peers[-1].ours, timeout=10)
    assert_harmless(str(caught.value))


@pytest.mark.parametrize("wrap", ["{}", '{{"return": {}}}', '{{"event": "{}"}}', '["{}"]'])
def test_what_is_no_qmp_is_shown_harmlessly(attack: str, wrap: str, peers: list[Peer]) -> None:
    peers.append(Peer(wrap.format(attack).encode() + b"\r\n"))
    with pytest.raises(QMPError) as caught:
        QMPClient.connect(peers[-1].ours, timeout=0.1)
    assert_harmless(str(caught.value))


def test_the_words_of_a_guest_agent_are_harmless(attack: str, peers: list[Peer]) -> None:
    left, right = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError), right, right.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line.lstrip(b"\xff"))
                if request["execute"] == "guest-sync-delimited":
                    right.sendall(b"\xff" + as_json({"return": request["arguments"]["id"]}))
                else:
                    right.sendall(as_json({"error": {"class": attack, "desc": attack}}))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with GuestAgentClient.connect(left, timeout=10) as agent:
        with pytest.raises(QMPError) as caught:
            agent.execute("guest-ping")
        assert_harmless(str(caught.value))
    thread.join(10)


# -- where files are written -----------------------------------------------------------------------


def test_the_folder_of_the_probe_is_this_users_alone(tmp_path: Path) -> None:
    seen = tmp_path / "mode"
    binary = tmp_path / "qemu-system-x86_64"
    binary.write_text(
        '#!/bin/sh\nfor a; do case "$a" in */probe.bin) stat -c %a "${a%/*}" > '
        f"{seen};; esac; done; exit 1\n"
    )
    binary.chmod(0o755)
    host.share_probes(SharedState())
    host._kvm_trouble(str(binary))
    host.share_probes(SharedState())
    assert seen.read_text() == "700\n"


def test_what_workers_share_is_this_users_alone(tmp_path: Path) -> None:
    with SharedState(tmp_path / "x.json").locked() as state:
        state["a"] = 1
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    assert modes == {"x.json": 0o600, "x.lock": 0o600}


@pytest.fixture
def two() -> Iterator[list[VirtualMachine]]:
    """Two machines of a test that failed."""
    with VirtualMachine(backend="fake") as one, VirtualMachine(backend="fake") as other:
        yield [one, other]


@pytest.mark.parametrize("count", [1, 2])
def test_a_bundle_is_this_users_alone(
    tmp_path: Path, two: list[VirtualMachine], count: int
) -> None:
    place = write_bundle(tmp_path / "artifacts", "test_it", "failed", two[:count])
    for one in (tmp_path / "artifacts", place, *place.rglob("*")):
        assert stat.S_IMODE(one.stat().st_mode) & 0o077 == 0, one


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("link", ["folder", "file", "inner folder"])
def test_a_link_in_the_artifacts_leads_nowhere(
    tmp_path: Path, two: list[VirtualMachine], count: int, link: str
) -> None:
    machines = two[:count]
    place = write_bundle(tmp_path / "artifacts", "test_it", "failed", machines)
    victim = tmp_path / "victim"
    if link == "file":
        victim.write_text("precious")
        for one in [one for one in place.rglob("*") if one.is_file()]:
            one.unlink()
            one.symlink_to(victim)
        write_bundle(tmp_path / "artifacts", "test_it", "failed", machines)
        assert victim.read_text() == "precious"
        assert not any(one.is_symlink() for one in place.rglob("*"))
        return
    victim.mkdir()
    inner = next((one for one in place.iterdir() if one.is_dir()), place)
    moved = place if link == "folder" else inner
    moved.rename(tmp_path / "away")
    moved.symlink_to(victim)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        write_bundle(tmp_path / "artifacts", "test_it", "failed", machines)
    assert list(victim.iterdir()) == []
