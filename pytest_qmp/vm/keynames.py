"""Names of keys: QEMU's own, and those that people use."""

from __future__ import annotations

from typing import Any

from pytest_qmp.errors import VMError
from pytest_qmp.text import nearest

__all__ = ["KEYS", "key_value", "read_chord"]

#: QEMU's names (QAPI's QKeyCode). Which of them a version has, it says itself.
KEYS = frozenset(
    (
        *"abcdefghijklmnopqrstuvwxyz0123456789",
        *(f"f{number}" for number in range(1, 25)),
        *(f"kp_{number}" for number in range(10)),
        *("shift", "shift_r", "alt", "alt_r", "ctrl", "ctrl_r", "meta_l", "meta_r", "menu"),
        *("compose", "caps_lock", "num_lock", "scroll_lock", "esc", "tab", "backspace", "ret"),
        *("spc", "minus", "equal", "bracket_left", "bracket_right", "semicolon", "apostrophe"),
        *("grave_accent", "backslash", "less", "comma", "dot", "slash", "asterisk", "insert"),
        *("delete", "home", "end", "pgup", "pgdn", "left", "right", "up", "down", "print", "sysrq"),
        *("pause", "kp_divide", "kp_multiply", "kp_subtract", "kp_add", "kp_enter"),
        *("kp_decimal", "kp_comma", "kp_equals", "stop", "again", "props", "undo", "front"),
        *("copy", "open", "paste", "find", "cut", "lf", "help", "ro", "hiragana", "henkan", "yen"),
        *("muhenkan", "katakanahiragana", "lang1", "lang2", "power", "sleep", "wake"),
        *("audionext", "audioprev", "audiostop", "audioplay", "audiomute", "volumeup"),
        *("volumedown", "mediaselect", "mail", "calculator", "computer", "ac_home"),
        *("ac_back", "ac_forward", "ac_refresh", "ac_bookmarks"),
    )
)
_ALIASES = {
    "control": "ctrl", "ctrl_l": "ctrl", "lctrl": "ctrl", "rctrl": "ctrl_r",
    "shift_l": "shift", "lshift": "shift", "rshift": "shift_r",
    "alt_l": "alt", "lalt": "alt", "ralt": "alt_r", "altgr": "alt_r", "option": "alt",
    "meta": "meta_l", "super": "meta_l", "super_l": "meta_l", "super_r": "meta_r",
    "win": "meta_l", "windows": "meta_l", "cmd": "meta_l", "command": "meta_l", "logo": "meta_l",
    "enter": "ret", "return": "ret", "escape": "esc", "del": "delete", "ins": "insert",
    "bs": "backspace", "bksp": "backspace", "space": "spc", "pageup": "pgup", "page_up": "pgup",
    "pagedown": "pgdn", "page_down": "pgdn", "pgdown": "pgdn", "arrowleft": "left",
    "arrowright": "right", "arrowup": "up", "arrowdown": "down", "capslock": "caps_lock",
    "numlock": "num_lock", "scrolllock": "scroll_lock", "printscreen": "print",
    "print_screen": "print", "prtsc": "print", "prtscr": "print", "break": "pause",
    "period": "dot", "dash": "minus", "hyphen": "minus", "equals": "equal", "plus": "kp_add",
    "backtick": "grave_accent", "grave": "grave_accent", "quote": "apostrophe",
    "contextmenu": "compose",
    " ": "spc", "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right",
    ";": "semicolon", "'": "apostrophe", "`": "grave_accent", "\\": "backslash", "<": "less",
    ",": "comma", ".": "dot", "/": "slash", "*": "asterisk", "\n": "ret", "\t": "tab",
}  # fmt: skip


def read_chord(keys: str | int) -> tuple[str | int, ...]:
    """The keys of a combination, in the order in which they are pressed.

    Args:
        keys: names with ``-`` or ``+`` between them, or the number of one key.

    Raises:
        VMError: there is no such key; the text names the nearest.

    >>> read_chord("Ctrl-Alt-Del")
    ('ctrl', 'alt', 'delete')
    >>> read_chord("ctrl--")
    ('ctrl', 'minus')
    """
    if isinstance(keys, int) and not isinstance(keys, bool):
        return (keys,)
    if not isinstance(keys, str) or not keys:
        raise VMError(f"keys are pressed by name, as in 'ctrl-alt-delete' or 'f2': not {keys!r}")
    if len(keys) == 1:
        return (_key(keys, keys),)
    marked = keys.replace("+", "-")
    if marked.endswith("--"):  # The last is the key itself.
        names = [*marked[:-2].split("-"), "plus" if keys.endswith("+") else "-"]
    else:
        names = marked.split("-")
    return tuple(_key(name, keys) for name in names)


def _key(name: str, keys: str) -> str:
    wanted = name.lower()
    found = _ALIASES.get(wanted, wanted)
    if found in KEYS:
        return found
    told = "" if name == keys else f" in {keys!r}"
    typed = (
        "\nCharacters are typed by type_text(), which knows the guest's keyboard layout"
        if len(name) == 1 or (wanted and " " in name)
        else ""
    )
    raise VMError(f"there is no key {name!r}{told}{nearest(wanted, [*KEYS, *_ALIASES])}{typed}")


def key_value(key: str | int) -> dict[str, Any]:
    """A key as QMP has it (QAPI's KeyValue)."""
    return {"type": "number" if isinstance(key, int) else "qcode", "data": key}
