"""A machine's keyboard: combinations of keys, and text."""

from __future__ import annotations

from pytest_qmp.errors import QMPTimeoutError, VMError
from pytest_qmp.qmp.deadline import Deadline, seconds
from pytest_qmp.qmp.waiting import DEFAULT, Timeout
from pytest_qmp.vm.input import InputEvent, MachineInput
from pytest_qmp.vm.keymaps import Chord, chords_for
from pytest_qmp.vm.keynames import key_value, read_chord

__all__ = ["MachineKeyboard"]

#: A USB keyboard tells the guest of one key every eight or ten milliseconds.
_EVENT_SECONDS = 0.01


class MachineKeyboard(MachineInput):
    """The keyboard of ``VirtualMachine``."""

    def send_keys(self, *keys: str | int, hold: float = 0.0, timeout: Timeout = DEFAULT) -> None:
        """Presses combinations of keys, one after the other.

        The keys of one are pressed in their order and released in reverse. Names are QEMU's
        (``ret``, ``spc``, ``meta_l``, ``kp_enter``) and those that people use (``enter``,
        ``del``, ``pageup``, ``super``), in upper or lower case; they stand for keys of a US
        keyboard, not for characters.

        Args:
            keys: such as ``"ctrl-alt-delete"``, ``"f2"``, ``"enter"``; or a key's number.
            hold: seconds that the keys stay pressed.
            timeout: seconds for the whole call.

        Raises:
            VMError: there is no such key, the machine has no keyboard, or its CPUs don't run.
            QMPTimeoutError: the guest does not read its keyboard.
        """
        __tracebackhide__ = True
        chords = [read_chord(one) for one in keys]
        if not chords:
            raise VMError("send_keys() takes the keys to press, as in send_keys('ctrl-alt-delete')")
        deadline = self._deadline(timeout)
        left = deadline.remaining()
        if not 0 <= hold <= (hold if left is None else left):
            raise VMError(
                f"keys are held for seconds, and at most as long as the call may take "
                f"({deadline.words}): not for {hold!r}"
            )
        for given, chord in zip(keys, chords, strict=True):
            self._press_keys(chord, hold, f"press {given!r}", deadline)

    def type_text(
        self,
        text: str,
        *,
        layout: str = "us",
        delay: float | None = None,
        timeout: Timeout = DEFAULT,
    ) -> None:
        """Types a text on the keyboard, as a person would with that layout.

        On a PC's own keyboard it goes as fast as the guest reads it, and nothing is lost. Of
        other keyboards (USB, virtio) nothing can be seen, so there it takes 10 ms for each key
        that goes up or down.

        Args:
            text: what the layout can type; ``\\n`` is Enter, ``\\t`` Tab, ``\\b`` Backspace,
                ``\\x1b`` Escape. Caps Lock has to be off in the guest.
            layout: the guest's: ``us``, ``gb``, ``de``, ``fr``, ``es``, ``it``, ``se``, ``no``,
                ``dk`` or ``pt``.
            delay: seconds to let pass after each character, for a guest that needs it.
            timeout: seconds for the whole call.

        Raises:
            VMError: the layout can't type a character, before anything is typed; or the machine
                has no keyboard, or its CPUs don't run.
            QMPTimeoutError: the guest does not read its keyboard; the text says how far it got.
        """
        __tracebackhide__ = True
        characters = chords_for(text, layout)
        if delay is not None and not delay >= 0:
            raise VMError(f"the delay of type_text() is a number of seconds, not {delay!r}")
        deadline = self._deadline(timeout)
        for count, chords in enumerate(characters):
            what = f"type {_shown(text)} ({count} of {len(characters)} characters typed)"
            for chord in chords:
                self._press_keys(chord, 0.0, what, deadline)
                self._idle(self._pause_after(chord, delay), deadline)
            if deadline.expired and count + 1 < len(characters):
                raise QMPTimeoutError(
                    f"typed {count + 1} of the {len(characters)} characters of {_shown(text)} in "
                    f"{deadline.words}: give more time, as in timeout="
                    f"{seconds(2 * deadline.elapsed * len(characters) / (count + 1))[:-2]}"
                )

    def _pause_after(self, chord: Chord, delay: float | None) -> float:
        if delay is not None:
            return delay
        return 0.0 if self._sees_keys_taken else 2 * len(chord) * _EVENT_SECONDS

    def _press_keys(
        self, chord: tuple[str | int, ...], hold: float, what: str, deadline: Deadline
    ) -> None:
        __tracebackhide__ = True
        down = [_key_event(key, down=True) for key in chord]
        up = [_key_event(key, down=False) for key in reversed(chord)]
        if not hold:
            self._send_input([*down, *up], what, deadline)
            return
        self._send_input(down, what, deadline)
        try:
            self._idle(hold, deadline)
        finally:
            self._send_input(up, what, deadline)


def _key_event(key: str | int, *, down: bool) -> InputEvent:
    return {"type": "key", "data": {"down": down, "key": key_value(key)}}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
