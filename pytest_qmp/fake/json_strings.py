"""What is inside a JSON string, by QEMU's rules: escapes, and its own variant of UTF-8."""

from __future__ import annotations

import re

__all__ = ["decode_lossy", "unescape"]

_ESCAPES = {
    0x22: '"',
    0x27: "'",
    0x2F: "/",
    0x5C: "\\",
    0x62: "\b",
    0x66: "\f",
    0x6E: "\n",
    0x72: "\r",
    0x74: "\t",
}
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
_PLAIN = re.compile(rb"[\x20-\x5b\x5d-\x7f]*\Z")
_INVALID_UTF8 = "invalid UTF-8 sequence in string"
#: Number of bytes, what the first is less than, its bits, the least value that needs so many.
#: QEMU takes the five and six bytes of the first UTF-8 as one wrong character each.
_SEQUENCES = (
    (2, 0xE0, 0x1F, 0x80),
    (3, 0xF0, 0x0F, 0x800),
    (4, 0xF8, 0x07, 0x10000),
    (5, 0xFC, 0x03, 0x200000),
    (6, 0xFE, 0x01, 0x4000000),
)


def is_character(code: int) -> bool:
    """Whether QEMU takes this code point: no surrogate, no noncharacter."""
    if 0xD800 <= code < 0xE000 or 0xFDD0 <= code <= 0xFDEF or code > 0x10FFFF:
        return False
    return code & 0xFFFE != 0xFFFE


def _code_point(data: bytes, position: int) -> tuple[int | None, int]:
    """The code point at a position (None: none that is valid) and where the next one starts."""
    first = data[position]
    if first < 0x80:
        return first, position + 1
    if not 0xC0 <= first < 0xFE:
        return None, position + 1
    length, _, mask, least = next(row for row in _SEQUENCES if first < row[1])
    code = first & mask
    end = position + 1
    while end < position + length:
        if end == len(data) or data[end] & 0xC0 != 0x80:
            return None, end
        code = code << 6 | data[end] & 0x3F
        end += 1
    # 0xC0 0x80 is how QEMU keeps a NUL inside a C string.
    if (code < least and not (code == 0 and length == 2)) or not is_character(code):
        return None, end
    return code, end


def decode_lossy(data: bytes) -> str:
    """The text up to the first NUL, with U+FFFD for what is not UTF-8."""
    data = data.split(b"\0", 1)[0]
    out = []
    position = 0
    while position < len(data):
        code, position = _code_point(data, position)
        out.append("\ufffd" if code is None else chr(code))
    return "".join(out)


def unescape(token: bytes) -> tuple[str, str | None]:
    """The text of a string token with its quotes, and what is wrong with it, if anything is."""
    inner = token[1:-1]
    if _PLAIN.match(inner):
        return inner.decode("ascii"), None
    out: list[str] = []
    position = 1
    while position < len(token) - 1:
        if token[position] == 0x5C:
            char, position, fault = _escape(token, position)
            if fault:
                return "", fault
            out.append(char)
        else:
            code, position = _code_point(token, position)
            if code is None:
                return "", _INVALID_UTF8
            out.append(chr(code))
    return "".join(out), None


def _escape(token: bytes, position: int) -> tuple[str, int, str | None]:
    """The character of the escape at a position, where it ends, what is wrong with it."""
    letter = token[position + 1]
    if letter != 0x75:
        char = _ESCAPES.get(letter)
        fault = None if char is not None else "invalid escape sequence in string"
        return char or "", position + 2, fault
    end = position + 2
    code = _four_digits(token, end)
    if code is None:
        return "", end, _not_a_character(token[position : end + 4])
    end += 4
    if 0xD800 <= code < 0xDC00 and token[end : end + 2] == b"\\u":
        low = _four_digits(token, end + 2)
        if low is not None and 0xDC00 <= low < 0xE000:
            code = 0x10000 + ((code & 0x3FF) << 10 | low & 0x3FF)
            end += 6
    if not is_character(code):
        return "", end, _not_a_character(token[position:end])
    return chr(code), end, None


def _four_digits(token: bytes, position: int) -> int | None:
    match = _HEX4.match(token, position)
    return int(match.group(), 16) if match else None


def _not_a_character(escape: bytes) -> str:
    return f"{decode_lossy(escape)} is not a valid Unicode character"
