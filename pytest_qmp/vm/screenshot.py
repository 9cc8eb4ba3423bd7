"""A picture of a guest's screen, as a PNG."""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qmp.errors import VMError

if TYPE_CHECKING:
    from types import ModuleType

    from PIL import Image

    from pytest_qmp.vm.config import PathLike

__all__ = ["Screenshot", "image_of", "pillow", "size_of_ppm"]

_PNG = b"\x89PNG\r\n\x1a\n"
_SIZE = slice(len(_PNG) + 8, len(_PNG) + 16)
_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


class Screenshot(bytes):
    """A picture of the screen: the bytes of a PNG file, and what they show.

    >>> Screenshot(b"GIF89a")
    Traceback (most recent call last):
    ...
    pytest_qmp.VMError: these bytes are no PNG: b'GIF89a'
    """

    def __new__(cls, png: bytes) -> Screenshot:
        if not png.startswith(_PNG) or len(png) < _SIZE.stop:
            raise VMError(f"these bytes are no PNG: {bytes(png[:20])!r}")
        return super().__new__(cls, png)

    @classmethod
    def from_image(cls, image: Image.Image) -> Screenshot:
        """Makes one of a Pillow image."""
        file = io.BytesIO()
        image.save(file, "PNG")
        return cls(file.getvalue())

    @classmethod
    def from_ppm(cls, ppm: bytes) -> Screenshot:
        """Makes one of a portable pixmap, which every QEMU can write.

        Raises:
            VMError: these bytes are none.
        """
        from pytest_qmp.fake.picture import as_png

        width, height = size_of_ppm(ppm)
        dots = memoryview(ppm)[len(ppm) - 3 * width * height :]
        rows = [bytes(dots[at : at + 3 * width]) for at in range(0, len(dots), 3 * width)]
        return cls(as_png(rows))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = struct.unpack(">II", self[_SIZE])
        return width, height

    @property
    def image(self) -> Image.Image:
        """The picture as a Pillow image, in RGB.

        Raises:
            VMError: Pillow is not installed.
        """
        return image_of(self)

    def save(self, path: PathLike) -> Path:
        """Writes the PNG; returns where.

        Raises:
            OSError: it can't be written.
        """
        place = Path(os.fspath(path))
        place.write_bytes(self)
        return place

    def __repr__(self) -> str:
        width, height = self.size
        return f"<Screenshot, {width} x {height} pixels, {len(self)} bytes>"

    __str__ = __repr__


def size_of_ppm(ppm: bytes) -> tuple[int, int]:
    """Width and height of a portable pixmap.

    Raises:
        VMError: it is none, or not the whole of one.
    """
    head = _PPM.match(ppm)
    if head is None or len(ppm) != head.end() + 3 * int(head[1]) * int(head[2]):
        raise VMError(f"the picture of the screen is not whole: {len(ppm)} bytes: {ppm[:20]!r}")
    return int(head[1]), int(head[2])


def pillow() -> ModuleType:
    """``PIL.Image``.

    Raises:
        VMError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise VMError(
            f"looking into pictures needs Pillow, and it can't be imported ({error}): "
            "pip install 'pytest-qmp[screen]'"
        ) from None
    return Image


def image_of(data: bytes) -> Image.Image:
    """A picture file as a Pillow image, in RGB.

    Raises:
        VMError: Pillow is not installed.
        OSError: the bytes are no picture.
    """
    image: Image.Image = pillow().open(io.BytesIO(data)).convert("RGB")
    return image
