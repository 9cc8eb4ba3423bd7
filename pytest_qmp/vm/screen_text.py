"""Text read off a picture of the screen, by Tesseract."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_qmp.errors import QMPTimeoutError, VMError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TextPattern", "found_in", "read_text"]

TextPattern = str | re.Pattern[str]

# What reads the letters of a text screen best, which are too small for it as they are.
_SCALE = 2
_BLUR = 0.67
_MARGIN = 40
_ONE_BLOCK_OF_TEXT = "--psm 6"
_DARK = 128


def read_text(image: Image.Image, language: str, seconds: float | None) -> str:
    """The text on a picture, line by line.

    Args:
        image: in RGB.
        language: Tesseract's name of it: ``eng``, ``deu``, ``eng+deu``.
        seconds: that it may take; None: no limit.

    Raises:
        VMError: pytesseract, Tesseract or the language is not installed.
        QMPTimeoutError: it took longer.
    """
    __tracebackhide__ = True
    try:
        import pytesseract  # type: ignore[import-untyped]
    except ImportError as error:
        raise VMError(
            f"reading text off the screen needs pytesseract, and it can't be imported ({error}): "
            "pip install 'pytest-qmp[ocr]'; and the program tesseract, from your system's "
            "packages (apt install tesseract-ocr)"
        ) from None
    try:
        text = pytesseract.image_to_string(
            _prepared(image), lang=language, config=_ONE_BLOCK_OF_TEXT, timeout=seconds or 0
        )
    except pytesseract.TesseractNotFoundError:
        raise VMError(
            "reading text off the screen needs the program tesseract, and there is none on the "
            "PATH: install it from your system's packages (apt install tesseract-ocr)"
        ) from None
    except pytesseract.TesseractError as error:
        raise VMError(
            f"tesseract could not read the screen with the language {language!r}: {error}. Its "
            "languages come with your system's packages (apt install tesseract-ocr-deu)"
        ) from None
    except RuntimeError as error:
        raise QMPTimeoutError(f"tesseract did not read the screen in time: {error}") from None
    return str(text)


def _prepared(image: Image.Image) -> Image.Image:
    """Dark letters on a light ground, large and smooth."""
    from PIL import Image, ImageFilter, ImageOps, ImageStat

    grey = image.convert("L")
    if ImageStat.Stat(grey).median[0] < _DARK:
        grey = ImageOps.invert(grey)
    large = (grey.width * _SCALE, grey.height * _SCALE)
    smooth = grey.resize(large, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(_BLUR))
    return ImageOps.expand(ImageOps.autocontrast(smooth), _MARGIN, 255)


def found_in(text: str, wanted: TextPattern) -> bool:
    """Whether a text is there, however its words are spaced, or a regular expression matches.

    >>> found_in("Welcome  to\\nthe  machine", "to the machine")
    True
    """
    if isinstance(wanted, re.Pattern):
        return wanted.search(text) is not None
    return " ".join(wanted.split()) in " ".join(text.split())
