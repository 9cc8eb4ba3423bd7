"""What a machine's screen shows: compared with pictures, and read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pytest_qmp.errors import QMPTimeoutError, ScreenMismatchError
from pytest_qmp.qmp.deadline import Deadline
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.text import printable
from pytest_qmp.vm.attachments import MachineAttachments
from pytest_qmp.vm.backend import Backend
from pytest_qmp.vm.config import VMConfig
from pytest_qmp.vm.display import MachineDisplay
from pytest_qmp.vm.screen_file import screen_file
from pytest_qmp.vm.screenshot import Screenshot, image_of

if TYPE_CHECKING:
    from PIL import Image

    from pytest_qmp.vm.screen_compare import Comparison, Criteria, Reference, Region
    from pytest_qmp.vm.screen_text import TextPattern

__all__ = ["MachineScreen"]

#: QEMU tells of no redrawing, so that looking again is all that one can do.
_LOOK_AGAIN_SECONDS = 0.2
_SETTLED_SECONDS = 1.0

Seen = TypeVar("Seen")


class MachineScreen(MachineDisplay, MachineAttachments):
    """What the screen of ``VirtualMachine`` shows.

    Args:
        config: what to start.
        backend: what runs it.

    Attributes:
        update_screens: True has ``assert_screen()`` and ``wait_for_screen()`` write the reference
            where it is missing or differs (``--qmp-update-screens``).
    """

    def __init__(self, config: VMConfig, backend: Backend) -> None:
        super().__init__(config, backend)
        self.update_screens = False
        self._mismatches = 0

    def assert_screen(
        self,
        reference: Reference,
        *,
        tolerance: float = 0.0,
        channel_tolerance: int = 0,
        region: Region | None = None,
        timeout: Timeout = 0,
        device: str | None = None,
        head: int | None = None,
    ) -> Screenshot:
        """Asserts that the screen is like a picture.

        Args:
            reference: path of a PNG, its bytes, or a Pillow image; of the whole screen, or of the
                region.
            tolerance: the part of the pixels that may differ, from 0 to 1.
            channel_tolerance: how far red, green or blue of a pixel (0 to 255) may be off before
                it differs.
            region: what to look at: x, y, width and height in pixels; None: all.
            timeout: seconds that the screen has to become so; 0 looks once.
            device: the id of the display device; None: the first.
            head: which of its screens.

        Returns:
            The screen.

        Raises:
            ScreenMismatchError: it differs, or the reference is missing; an AssertionError. The
                pictures are its ``pictures``, and in the test's artifacts.
            VMError: the machine has no display, the reference can't be read, or Pillow is missing.
        """
        __tracebackhide__ = True
        criteria = _criteria(tolerance, channel_tolerance, region)
        picture, story, pictures = self._compare_screen(
            reference, criteria, self._deadline(timeout), device, head
        )
        if story:
            raise ScreenMismatchError(story, pictures=pictures)
        return picture

    def wait_for_screen(
        self,
        reference: Reference,
        *,
        tolerance: float = 0.0,
        channel_tolerance: int = 0,
        region: Region | None = None,
        timeout: Timeout = DEFAULT,
        device: str | None = None,
        head: int | None = None,
    ) -> Screenshot:
        """Waits until the screen is like a picture; it is looked at five times a second.

        Takes and returns what ``assert_screen`` does.

        Raises:
            QMPTimeoutError: it did not become so, or the reference is missing. The pictures are
                in the test's artifacts.
            VMError: as for ``assert_screen``.
        """
        __tracebackhide__ = True
        criteria = _criteria(tolerance, channel_tolerance, region)
        deadline = self._deadline(timeout)
        picture, story, _ = self._compare_screen(reference, criteria, deadline, device, head)
        if story:
            raise QMPTimeoutError(f"waited {deadline.words} in vain: {story}")
        return picture

    def screen_text(
        self, *, region: Region | None = None, language: str = "eng", timeout: Timeout = DEFAULT
    ) -> str:
        """Reads the text on the screen, by Tesseract (``pytest-qmp[ocr]``).

        Args:
            region: what to look at: x, y, width and height in pixels; None: all.
            language: Tesseract's name of it: ``eng``, ``deu``, ``eng+deu``.
            timeout: seconds for the whole call.

        Raises:
            VMError: pytesseract or the program tesseract is missing, or the machine has no
                display.
        """
        __tracebackhide__ = True
        from pytest_qmp.vm.screen_compare import cropped
        from pytest_qmp.vm.screen_text import read_text

        deadline = self._deadline(timeout)
        screen = self._seen(None, None, deadline)
        return read_text(cropped(screen, region), language, deadline.remaining())

    def wait_for_screen_text(
        self,
        text: TextPattern,
        timeout: Timeout = DEFAULT,
        *,
        region: Region | None = None,
        language: str = "eng",
    ) -> str:
        """Waits until a text can be read on the screen, by Tesseract (``pytest-qmp[ocr]``).

        Args:
            text: as it is, whatever space is between its words; or a compiled regular expression,
                which is searched for in all of the text.
            timeout: seconds for the whole wait.
            region: what to look at: x, y, width and height in pixels; None: all.
            language: Tesseract's name of it: ``eng``, ``deu``, ``eng+deu``.

        Returns:
            All that was read.

        Raises:
            QMPTimeoutError: it was not there; the message has what was read last, and the screen
                is in the test's artifacts.
            VMError: as for ``screen_text``.
        """
        __tracebackhide__ = True
        from pytest_qmp.vm.screen_compare import cropped
        from pytest_qmp.vm.screen_text import found_in, read_text

        deadline = self._deadline(timeout)
        last: list[tuple[Image.Image, str]] = []

        def look(screen: Image.Image) -> str | None:
            part = cropped(screen, region)
            if not last or part.tobytes() != last[0][0].tobytes():
                # What has begun is done: the deadline may not leave it the time that it takes.
                last[:] = [(part, read_text(part, language, self._deadline(DEFAULT).remaining()))]
            return last[0][1] if found_in(last[0][1], text) else None

        read = self._until_seen(look, deadline, None, None)
        if read is not None:
            return read
        part, seen = last[0]
        names = self._attach_pictures({"actual": Screenshot.from_image(part)})
        wanted = repr(text) if isinstance(text, str) else f"what matches {text.pattern!r}"
        raise QMPTimeoutError(
            f"waited {deadline.words} for {wanted} on the screen of {self}, in vain. What was "
            f"read of it last:\n{printable(seen).strip() or '(nothing)'}\n"
            f"The picture is {names} in the test's artifacts"
        )

    # -- looking ---------------------------------------------------------------------------------

    def _seen(self, device: str | None, head: int | None, deadline: Deadline) -> Image.Image:
        return image_of(self._dump_screen(device, head, deadline))

    def _until_seen(
        self,
        look: Callable[[Image.Image], Seen | None],
        deadline: Deadline,
        device: str | None,
        head: int | None,
    ) -> Seen | None:
        """Looks again and again until something is found; None at the deadline."""
        __tracebackhide__ = True
        with screen_file(self.qmp, self._deadline(DEFAULT)) as file:
            while True:
                # A look that has begun is done: the deadline may not leave it the time.
                patience = self._deadline(DEFAULT) if deadline.expired else deadline
                found = look(image_of(self._dump_into(file, device, head, patience)))
                if found is not None or deadline.expired:
                    return found
                self._idle(_LOOK_AGAIN_SECONDS, deadline)

    # -- comparing -------------------------------------------------------------------------------

    def _compare_screen(
        self,
        reference: Reference,
        criteria: Criteria,
        deadline: Deadline,
        device: str | None,
        head: int | None,
    ) -> tuple[Screenshot, str, dict[str, bytes]]:
        """The screen; what is wrong with it, or nothing; and the pictures of that."""
        __tracebackhide__ = True
        from pytest_qmp.vm.screen_compare import Comparison, load_reference

        path = os.fspath(reference) if isinstance(reference, (str, os.PathLike)) else None
        try:
            expected = load_reference(reference)
        except FileNotFoundError:
            settled = self._settled_screen(deadline, device, head)
            return self._without_reference(str(path), settled)
        last: list[tuple[Image.Image, Comparison]] = []

        def look(screen: Image.Image) -> Image.Image | None:
            last[:] = [(screen, Comparison.of(expected, screen, criteria))]
            return screen if last[0][1].alike else None

        self._until_seen(look, deadline, device, head)
        screen, found = last[0]
        picture = Screenshot.from_image(screen)
        if found.alike:
            return picture, "", {}
        if self.update_screens and path is not None:
            picture.save(path)
            return picture, "", {}
        pictures = {"actual": picture, "expected": Screenshot.from_image(expected)}
        if found.picture is not None:
            pictures["difference"] = Screenshot.from_image(found.picture)
        named = f"the reference {path}" if path is not None else "the reference"
        story = (
            f"the screen of {self} is not like {named}: {found}\n"
            f"The pictures are {self._attach_pictures(pictures)} in the test's artifacts"
            + (f"\n{_ACCEPT.format('it')}" if path is not None else "")
        )
        return picture, story, dict(pictures)

    def _settled_screen(
        self, deadline: Deadline, device: str | None, head: int | None
    ) -> Screenshot:
        """The screen once it stays as it is, or at the deadline."""
        if deadline.expired:
            return Screenshot.from_image(self._seen(device, head, self._deadline(DEFAULT)))
        seen = b""
        since = Deadline(_SETTLED_SECONDS)

        def look(screen: Image.Image) -> Image.Image | None:
            nonlocal seen, since
            if screen.tobytes() != seen:
                seen, since = screen.tobytes(), Deadline(_SETTLED_SECONDS)
            return screen if since.expired else None

        found = self._until_seen(look, deadline, device, head)
        if found is None:
            found = self._seen(device, head, self._deadline(DEFAULT))
        return Screenshot.from_image(found)

    def _without_reference(
        self, path: str, picture: Screenshot
    ) -> tuple[Screenshot, str, dict[str, bytes]]:
        if self.update_screens:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            picture.save(path)
            return picture, "", {}
        names = self._attach_pictures({"actual": picture})
        story = (
            f"there is no reference {path!r} (looked up from {os.getcwd()}). The screen of {self} "
            f"as it is now is {names} in the test's artifacts\n{_ACCEPT.format('the reference')}"
        )
        return picture, story, {"actual": picture}

    def _attach_pictures(self, pictures: dict[str, Screenshot]) -> str:
        """Keeps pictures for the artifacts; their names there."""
        self._mismatches += 1
        names = []
        for kind, picture in pictures.items():
            names.append(f"screen-{self._mismatches}-{kind}.png")
            self.attach_artifact(names[-1], picture)
        return ", ".join(names)


_ACCEPT = (
    "If the screen is right, --qmp-update-screens makes it {}; outside pytest, update_screens = "
    "True of the machine does"
)


def _criteria(tolerance: float, channel_tolerance: int, region: Region | None) -> Criteria:
    from pytest_qmp.vm.screen_compare import Criteria

    return Criteria(tolerance, channel_tolerance, region)
