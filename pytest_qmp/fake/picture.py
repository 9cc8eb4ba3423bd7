"""Pictures of a text screen: letters drawn pixel by pixel, as PPM or PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

__all__ = ["as_png", "as_ppm", "draw_text"]

_CELL_WIDTH, _CELL_HEIGHT = 9, 16
_GREY, _BLACK = b"\xaa\xaa\xaa", b"\0\0\0"
#: From the space on: five columns of eight dots a letter, the lowest bit on top.
_LETTERS = bytes.fromhex(
    "0000000000" "00005f0000" "0007000700" "147f147f14" "242a7f2a12" "2313086462"
    "3649562050" "0008070300" "001c224100" "0041221c00" "2a1c7f1c2a" "08083e0808"
    "0080703000" "0808080808" "0000606000" "2010080402" "3e5149453e" "00427f4000"
    "7249494946" "2141494d33" "1814127f10" "2745454539" "3c4a494931" "4121110907"
    "3649494936" "464949291e" "0000140000" "0040340000" "0008142241" "1414141414"
    "0041221408" "0201590906" "3e415d594e" "7c1211127c" "7f49494936" "3e41414122"
    "7f4141413e" "7f49494941" "7f09090901" "3e41415173" "7f0808087f" "00417f4100"
    "2040413f01" "7f08142241" "7f40404040" "7f021c027f" "7f0408107f" "3e4141413e"
    "7f09090906" "3e4151215e" "7f09192946" "2649494932" "03017f0103" "3f4040403f"
    "1f2040201f" "3f4038403f" "6314081463" "0304780403" "6159494d43" "007f414141"
    "0204081020" "004141417f" "0402010204" "4040404040" "0003070800" "2054547840"
    "7f28444438" "3844444428" "384444287f" "3854545418" "00087e0902" "18a4a49c78"
    "7f08040478" "00447d4000" "2040403d00" "7f10284400" "00417f4000" "7c04780478"
    "7c08040478" "3844444438" "fc18242418" "18242418fc" "7c08040408" "4854545424"
    "04043f4424" "3c4040207c" "1c2040201c" "3c4030403c" "4428102844" "4c9090907c"
    "4464544c44" "0008364100" "0000770000" "0041360800" "0201020402"
)  # fmt: skip


def draw_text(lines: Sequence[str], width: int, height: int) -> list[bytes]:
    """The rows of a picture, three bytes a dot, with lines of text from the top left on.

    Args:
        lines: what does not fit is left out; what is not ASCII is shown as a question mark.
        width: in dots.
        height: in dots.
    """
    columns = width // _CELL_WIDTH
    blank = _BLACK * width
    rows: list[bytes] = []
    for line in list(lines)[: height // _CELL_HEIGHT]:
        shown = [char if " " <= char <= "~" else "?" for char in line[:columns]]
        letters = [_LETTERS[(ord(char) - 32) * 5 :][:5] for char in shown]
        for y in range(_CELL_HEIGHT):
            dots = b"".join(_letter_row(letter, y) for letter in letters)
            rows.append(dots + blank[len(dots) :])
    return rows + [blank] * (height - len(rows))


def _letter_row(letter: bytes, y: int) -> bytes:
    bit = 1 << y // 2
    dots = b"".join(_GREY if column & bit else _BLACK for column in letter)
    return _BLACK * 2 + dots + _BLACK * 2


def as_ppm(rows: Sequence[bytes]) -> bytes:
    """A portable pixmap, the form that ``screendump`` writes unless told otherwise."""
    return b"P6\n%d %d\n255\n" % (len(rows[0]) // 3, len(rows)) + b"".join(rows)


def as_png(rows: Sequence[bytes]) -> bytes:
    """A PNG of eight bits for each of red, green and blue."""
    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    image = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", image), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
