"""How a screen differs from the picture that it was to be like."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

from pytest_qmp.errors import VMError
from pytest_qmp.vm.screenshot import image_of, pillow

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Comparison", "Criteria", "Reference", "Region", "cropped", "load_reference"]

#: x, y, width and height, in pixels.
Region = tuple[int, int, int, int]
Reference = Union[str, "os.PathLike[str]", bytes, "Image.Image"]

_RED = (255, 0, 0)
_FAINT = 4  # the part of its brightness that what is alike keeps in a picture of the difference


@dataclass(frozen=True)
class Criteria:
    """What counts as alike.

    Attributes:
        tolerance: the part of the pixels that may differ, from 0 to 1.
        channel_tolerance: how far red, green or blue (0 to 255) of a pixel may be off before it
            differs.
        region: what is looked at; None: all.

    Raises:
        VMError: for values that can't be.
    """

    tolerance: float = 0.0
    channel_tolerance: int = 0
    region: Region | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise VMError(
                "the tolerance is the part of the pixels that may differ, from 0 to 1 "
                f"(0.01 is one in a hundred): not {self.tolerance!r}"
            )
        if not 0 <= self.channel_tolerance <= 255:
            raise VMError(
                "channel_tolerance is how far red, green or blue may be off, from 0 to 255: "
                f"not {self.channel_tolerance!r}"
            )
        if self.region is not None:
            _check_region(self.region)


def _check_region(region: Region) -> None:
    try:
        x, y, width, height = region
        fits = x >= 0 and y >= 0 and width > 0 and height > 0
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise VMError(f"a region is (x, y, width, height) in pixels of the screen: not {region!r}")


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        expected: what was looked at of the reference.
        actual: what was looked at of the screen.
        different: how many pixels differ; None if the sizes do.
        box: the smallest region of the screen that has all of them; None if none differs.
        allowed: how many may differ.
        picture: what differs, in red; None where there is nothing to show.
    """

    expected: Image.Image
    actual: Image.Image
    different: int | None
    box: Region | None
    allowed: int
    picture: Image.Image | None

    @classmethod
    def of(cls, expected: Image.Image, screen: Image.Image, criteria: Criteria) -> Comparison:
        """Compares.

        Args:
            expected: a picture of the whole screen, or of the region.
            screen: the whole screen.
            criteria: what counts as alike.

        Raises:
            VMError: the region is not on the screen.
        """
        from PIL import ImageChops

        actual = cropped(screen, criteria.region)
        if criteria.region is not None and expected.size != actual.size:
            _, _, right, bottom = _corners(criteria.region)
            if right <= expected.width and bottom <= expected.height:
                expected = cropped(expected, criteria.region)
        if expected.size != actual.size:
            return cls(expected, actual, None, None, 0, None)
        bands = ImageChops.difference(expected, actual).split()
        worst = bands[0]
        for band in bands[1:]:
            worst = ImageChops.lighter(worst, band)
        limit = criteria.channel_tolerance
        mask = worst.point([255 if value > limit else 0 for value in range(256)])
        corners = mask.getbbox()
        different = mask.histogram()[255]
        allowed = int(criteria.tolerance * actual.width * actual.height)
        if corners is None:
            return cls(expected, actual, 0, None, allowed, None)
        left, top = criteria.region[:2] if criteria.region is not None else (0, 0)
        x, y, right, bottom = corners
        box = (left + x, top + y, right - x, bottom - y)
        picture = actual.convert("L").point([v // _FAINT for v in range(256)]).convert("RGB")
        picture.paste(_RED, (0, 0), mask)
        return cls(expected, actual, different, box, allowed, picture)

    @property
    def alike(self) -> bool:
        """Whether no more differs than may."""
        return self.different is not None and self.different <= self.allowed

    def __str__(self) -> str:
        if self.different is None:
            return (
                f"it is {_size(self.actual)}, and the reference is {_size(self.expected)}: "
                "pictures of different sizes are never alike"
            )
        total = self.actual.width * self.actual.height
        text = f"{self.different} of {total} pixels differ ({100 * self.different / total:.2g} %)"
        if self.box is not None:
            x, y, width, height = self.box
            text += f", all within the region ({x}, {y}, {width}, {height})"
        return f"{text}; {self.allowed} may"


def cropped(screen: Image.Image, region: Region | None) -> Image.Image:
    """A part of a picture.

    Raises:
        VMError: it reaches beyond the picture, or is no region.
    """
    if region is None:
        return screen
    _check_region(region)
    left, top, right, bottom = _corners(region)
    if right > screen.width or bottom > screen.height:
        raise VMError(
            f"the region {region} reaches beyond the screen, which is {_size(screen)} "
            "(a region is x, y, width, height)"
        )
    return screen.crop((left, top, right, bottom))


def load_reference(reference: Reference) -> Image.Image:
    """The picture that a screen is to be like, as a Pillow image in RGB.

    Args:
        reference: path of a PNG (or another picture that Pillow reads), its bytes, or an image.

    Raises:
        VMError: it is no picture, or Pillow is not installed.
        FileNotFoundError: there is no such file.
    """
    try:
        if isinstance(reference, (bytes, bytearray)):
            return image_of(bytes(reference))
        if isinstance(reference, (str, os.PathLike)):
            return image_of(Path(reference).read_bytes())
        if isinstance(reference, pillow().Image):
            image: Image.Image = reference.convert("RGB")
            return image
        raise VMError(
            "a reference is a path, the bytes of a picture, or a Pillow image: "
            f"not {type(reference).__name__}"
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise VMError(f"can't read the reference picture {_named(reference)}: {error}") from None


def _named(reference: object) -> str:
    return f"of {len(reference)} bytes" if isinstance(reference, bytes) else str(reference)


def _corners(region: Region) -> Region:
    x, y, width, height = region
    return x, y, x + width, y + height


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"
