"""Keys, text and the mouse: what the layouts hold, and what reaches a guest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import linux_guest
import pytest

from pytest_qmp import QMPTimeoutError, VirtualMachine, VMError
from pytest_qmp.vm.keymaps import LAYOUTS, chords_for
from pytest_qmp.vm.keynames import KEYS, read_chord
from tests import guests
from tests.guests import x86_input
from tests.vm.every_backend import EVERY_BACKEND, EVERY_QEMU, config_of

#: Where QEMU's packages put its own layouts, for VNC, and what it calls ours.
QEMU_KEYMAPS = Path("/usr/share/qemu/keymaps")
QEMU_NAMES = {"us": "en-us", "gb": "en-gb", "dk": "da"}

#: X11's names of characters, as far as letters and digits are not their own.
KEYSYMS = {
    "exclam": "!", "quotedbl": '"', "numbersign": "#", "dollar": "$", "percent": "%",
    "ampersand": "&", "apostrophe": "'", "parenleft": "(", "parenright": ")", "asterisk": "*",
    "plus": "+", "comma": ",", "minus": "-", "period": ".", "slash": "/", "colon": ":",
    "semicolon": ";", "less": "<", "equal": "=", "greater": ">", "question": "?", "at": "@",
    "bracketleft": "[", "backslash": "\\", "bracketright": "]", "underscore": "_",
    "braceleft": "{", "bar": "|", "braceright": "}", "EuroSign": "€", "section": "§",
    "ssharp": "ß", "adiaeresis": "ä", "odiaeresis": "ö", "udiaeresis": "ü", "Adiaeresis": "Ä",
    "eacute": "é", "egrave": "è", "agrave": "à", "ccedilla": "ç", "ntilde": "ñ", "aring": "å",
    "oslash": "ø", "ae": "æ", "degree": "°", "sterling": "£",
}  # fmt: skip

Start = Callable[..., VirtualMachine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a machine with a guest that tells what it is typed or pointed."""
    with ExitStack() as machines:

        def start(name: str, behaviour: str, **more: Any) -> VirtualMachine:
            fields = x86_input.overrides(behaviour, tmp_path, banner="alive")
            vm = machines.enter_context(VirtualMachine(config_of(name), **{**fields, **more}))
            vm.console.expect_exact("alive")
            return vm

        yield start


# -- names and layouts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "chord"),
    [
        ("a", ("a",)),
        ("Enter", ("ret",)),
        ("ctrl-alt-delete", ("ctrl", "alt", "delete")),
        ("Ctrl+Shift+Esc", ("ctrl", "shift", "esc")),
        ("super-PgUp", ("meta_l", "pgup")),
        ("altgr-q", ("alt_r", "q")),
        ("-", ("minus",)),
        ("ctrl--", ("ctrl", "minus")),
        ("ctrl++", ("ctrl", "kp_add")),
        (0x1E, (0x1E,)),
    ],
)
def test_names_of_keys(given: str | int, chord: tuple[str | int, ...]) -> None:
    assert read_chord(given) == chord


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ctrl-alt-delte", "no key 'delte' in 'ctrl-alt-delte'; did you mean 'delete'"),
        ("ctrl-alt-", "no key '' in 'ctrl-alt-'"),
        ("ö", r"no key 'ö'.*\n.*type_text"),
        ("", "keys are pressed by name"),
        (None, "keys are pressed by name"),
    ],
)
def test_a_key_that_there_is_not(given: Any, told: str) -> None:
    with pytest.raises(VMError, match=f"(?s){told}"):
        read_chord(given)


def test_a_text_is_typed_as_the_layout_has_it() -> None:
    assert chords_for("zY\n", "de") == [[("y",)], [("shift", "z")], [("ret",)]]
    assert chords_for("a1", "fr") == [[("q",)], [("shift", "1")]]
    assert chords_for("wörld", "de")[1] == [("semicolon",)]
    assert chords_for("@{", "sv") == [[("alt_r", "2")], [("alt_r", "7")]]
    assert chords_for("\\~", "uk") == [[("less",)], [("shift", "backslash")]]


def test_dead_keys() -> None:
    assert chords_for("é", "de") == [[("equal",), ("e",)]]
    assert chords_for("e\u0301", "de") == chords_for("é", "de")
    assert chords_for("^", "de") == [[("grave_accent",), ("spc",)]]
    assert chords_for("Ñ", "se") == [[("alt_r", "bracket_right"), ("shift", "n")]]


