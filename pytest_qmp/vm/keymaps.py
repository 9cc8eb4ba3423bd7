"""Keyboard layouts: which keys type a character."""

# ruff: noqa: RUF001 (the accents on keys are what they look like)

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache

from pytest_qmp.errors import VMError
from pytest_qmp.text import nearest

__all__ = ["LAYOUTS", "Chord", "chords_for", "layout_name"]

#: Keys that are pressed one after the other, and released in reverse.
Chord = tuple[str, ...]

#: The keys of each row from left to right, by QEMU's names of them (of a US keyboard).
_ROWS = (
    ["grave_accent", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "minus", "equal"],
    ["q", "w", "e", "r", "t", "y", "u", "i", "o", "p", "bracket_left", "bracket_right"],
    ["a", "s", "d", "f", "g", "h", "j", "k", "l", "semicolon", "apostrophe", "backslash"],
    ["less", "z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash"],
)

# A layout is the rows of its keys, plain and then with Shift; a space is a key that types nothing.
# What is typed with AltGr follows as character and key, then what is typed with Shift and AltGr,
# then the dead keys: characters of the layout that wait for a letter to stand on.
_LAYOUTS: dict[str, tuple[str, str, str, str, str]] = {
    "us": (
        "`1234567890-=|qwertyuiop[]|asdfghjkl;'\\| zxcvbnm,./",
        "~!@#$%^&*()_+|QWERTYUIOP{}|ASDFGHJKL:\"¦| ZXCVBNM<>?",
        "",
        "",
        "",
    ),
    "gb": (
        "`1234567890-=|qwertyuiop[]|asdfghjkl;'#|\\zxcvbnm,./",
        '¬!"£$%^&*()_+|QWERTYUIOP{}|ASDFGHJKL:@~|¦ZXCVBNM<>?',
        "€4",
        "",
        "",
    ),
    "de": (
        "^1234567890ß´|qwertzuiopü+|asdfghjklöä#|<yxcvbnm,.-",
        "°!\"§$%&/()=?`|QWERTZUIOPÜ*|ASDFGHJKLÖÄ'|>YXCVBNM;:_",
        "²2 ³3 {7 [8 ]9 }0 \\minus @q €e ~bracket_right ¦less µm",
        "",
        "^´`",
    ),
    "fr": (
        "²&é\"'(-è_çà)=|azertyuiop^$|qsdfghjklmù*|<wxcvbn,;:!",
        " 1234567890°+|AZERTYUIOP¨£|QSDFGHJKLM%µ|>WXCVBN?./§",
        "~2 #3 {4 [5 ¦6 `7 \\8 ^9 @0 ]minus }equal €e ¤bracket_right",
        "",
        "^¨",
    ),
    "es": (
        "º1234567890'¡|qwertyuiop`+|asdfghjklñ´ç|<zxcvbnm,.-",
        'ª!"·$%&/()=?¿|QWERTYUIOP^*|ASDFGHJKLÑ¨Ç|>ZXCVBNM;:_',
        "\\grave_accent ¦1 @2 #3 ~4 ¬6 €e [bracket_left ]bracket_right {apostrophe }backslash",
        "",
        "`^´¨",
    ),
    "it": (
        "\\1234567890'ì|qwertyuiopè+|asdfghjklòàù|<zxcvbnm,.-",
        '¦!"£$%&/()=?^|QWERTYUIOPé*|ASDFGHJKLç°§|>ZXCVBNM;:_',
        "`minus ~equal €e [bracket_left ]bracket_right @semicolon #apostrophe",
        "{bracket_left }bracket_right",
        "",
    ),
    "se": (
        "§1234567890+´|qwertyuiopå¨|asdfghjklöä'|<zxcvbnm,.-",
        '½!"#¤%&/()=?`|QWERTYUIOPÅ^|ASDFGHJKLÖÄ*|>ZXCVBNM;:_',
        "@2 £3 $4 €5 {7 [8 ]9 }0 \\minus ~bracket_right ¦less µm",
        "",
        "´`¨^~",
    ),
    "no": (
        "¦1234567890+\\|qwertyuiopå¨|asdfghjkløæ'|<zxcvbnm,.-",
        "§!\"#¤%&/()=?`|QWERTYUIOPÅ^|ASDFGHJKLØÆ*|>ZXCVBNM;:_",
        "@2 £3 $4 {7 [8 ]9 }0 ´equal €e ~bracket_right µm",
        "",
        "`¨^´~",
    ),
    "dk": (
        "½1234567890+´|qwertyuiopå¨|asdfghjklæø'|<zxcvbnm,.-",
        "§!\"#¤%&/()=?`|QWERTYUIOPÅ^|ASDFGHJKLÆØ*|>ZXCVBNM;:_",
        "@2 £3 $4 {7 [8 ]9 }0 ¦equal €e ~bracket_right \\less µm",
        "",
        "´`¨^~",
    ),
    "pt": (
        "\\1234567890'«|qwertyuiop+´|asdfghjklçº~|<zxcvbnm,.-",
        '¦!"#$%&/()=?»|QWERTYUIOP*`|ASDFGHJKLÇª^|>ZXCVBNM;:_',
        "@2 £3 §4 {7 [8 ]9 }0 €e ¨bracket_left",
        "",
        "´`~^¨",
    ),
}  # fmt: skip

