"""Text in pictures, in every script for which this machine has a font.

matplotlib contains the font DejaVu Sans. It has Latin, Greek, Cyrillic, Arabic and Hebrew letters,
but no Chinese, Japanese, Korean or Indian ones. A letter that it lacks is taken from a font of the
machine.
"""

import functools
import logging
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

__all__ = ["TextStyle"]

_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextStyle:
    """How text is drawn: `size` in pixels, perhaps bold."""

    size: int
    bold: bool = False

    @property
    def _base(self) -> str:
        name = "DejaVuSans-Bold.ttf" if self.bold else "DejaVuSans.ttf"
        return os.path.join(mpl.get_data_path(), "fonts", "ttf", name)

    def get_height(self) -> int:
        """Return the height of a line in pixels."""
        ascent, descent = _load(self._base, self.size).getmetrics()
        return ascent + descent

    def measure(self, text: str) -> float:
        """Return the width of a line of text in pixels."""
        return sum(_load(font, self.size).getlength(run) for run, font in self._split(text))

    def shorten(self, text: str, width: float) -> str:
        """Return `text`, cut with an ellipsis in its middle when it is wider than `width` pixels.

        A score at its end stays.
        """
        if self.measure(text) <= width:
            return text
        for keep in range(len(text) - 1, 0, -1):
            short = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
            if self.measure(short) <= width:
                return short
        return "…"

    def draw(
        self, draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, ink: tuple[int, ...]
    ) -> None:
        """Draw a line of text in the colour `ink`; `place` is its upper left corner (x, y)."""
        x: float = place[0]
        baseline = place[1] + _load(self._base, self.size).getmetrics()[0]
        for run, path in self._split(text):
            font = _load(path, self.size)
            # Otherwise "(an Arabic name).jpg" would begin with "jpg".
            way = "ltr" if font.layout_engine == ImageFont.Layout.RAQM else None
            draw.text((x, baseline), run, font=font, fill=ink, anchor="ls", direction=way)
            x += font.getlength(run)

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield runs of text with the path of a font that has their letters."""
        run, font = "", self._base
        for letter in text:
            if letter.splitlines() != [letter]:
                letter = " "  # Pillow's layout refuses the end of a line
            # A run goes on as long as its font can: the parts of a syllable stay together.
            chosen = font if _has(font, letter) else _find_font(letter, self._base)
            if chosen != font and run:
                yield run, font
                run = ""
            run, font = run + letter, chosen
        if run:
            yield run, font


@functools.lru_cache(maxsize=256)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@functools.cache
def _read_letters(path: str) -> frozenset[int]:
    """Return the code points that a font has; none if it cannot be drawn with."""
    try:
        _load(path, 12)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # for example a font of coloured bitmaps
        return frozenset()


def _has(path: str, letter: str) -> bool:
    return ord(letter) in _read_letters(path)


@functools.cache
def _find_font(letter: str, base: str) -> str:
    """Return the path of a font that has a letter; `base`, which draws a box, if there is none."""
    for path in (base, *_list_fonts()):
        if _has(path, letter):
            return path
    name = unicodedata.name(letter, "")
    _warn_about_font("fonts-noto-cjk" if name.startswith(_EAST_ASIAN) else "fonts-noto-core")
    return base


@functools.lru_cache(maxsize=1)
def _list_fonts() -> list[str]:
    """Return the fonts of this machine, upright ones without serifs first."""
    # Only labels in other scripts need this import, which takes long when matplotlib is new.
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> tuple[bool, bool, str]:
        name = os.path.basename(path).lower()
        special = any(word in name for word in ("bold", "italic", "oblique", "mono", "black"))
        return special, "sans" not in name, path

    return sorted(findSystemFonts(), key=rank)


@functools.cache  # once for each package
def _warn_about_font(package: str) -> None:
    logger.warning(
        "No font of this machine has all letters of the labels: boxes stand for some. Install one, "
        "on Debian or Ubuntu the package %s",
        package,
    )