def test_line_ends_are_one_enter() -> None:
    assert chords_for("\r\n\r\n", "us") == [[("ret",)], [("ret",)]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_types_ascii_with_keys_that_there_are(layout: str) -> None:
    ascii_text = "".join(map(chr, range(32, 127)))
    lacking = "`~" if layout == "fr" else ""
    typed = chords_for("".join(char for char in ascii_text if char not in lacking), layout)
    assert {key for chords in typed for chord in chords for key in chord} <= KEYS


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"se"}))
def test_layouts_agree_with_qemus_own(layout: str) -> None:
    path = QEMU_KEYMAPS / QEMU_NAMES.get(layout, layout)
    if not path.exists():
        pytest.skip("QEMU's keymaps are not installed here")
    ways: dict[str, set[tuple[str, ...]]] = {}
    key = ""
    for line in path.read_text().splitlines():
        named = re.match(r'# evdev .*QKeyCode "([^"]+)"', line)
        key = named[1] if named else key
        words = line.split()
        if len(words) > 1 and not line.startswith("#"):
            char = KEYSYMS.get(words[0], words[0])
            modifiers = sorted({"altgr": "alt_r"}.get(word, word) for word in words[2:])
            ways.setdefault(char, set()).add((*modifiers, key))
    checked = 0
    for char in {*KEYSYMS.values(), *"abcdefghijklmnopqrstuvwxyzABCXYZ0123456789"}:
        try:
            (chords,) = chords_for(char, layout)
        except VMError:
            continue
        if len(chords) == 1:
            (*modifiers, last) = chords[0]
            assert (*sorted(modifiers), last) in ways[char], char
            checked += 1
    assert checked > 65


def test_what_a_layout_can_not_type_is_named_at_once() -> None:
    with pytest.raises(
        VMError, match=r"'us' can't type 'ö' \(LATIN SMALL LETTER O WITH DIAER"
    ) as e:
        chords_for("Hello, wörld", "us")
    assert "These can: de, fr" in str(e.value)
    with pytest.raises(VMError, match=r"'中' .*No layout that we know can"):
        chords_for("中", "de")
    with pytest.raises(VMError, match=r"no keyboard layout 'germ'.*\n.*us, gb, de"):
        chords_for("a", "germ")


# -- on the fake and on each QEMU ------------------------------------------------------------------


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_machine_that_can_not_be_typed_to(backend: str) -> None:
    with VirtualMachine(config_of(backend), machine="microvm") as vm:
        with pytest.raises(VMError, match=r"can't press 'a': .* no keyboard.*virtio-keyboard-pci"):
            vm.send_keys("a")
        with pytest.raises(VMError, match=r"no mouse and no tablet: give it one"):
            vm.mouse.click()
    with VirtualMachine(config_of(backend), display=True, paused=True) as vm:
        with pytest.raises(VMError, match=r"can't press 'a': the CPUs of .* don't run.*call cont"):
            vm.send_keys("a")
        with pytest.raises(VMError, match=r"held for seconds"):
            vm.send_keys("a", hold=100)
        with pytest.raises(VMError, match="takes the keys"):
            vm.send_keys()
        with pytest.raises(VMError, match="delay"):
            vm.type_text("a", delay=-1)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_pointer_that_there_is_not(backend: str) -> None:
    with VirtualMachine(config_of(backend), display=True) as vm:
        with pytest.raises(VMError, match=r"point at \(1, 2\).*give it a tablet"):
            vm.mouse.move(1, 2)
        with pytest.raises(VMError, match=r"can't point at \(720, 0\): the screen is \d+ x \d+"):
            vm.mouse.move(720, 0)
        with pytest.raises(VMError, match="no button 'lef'; did you mean 'left'"):
            vm.mouse.click("lef")  # type: ignore[arg-type]
        with pytest.raises(VMError, match="both x and y"):
            vm.mouse.click(x=1)


def test_what_is_sent() -> None:
    with VirtualMachine(backend="fake", display=True, devices=["virtio-tablet-pci"]) as vm:
        vm.send_keys("ctrl-c", hold=0.01)
        vm.type_text("Hé", layout="de")
        vm.mouse.click(x=360, y=200)
        sent = [
            (one["type"], *one["data"].values())
            for call in vm.fake.calls
            if call.command == "input-send-event"
            for one in call.arguments["events"]
        ]
        commands = {call.command for call in vm.fake.calls}

    def key(name: str, down: bool) -> tuple[Any, ...]:
        return ("key", down, {"type": "qcode", "data": name})

    def typed(*names: str) -> list[tuple[Any, ...]]:
        up = [key(name, False) for name in reversed(names)]
        return [*(key(name, True) for name in names), *up]

    assert sent == [
        *typed("ctrl", "c"),
        *typed("shift", "h"),
        *typed("equal"),
        *typed("e"),
        ("abs", "x", 0x4000 + 22),
        ("abs", "y", 0x4000 + 40),
        ("btn", True, "left"),
        ("btn", False, "left"),
    ]
    assert "human-monitor-command" not in commands


# -- what a guest gets -----------------------------------------------------------------------------

