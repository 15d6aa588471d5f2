"""Sheets of pictures with titles: fitting a picture into a cell, and the grid."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ...arrays import RGB, RGBArray
from .text import TextStyle

__all__ = ["make_tile_sheet", "resize_picture"]


_INK: RGB = (28, 32, 38)
_MUTED: RGB = (96, 104, 114)
_PAPER: RGB = (255, 255, 255)
_LETTERBOX: RGB = (241, 243, 245)
_PAD = 10  # pixels between the tiles


def resize_picture(image: RGBArray, width: int, height: int) -> RGBArray:
    """Return `image`, (H, W, 3) uint8, resized to (height, width, 3).

    Pixels are averaged when the image shrinks, and interpolated linearly when it grows.
    """
    shrinks = width < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.array(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how))


def _fit_tile(tile: RGBArray, width: int, height: int) -> RGBArray:
    """Return the tile at the largest size that fits (width, height); its aspect ratio stays."""
    ratio = min(width / tile.shape[1], height / tile.shape[0])
    new_width = min(width, max(1, round(tile.shape[1] * ratio)))
    new_height = min(height, max(1, round(tile.shape[0] * ratio)))
    if (new_height, new_width) == tile.shape[:2]:
        return tile
    return resize_picture(tile, new_width, new_height)


def _wrap(text: str, style: TextStyle, width: int) -> list[str]:
    """Return the lines of `text`, none wider than `width` pixels where its words allow."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and style.measure(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


def _heading(text: str, width: int) -> Image.Image:
    """Return the heading on white: its first line large and bold, the rest plain, wrapped."""
    styles = (
        TextStyle(int(np.clip(width / 80, 13, 24)), bold=True),
        TextStyle(int(np.clip(width / 110, 12, 18))),
    )
    lines = [
        (line, styles[min(index, 1)])
        for index, paragraph in enumerate(text.splitlines())
        for line in _wrap(paragraph, styles[min(index, 1)], width - 2 * _PAD)
    ]
    picture = Image.new("RGB", (width, sum(round(s.size * 1.4) for _, s in lines) + _PAD), _PAPER)
    draw = ImageDraw.Draw(picture)
    y = _PAD
    for line, style in lines:
        style.draw(draw, (_PAD, y), line, _INK)
        y += round(style.size * 1.4)
    return picture


def make_tile_sheet(
    tiles: Sequence[RGBArray],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    heading: str = "",
    column_titles: Sequence[str] | None = None,
) -> RGBArray:
    """Return a sheet of `tiles`, row by row, on white.

    Each tile is scaled to fit the width of the widest tile and the height of the highest one. Its
    aspect ratio stays.

    Args:
        tiles: (H_i, W_i, 3) uint8 RGB each, at least one.
        titles: one line above each tile, shortened to its width; or None.
        columns: tiles in a row.
        heading: text at the top, wrapped to the width; its first line is bold.
        column_titles: one line above each column; or None.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: no tiles, or a list whose length does not fit.
    """
    if not tiles or columns < 1:
        raise ValueError(f"expected tiles and columns, got {len(tiles)} and {columns}")
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"expected {len(tiles)} titles, got {len(titles)}")
    if column_titles is not None and len(column_titles) != columns:
        raise ValueError(f"expected {columns} column titles, got {len(column_titles)}")
    width, height = max(t.shape[1] for t in tiles), max(t.shape[0] for t in tiles)
    tiles = [_fit_tile(tile, width, height) for tile in tiles]
    text_size = int(np.clip(width / 26, 10, 18))
    lefts = [_PAD + column * (width + _PAD) for column in range(columns)]
    strips = [_heading(heading, lefts[-1] + width + _PAD)] if heading else []
    if column_titles is not None:
        strips.append(_text_row(column_titles, lefts, width, TextStyle(text_size, bold=True), _INK))
    for start in range(0, len(tiles), columns):
        if titles is not None:
            row_titles = titles[start : start + columns]
            strips.append(_text_row(row_titles, lefts, width, TextStyle(text_size), _MUTED))
        strips.append(_picture_row(tiles[start : start + columns], lefts, width))
    sheet = Image.new("RGB", (strips[0].width, sum(s.height for s in strips) + _PAD), _PAPER)
    y = _PAD // 2
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    return np.array(sheet)


def _text_row(
    texts: Sequence[str], lefts: list[int], width: int, style: TextStyle, ink: RGB
) -> Image.Image:
    row = Image.new("RGB", (lefts[-1] + width + _PAD, round(style.size * 1.5)), _PAPER)
    draw = ImageDraw.Draw(row)
    for left, text in zip(lefts, texts, strict=False):  # the last row may be short
        style.draw(draw, (left, 1), style.shorten(text, width), ink)
    return row


def _picture_row(tiles: Sequence[RGBArray], lefts: list[int], width: int) -> Image.Image:
    height = max(tile.shape[0] for tile in tiles)
    row = Image.new("RGB", (lefts[-1] + width + _PAD, height + _PAD), _PAPER)
    for left, tile in zip(lefts, tiles, strict=False):
        row.paste(_LETTERBOX, (left, 0, left + width, height))
        x, y = left + (width - tile.shape[1]) // 2, (height - tile.shape[0]) // 2
        row.paste(Image.fromarray(tile), (x, y))
    return row
