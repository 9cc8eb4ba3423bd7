"""The screen: pictures of it, compared and read, on the fake and on each QEMU."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pytest_qmp import (
    QMPCommandError,
    QMPTimeoutError,
    ScreenMismatchError,
    Screenshot,
    VirtualMachine,
    VMConfig,
    VMConfigError,
    VMError,
)
from pytest_qmp.vm.screen_compare import Comparison, Criteria
from tests.guests import x86_input
from tests.vm.every_backend import EVERY_BACKEND, EVERY_QEMU, config_of

Start = Callable[..., VirtualMachine]

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="the program tesseract is not installed here"
)


@pytest.fixture
def vm() -> Iterator[VirtualMachine]:
    """A machine with a display whose guest has written nothing yet, on the fake."""
    with VirtualMachine(backend="fake", display=True, timeout=20) as machine:
        yield machine


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a machine that shows what is typed."""
    with ExitStack() as machines:

        def start(name: str, **more: Any) -> VirtualMachine:
            fields = {**x86_input.overrides("keys", tmp_path, banner="alive"), "display": True}
            vm = machines.enter_context(VirtualMachine(config_of(name), **{**fields, **more}))
            vm.console.expect_exact("alive")
            return vm

        yield start


def marked(picture: Screenshot, box: tuple[int, int, int, int] = (10, 20, 29, 24)) -> Image.Image:
    """The same with a red rectangle."""
    image = picture.image
    ImageDraw.Draw(image).rectangle(box, fill=(200, 0, 0))
    return image


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_screenshot_is_a_png(backend: str, tmp_path: Path) -> None:
    with VirtualMachine(config_of(backend), display=True, paused=True) as vm:
        picture = vm.screenshot(tmp_path / "a.png")
        assert picture == (tmp_path / "a.png").read_bytes()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert picture.size == picture.image.size == (640, 480)
        assert picture.save(tmp_path / "b.png").read_bytes() == picture
        assert (
            repr(picture) == str(picture) == f"<Screenshot, 640 x 480 pixels, {len(picture)} bytes>"
        )
        # The words that the guest has not begun to draw.
        assert len(picture.image.getcolors() or ()) >= 2
        # QEMU's own PNG shows the same.
        vm.execute("screendump", filename=str(tmp_path / "qemu.png"), format="png")
        own = Image.open(tmp_path / "qemu.png").convert("RGB")
        assert own.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_pictures_leave_nothing_in_qemu(backend: str) -> None:
    with VirtualMachine(config_of(backend), display=True) as vm:
        picture = vm.screenshot()
        with pytest.raises(QMPTimeoutError):
            vm.wait_for_screen(marked(picture, (0, 0, 719, 399)), timeout=0.5)
        assert vm.execute("query-fdsets") == []


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_machine_without_a_display(backend: str) -> None:
    with VirtualMachine(config_of(backend)) as vm:
        for look in (vm.screenshot, vm.screen_text, lambda: vm.assert_screen(b"")):
            with pytest.raises(VMError, match=r"no display|can't read the reference"):
                look()
        with pytest.raises(VMError, match=r"VMConfig\(display=True\).*'virtio-gpu-pci'"):
            vm.mouse.move(0, 0)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_one_of_several_screens(backend: str) -> None:
    devices = [{"driver": "virtio-gpu-pci", "id": "gpu", "max_outputs": 2}]
    with VirtualMachine(config_of(backend), devices=devices) as vm:
        for head in (0, 1):
            assert vm.screenshot(device="gpu", head=head).image
        with pytest.raises(QMPCommandError):
            vm.screenshot(device="gpu", head=2)
        with pytest.raises(QMPCommandError, match="not found"):
            vm.screenshot(device="gqu")


@pytest.mark.needs_qemu
@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_other_architectures(arch: str) -> None:
    with VirtualMachine(arch=arch, accel="tcg", timeout=20, display=True, paused=True) as vm:
        assert vm.screenshot().size == (1280, 800) or vm.screenshot().size == (640, 480)
        with pytest.raises(VMError, match="the CPUs of"):
            vm.send_keys("a")


@pytest.mark.parametrize(
    ("fields", "device"),
    [
        ({"display": True}, "VGA"),
        ({"display": True, "machine": "microvm"}, "virtio-gpu-device"),
        ({"display": True, "arch": "aarch64"}, "virtio-gpu-pci"),
        ({"display": "ramfb", "arch": "aarch64"}, "ramfb"),
        ({"display": False}, None),
        ({}, None),
    ],
)
def test_the_display_suits_the_machine(fields: dict[str, Any], device: str | None) -> None:
    with VirtualMachine(backend="fake", **fields) as vm:
        assert (vm.argv[vm.argv.index("-device") + 1] if "-device" in vm.argv else None) == device


def test_a_display_that_is_none() -> None:
    with pytest.raises(VMConfigError, match=r"display is True .*not 1"):
        VMConfig(display=1)  # type: ignore[arg-type]