TEXT = 'The quick brown FOX, {12} lazy dogs; #42 @home! <"~|\\`>\n'


@pytest.mark.parametrize(
    ("qemu", "machine"),
    [
        pytest.param("installed", "pc", marks=pytest.mark.needs_qemu, id="qemu-installed-pc"),
        *(
            pytest.param(*one.values, "q35", marks=one.marks, id=f"{one.id}-q35")
            for one in EVERY_QEMU
        ),
    ],
)
def test_the_bios_reads_what_is_typed(qemu: str, machine: str, start: Start) -> None:
    vm = start(qemu, "keys", machine=machine)
    vm.type_text(TEXT * 3)
    vm.console.expect_exact(TEXT.replace("\n", "\r") * 3)
    vm.send_keys("a", "shift-b", "enter", hold=0.02)
    vm.console.expect_exact("aB\r")
    with vm.expect_event("RESET", match={"data": {"guest": True}}):
        vm.send_keys("ctrl-alt-delete")
    vm.console.expect_exact("alive")


@pytest.mark.parametrize("qemu", EVERY_QEMU)
def test_nothing_is_lost_in_a_slow_guest(qemu: str, start: Start) -> None:
    vm = start(qemu, "scancodes")
    vm.type_text("abcdefghij" * 3)
    codes = ["1C", "32", "21", "23", "24", "2B", "34", "33", "43", "3B"]
    vm.console.expect_exact("".join(f"{code} F0 {code} " for code in codes * 3))


@pytest.mark.needs_qemu
def test_keys_are_held(start: Start) -> None:
    vm = start("installed", "scancodes")
    began = time.monotonic()
    vm.send_keys("ctrl-alt-f2", hold=0.1)
    assert time.monotonic() - began >= 0.1
    vm.console.expect_exact("14 11 06 F0 06 F0 11 F0 14 ")


@pytest.mark.needs_qemu
def test_a_guest_that_reads_no_keys(tmp_path: Path) -> None:
    fields = guests.overrides("halt", tmp_path, banner="alive")
    with VirtualMachine(config_of("installed"), **fields) as vm:
        vm.send_keys("f2", "f3")
        with pytest.raises(
            QMPTimeoutError, match=r"0 of 5 characters typed\), but the guest .*does"
        ):
            vm.type_text("Hello", timeout=0.3)


@pytest.mark.parametrize("qemu", EVERY_QEMU)
def test_a_tablet_points_at_pixels(qemu: str, start: Start) -> None:
    vm = start(qemu, "pointer", display=True)
    vm.console.expect_exact("pointing\r\n")
    size = vm.screenshot().size
    vm.mouse.click(x=100, y=50)
    buttons = []
    for _ in range(3):
        vm.console.expect(r"(\w{4}) (\w{4}) (\w{4}) (\w{4}) \r\n")
        pressed, *place, _ = (int(word, 16) for word in vm.console.match.groups())
        buttons.append(pressed)
        assert [value * end >> 16 for value, end in zip(place, size, strict=True)] == [100, 50]
    assert buttons == [0, 0x20, 0]
    vm.mouse.double_click("right")
    vm.console.expect(r"(?s)(0010 .*0000 .*){2}")
    vm.mouse.scroll(1)
    vm.console.expect_exact("FFFF")
    vm.mouse.scroll(-1)
    vm.console.expect_exact("0001")
    vm.mouse.drag((0, 0), (size[0] - 1, size[1] - 1))
    vm.console.expect(r"(?s)0020 00\w\w 00\w\w .*0000 FF\w\w FF\w\w")


@pytest.mark.parametrize("qemu", EVERY_QEMU)
def test_a_mouse_moves(qemu: str, start: Start) -> None:
    vm = start(qemu, "mouse")
    vm.console.expect_exact("FA ")
    vm.mouse.move_by(10, 5)
    vm.console.expect_exact("28 0A FB ")
    vm.mouse.click("right")
    vm.console.expect_exact("0A 00 00 08 00 00 ")


@pytest.mark.needs_qemu
def test_linux_reads_what_is_typed() -> None:
    try:
        guest = linux_guest.build()
    except linux_guest.GuestBuildError as error:
        pytest.skip(str(error))
    linux: dict[str, Any] = {
        "kernel": guest.kernel,
        "initrd": guest.initrd,
        "append": linux_guest.APPEND,
    }
    with VirtualMachine(accel="tcg", memory="256M", timeout=60, display=True, **linux) as vm:
        vm.console.expect_exact(linux_guest.PROMPT)
        vm.console.sendline("head -n 8 /dev/tty1; echo all of it")
        vm.console.expect_exact("\n")
        vm.type_text("Hello, (World)!\n" * 8)
        vm.console.expect_exact("Hello, (World)!\r\n" * 8 + "all of it")
