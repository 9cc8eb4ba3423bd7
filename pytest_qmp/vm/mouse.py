"""A machine's mouse or tablet: ``vm.mouse``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from pytest_qmp.errors import VMError
from pytest_qmp.text import nearest
from pytest_qmp.vm.input import InputEvent

__all__ = ["Button", "Mouse"]

Button = Literal["left", "middle", "right", "side", "extra"]

#: What an absolute pointer calls the far end of an axis.
_AXIS_END = 0x7FFF
_DRAG_STEPS = 8

Send = Callable[[Sequence[InputEvent], str], None]
Size = Callable[[], tuple[int, int]]


class Mouse:
    """Points, clicks and scrolls; QEMU gives it to the tablet or mouse that is in use.

    Places are pixels of the present screen, from ``(0, 0)`` at its top left. They need a tablet,
    such as ``VMConfig(devices=["virtio-tablet-pci"])``, and a display.

    Each method raises ``VMError`` where the machine has no such device, or its CPUs don't run.

    Args:
        send: sends events to the machine; told what is being done.
        size: tells the screen's width and height.
    """

    def __init__(self, send: Send, size: Size) -> None:
        self._send = send
        self._size = size

    def move(self, x: int, y: int) -> None:
        """Points at a pixel of the screen.

        Raises:
            VMError: it is not on the screen; or the machine has no tablet, or no display.
        """
        __tracebackhide__ = True
        width, height = self._size()
        for value, end in ((x, width), (y, height)):
            if not 0 <= value < end:
                raise VMError(f"can't point at ({x}, {y}): the screen is {width} x {height} pixels")
        # The middle of the pixel, so that no guest's rounding makes it the next one.
        along = [_axis("abs", "x", _place(x, width)), _axis("abs", "y", _place(y, height))]
        self._send(along, f"point at ({x}, {y})")

    def move_by(self, dx: int, dy: int) -> None:
        """Moves a mouse by so much, to the right and downwards.

        How far that is on the screen is the guest's choice: most speed up quick movements.
        """
        __tracebackhide__ = True
        self._send([_axis("rel", "x", dx), _axis("rel", "y", dy)], f"move by ({dx}, {dy})")

    def press(self, button: Button = "left") -> None:
        """Presses a button, and holds it until ``release()``."""
        __tracebackhide__ = True
        self._button(_known(button), down=True)

    def release(self, button: Button = "left") -> None:
        """Releases a button."""
        __tracebackhide__ = True
        self._button(_known(button), down=False)

    def click(
        self, button: Button = "left", *, x: int | None = None, y: int | None = None, count: int = 1
    ) -> None:
        """Presses and releases a button.

        Args:
            button: ``left``, ``middle``, ``right``, ``side`` or ``extra``.
            x: where; None: where the pointer is.
            y: the same, and both or none.
            count: how often.

        Raises:
            VMError: as ``move`` does.
        """
        __tracebackhide__ = True
        name = _known(button)
        if (x is None) is not (y is None):
            raise VMError("a place on the screen has both x and y, as in click(x=10, y=20)")
        if x is not None and y is not None:
            self.move(x, y)
        for _ in range(count):
            self._button(name, down=True)
            self._button(name, down=False)

    def double_click(
        self, button: Button = "left", *, x: int | None = None, y: int | None = None
    ) -> None:
        """Clicks twice; see ``click``."""
        __tracebackhide__ = True
        self.click(button, x=x, y=y, count=2)

    def scroll(self, steps: int, *, horizontal: int = 0) -> None:
        """Turns the wheel.

        Args:
            steps: above 0 scrolls up, below 0 down.
            horizontal: above 0 scrolls to the right, below 0 to the left.
        """
        __tracebackhide__ = True
        for amount, forth, back in (
            (steps, "wheel-up", "wheel-down"),
            (horizontal, "wheel-right", "wheel-left"),
        ):
            for _ in range(abs(amount)):
                self._button(forth if amount > 0 else back, down=True)
                self._button(forth if amount > 0 else back, down=False)

    def drag(
        self, start: tuple[int, int], end: tuple[int, int], *, button: Button = "left"
    ) -> None:
        """Presses a button at one place and releases it at another, moving there in steps.

        Args:
            start: x and y.
            end: x and y.
            button: as for ``click``.

        Raises:
            VMError: as ``move`` does.
        """
        __tracebackhide__ = True
        name = _known(button)
        self.move(*start)
        self._button(name, down=True)
        try:
            for step in range(1, _DRAG_STEPS + 1):
                x, y = (a + (b - a) * step // _DRAG_STEPS for a, b in zip(start, end, strict=True))
                self.move(x, y)
        finally:
            self._button(name, down=False)

    def _button(self, button: str, *, down: bool) -> None:
        __tracebackhide__ = True
        event = {"type": "btn", "data": {"down": down, "button": button}}
        self._send([event], f"{'press' if down else 'release'} the mouse's {button} button")


def _place(value: int, size: int) -> int:
    return (2 * value + 1) * (_AXIS_END + 1) // (2 * size)


def _axis(kind: str, axis: str, value: int) -> InputEvent:
    return {"type": kind, "data": {"axis": axis, "value": value}}


def _known(button: str) -> str:
    buttons: tuple[str, ...] = get_args(Button)
    if button not in buttons:
        raise VMError(
            f"a mouse has no button {button!r}{nearest(str(button), buttons)} "
            f"(buttons: {', '.join(buttons)})"
        )
    return button