def test_a_monitor_over_tcp(vm: VirtualMachine) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    unix = vm.fake.open_monitor()

    def pump(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with listener, unix, listener.accept()[0] as client:
            there = threading.Thread(target=pump, args=(client, unix))
            there.start()
            pump(unix, client)
            there.join()

    thread = threading.Thread(target=serve)
    thread.start()
    with VirtualMachine.attach(listener.getsockname()) as attached:
        assert attached.screenshot() == vm.screenshot()
    thread.join()


@pytest.mark.parametrize("module", ["PIL", "pytesseract"])
def test_without_the_extras(
    vm: VirtualMachine, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = vm.screenshot()
    monkeypatch.setitem(sys.modules, module, None)
    extra = "screen" if module == "PIL" else "ocr"
    with pytest.raises(VMError, match=rf"pip install 'pytest-qmp\[{extra}\]'"):
        vm.screen_text()
    if module == "PIL":
        with pytest.raises(VMError, match=r"pytest-qmp\[screen\]"):
            vm.assert_screen(picture)
        assert vm.screenshot().size == picture.size


def test_bytes_that_are_no_picture(vm: VirtualMachine, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for reference in (b"no picture", tmp_path / "text.png"):
        with pytest.raises(VMError, match="can't read the reference picture"):
            vm.assert_screen(reference)
    with pytest.raises(VMError, match=r"a reference is a path, .*not int"):
        vm.assert_screen(3)  # type: ignore[arg-type]
    with pytest.raises(VMError, match="not whole"):
        Screenshot.from_ppm(b"P6\n2 2\n255\n123")


# -- comparing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_screen_is_like_a_picture_or_not(backend: str, tmp_path: Path) -> None:
    with VirtualMachine(config_of(backend), display=True, paused=True) as vm:
        picture = vm.screenshot(tmp_path / "is.png")
        for reference in (picture, picture.image, tmp_path / "is.png", str(tmp_path / "is.png")):
            assert vm.assert_screen(reference).image.tobytes() == picture.image.tobytes()
        other = marked(picture)
        other.save(tmp_path / "other.png")
        with pytest.raises(
            ScreenMismatchError,
            match=r"not like the reference .*other\.png: 100 of 307200 pixels differ \(0\.033 %\), "
            r"all within the region \(10, 20, 20, 5\); 0 may\n.*screen-1-actual.png, screen-1-exp"
            r".*screen-1-difference.png in the test's artifacts\n.*--qmp-update-screens makes it",
        ) as failure:
            vm.assert_screen(tmp_path / "other.png")
        assert isinstance(failure.value, AssertionError)
        pictures = failure.value.pictures
        assert {f"screen-1-{name}.png": data for name, data in pictures.items()} == vm.attachments
        difference = Screenshot(pictures["difference"]).image
        reds = [count for count, color in difference.getcolors() or () if color == (255, 0, 0)]
        assert reds == [100]


def test_what_may_differ(vm: VirtualMachine) -> None:
    picture = vm.screenshot()
    other = marked(picture)
    vm.assert_screen(other, tolerance=100 / (720 * 400))
    vm.assert_screen(other, channel_tolerance=200)
    vm.assert_screen(other, region=(30, 0, 50, 50))
    vm.assert_screen(other.crop((30, 0, 80, 50)), region=(30, 0, 50, 50))
    with pytest.raises(ScreenMismatchError, match=r"100 of .* differ"):
        vm.assert_screen(other, tolerance=99 / (720 * 400), channel_tolerance=199)
    with pytest.raises(ScreenMismatchError, match=r"25 of 1250 .*region \(25, 20, 5, 5\); 12 may"):
        vm.assert_screen(other, region=(25, 0, 25, 50), tolerance=0.01)
    with pytest.raises(
        ScreenMismatchError, match=r"720 x 400 .* is 5 x 5 .*never alike"
    ) as failure:
        vm.assert_screen(other.crop((0, 0, 5, 5)))
    assert set(failure.value.pictures) == {"actual", "expected"}


@pytest.mark.parametrize(
    ("criteria", "told"),
    [
        ({"tolerance": 1.5}, "from 0 to 1"),
        ({"tolerance": -1}, "from 0 to 1"),
        ({"channel_tolerance": 256}, "from 0 to 255"),
        ({"region": (0, 0, 0, 5)}, r"\(x, y, width, height\)"),
        ({"region": (1, 2)}, r"\(x, y, width, height\)"),
        ({"region": (700, 0, 100, 5)}, "reaches beyond the screen, which is 720 x 400"),
    ],
)
def test_criteria_that_can_not_be(vm: VirtualMachine, criteria: Any, told: str) -> None:
    picture = vm.screenshot()
    with pytest.raises(VMError, match=told):
        vm.assert_screen(picture, **criteria)


def test_each_channel_counts() -> None:
    black = Image.new("RGB", (4, 4))
    for channel in range(3):
        color = tuple(9 if one == channel else 0 for one in range(3))
        found = Comparison.of(Image.new("RGB", (4, 4), color), black, Criteria())
        assert (found.different, found.box) == (16, (0, 0, 4, 4))
        criteria = Criteria(channel_tolerance=9)
        assert Comparison.of(Image.new("RGB", (4, 4), color), black, criteria).alike


def test_a_reference_that_is_not_there(vm: VirtualMachine, tmp_path: Path) -> None:
    path = tmp_path / "new" / "screen.png"
    with pytest.raises(
        ScreenMismatchError, match=r"(?s)no reference .*new/screen.png.*--qmp-update"
    ):
        vm.assert_screen(path)
    assert vm.attachments["screen-1-actual.png"] == vm.screenshot()
    with pytest.raises(QMPTimeoutError, match=r"waited 0.3 s in vain: there is no reference"):
        vm.wait_for_screen(path, timeout=0.3)
    vm.update_screens = True
    vm.wait_for_screen(path)
    assert Screenshot(path.read_bytes()).image.tobytes() == vm.screenshot().image.tobytes()
    marked(vm.screenshot()).save(path)
    vm.assert_screen(path)
    vm.update_screens = False
    vm.assert_screen(path)


def test_the_screen_becomes_so(vm: VirtualMachine) -> None:
    before = vm.screenshot()
    vm.fake.guest.write_console(b"login: ")
    after = vm.screenshot()
    with VirtualMachine(backend="fake", display=True, timeout=20) as other:
        other.assert_screen(before)
        with pytest.raises(QMPTimeoutError, match=r"waited 0.3 s in vain: .* pixels differ"):
            other.wait_for_screen(after, timeout=0.3)
        timer = threading.Timer(0.2, other.fake.guest.write_console, [b"login: "])
        timer.start()
        assert other.wait_for_screen(after).image.tobytes() == after.image.tobytes()
        other.assert_screen(after, timeout=5)
        timer.join()


def test_a_wait_ends_with_the_machine(vm: VirtualMachine) -> None:
    timer = threading.Timer(0.2, vm.fake.guest.panic)
    timer.start()
    with pytest.raises(VMError, match="panicked"):
        vm.wait_for_screen(marked(vm.screenshot()))
    timer.join()


@pytest.mark.parametrize("qemu", EVERY_QEMU)
def test_a_real_screen_becomes_so(qemu: str, start: Start) -> None:
    vm = start(qemu)
    vm.type_text("Hello")
    vm.console.expect_exact("Hello")
    typed = vm.screenshot()
    vm.type_text(", world")
    vm.console.expect_exact("world")
    # Its cursor blinks, and is 18 pixels.
    with pytest.raises(ScreenMismatchError, match="pixels differ"):
        vm.assert_screen(typed, tolerance=0.0001)
    vm.type_text("\b \b" * 7)
    vm.wait_for_screen(typed, tolerance=0.0001)


# -- reading ---------------------------------------------------------------------------------------


@needs_tesseract
@pytest.mark.parametrize("qemu", EVERY_QEMU)
def test_text_is_read_off_a_real_screen(qemu: str, start: Start) -> None:
    vm = start(qemu)
    vm.type_text("Enter your name now\n")
    read = vm.wait_for_screen_text("Enter your name now")
    assert "SeaBIOS (version 1." in read
    assert "SeaBIOS" not in vm.screen_text(region=(0, 64, 720, 100))


@needs_tesseract
@pytest.mark.needs_qemu
def test_text_that_is_not_there(start: Start) -> None:
    import re

    vm = start("installed")
    with pytest.raises(
        QMPTimeoutError, match=r"(?s)waited 0.1 s for 'panic'.*SeaBIOS.*screen-1-actual"
    ):
        vm.wait_for_screen_text("panic", 0.1)
    assert "screen-1-actual.png" in vm.attachments
    assert vm.wait_for_screen_text(re.compile(r"SeaBIOS \(version \d"))
    with pytest.raises(VMError, match=r"language 'xyz'"):
        vm.screen_text(language="xyz")


def test_without_tesseract(vm: VirtualMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytesseract  # type: ignore[import-untyped]

    monkeypatch.setattr(pytesseract.pytesseract, "tesseract_cmd", "/nonexistent/tesseract")
    with pytest.raises(VMError, match=r"needs the program tesseract.*apt install tesseract-ocr"):
        vm.wait_for_screen_text("login")


# -- in a test -------------------------------------------------------------------------------------


def test_the_pictures_are_in_the_artifacts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.qmp(display=True)
        def test_it(qmp_vm):
            qmp_vm.attach_artifact("../qmp.jsonl", b"mine")
            qmp_vm.assert_screen("boot.png")
        """
    )
    result = pytester.runpytest_subprocess("--qmp-backend=fake", "-p", "no:asyncio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *there is no reference 'boot.png'*"])
    (place,) = pytester.path.glob(".pytest_qmp/*/screen-1-actual.png")
    picture = Screenshot(place.read_bytes())
    assert (place.parent / "_qmp.jsonl").read_bytes() == b"mine"
    result = pytester.runpytest_subprocess(
        "--qmp-backend=fake", "-p", "no:asyncio", "--qmp-update-screens"
    )
    result.assert_outcomes(passed=1)
    assert Screenshot((pytester.path / "boot.png").read_bytes()).size == picture.size