#: The names of the layouts.
LAYOUTS = tuple(_LAYOUTS)
_ALIASES = {
    "en-us": "us", "en": "us", "uk": "gb", "en-gb": "gb", "sv": "se", "fi": "se", "da": "dk",
    "nb": "no",
}  # fmt: skip

_WHITE = {" ": ("spc",), "\n": ("ret",), "\t": ("tab",), "\b": ("backspace",), "\x1b": ("esc",)}
#: What a dead key puts on a letter.
_MARKS = {"`": "\u0300", "´": "\u0301", "^": "\u0302", "~": "\u0303", "¨": "\u0308"}


def layout_name(name: str) -> str:
    """The layout of that name, or of another name of it (``uk``, ``sv``, ``DE``).

    Raises:
        VMError: there is none; the text names all.
    """
    wanted = name.lower().replace("_", "-") if isinstance(name, str) else ""
    found = _ALIASES.get(wanted, wanted)
    if found not in _LAYOUTS:
        raise VMError(
            f"there is no keyboard layout {name!r}{nearest(wanted, LAYOUTS)}\n"
            f"The layouts are: {', '.join(LAYOUTS)}"
        )
    return found


def chords_for(text: str, layout: str) -> list[list[Chord]]:
    """What to press to type a text, for each character of it.

    Args:
        text: letters, and ``\\n``, ``\\t``, ``\\b``, ``\\x1b`` (Escape).
        layout: of the guest.

    Raises:
        VMError: the layout can't type one of them; the text names each, and the layouts that can.

    >>> chords_for("Aé", "de")
    [[('shift', 'a')], [('equal',), ('e',)]]
    """
    name = layout_name(layout)
    table = _table(name)
    typed = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    lacking = [char for char in dict.fromkeys(typed) if char not in table]
    if lacking:
        raise VMError(_refusal(lacking, name))
    return [table[char] for char in typed]


def _refusal(lacking: list[str], name: str) -> str:
    named = ", ".join(
        f"{char!r} ({unicodedata.name(char, f'U+{ord(char):04X}')})" for char in lacking
    )
    able = [other for other in LAYOUTS if all(char in _table(other) for char in lacking)]
    text = f"a keyboard with the layout {name!r} can't type {named}. "
    if able:
        return f"{text}These can: {', '.join(able)}; give layout=, and set the guest to the same"
    return f"{text}No layout that we know can: put it into the guest another way"


@cache
def _table(layout: str) -> dict[str, list[Chord]]:
    """What types each character of a layout; the first way is the simplest."""
    plain, shifted, with_altgr, with_both, dead = _LAYOUTS[layout]
    table: dict[str, list[Chord]] = {char: [chord] for char, chord in _WHITE.items()}
    ways = [
        *_rows(plain, ()),
        *_rows(shifted, ("shift",)),
        *_pairs(with_altgr, ("alt_r",)),
        *_pairs(with_both, ("shift", "alt_r")),
    ]
    dead_keys: dict[str, Chord] = {}
    for char, chord in ways:
        if char in dead and char not in dead_keys:
            dead_keys[char] = chord
        elif char not in table:
            table[char] = [chord]
    for char, chord in dead_keys.items():
        table.setdefault(char, [chord, _WHITE[" "]])
    table.update(_composed(table, dead_keys))
    return table


def _rows(rows: str, modifiers: Chord) -> Iterator[tuple[str, Chord]]:
    # A bar parts the rows, so a bar that is typed is written as a broken one.
    for keys, chars in zip(_ROWS, rows.split("|"), strict=True):
        for key, char in zip(keys, chars, strict=True):
            if char != " ":
                yield char.replace("¦", "|"), (*modifiers, key)


def _pairs(pairs: str, modifiers: Chord) -> Iterator[tuple[str, Chord]]:
    for pair in pairs.split():
        yield pair[0].replace("¦", "|"), (*modifiers, pair[1:])


def _composed(
    table: dict[str, list[Chord]], dead_keys: dict[str, Chord]
) -> Iterator[tuple[str, list[Chord]]]:
    for accent, chord in dead_keys.items():
        for letter, ways in list(table.items()):
            char = unicodedata.normalize("NFC", letter + _MARKS[accent])
            if len(char) == 1 and char not in table and len(ways) == 1:
                yield char, [chord, *ways]
