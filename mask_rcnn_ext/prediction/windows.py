"""Reads parts of large TIFF images without reading the whole file."""

import contextlib
import logging
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin

from ..data.images import EXIF_ORIENTATION, BGRArray
from .tiles import Tile, cut_part

__all__ = ["TiffWindows"]

logger = logging.getLogger(__name__)

_GRAY, _RGB = 1, 2
_PREMULTIPLIED = 1  # a kind of alpha channel; Pillow divides the colours by it
_MOST_PIXELS = 1 << 24  # in a strip or a tile of the file; larger ones save no memory


class TiffWindows:
    """Reads parts of a TIFF of 8-bit colour or gray, whose pixels lie in strips or tiles.

    The package tifffile, the extra `tiff`, decodes them. The pixels are the same as from
    `data.images.read_bgr`.

    Attributes:
        size: (H, W) of the image.

    Raises:
        ValueError: the file must be read as a whole.
        ImportError: tifffile is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import tifffile

        self._file = tifffile.TiffFile(path)
        page: Any = self._file.pages[0]
        self._page = page
        known = page.tags.valueof(EXIF_ORIENTATION, 1) == 1
        # Pixels of 4 bits also have the type of 8 bits.
        known = known and page.axes in ("YX", "YXS") and page.dtype == np.uint8
        known = known and page.bitspersample == 8 and _PREMULTIPLIED not in page.extrasamples
        known = known and int(page.photometric) == (_RGB if page.axes == "YXS" else _GRAY)
        self.size = (int(page.imagelength), int(page.imagewidth))
        if page.is_tiled:
            self._side = (page.tilelength, page.tilewidth)
        else:
            self._side = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
        self._strips: dict[int, npt.NDArray[np.uint8]] = {}
        try:
            if not known or self._side[0] * self._side[1] > _MOST_PIXELS:
                raise ValueError("cannot be read by parts")
            self._decode(0)  # fails where the compression is not known
        except ValueError:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str], side: int = 0) -> "TiffWindows | None":
        """Return the reader of a file; None if the file must be read as a whole.

        Args:
            path: any file.
            side: a file whose sides have up to this number of pixels is read as a whole.
        """
        if not os.fspath(path).lower().endswith((".tif", ".tiff")):
            return None
        with contextlib.suppress(Exception):  # not a TIFF, another kind of TIFF, or no tifffile
            windows = cls(path)
            if max(windows.size) <= side:
                windows.close()
                return None
            if (pages := _count_pages(path)) > 1:
                logger.warning("%s: only the first of %d frames or pages is read", path, pages)
            return windows
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, part: Tile) -> BGRArray:
        """Return a part of the image, (h, w, 3) uint8 BGR.

        Raises:
            ValueError: the file is damaged.
        """
        high, wide = self._side
        pixels = np.zeros((part.bottom - part.top, part.right - part.left, 3), dtype=np.uint8)
        across = -(-self.size[1] // wide)
        rows = range(part.top // high, -(-part.bottom // high))
        for number in [n for n in self._strips if n // across not in rows]:
            del self._strips[number]
        for row in rows:
            for column in range(part.left // wide, -(-part.right // wide)):
                top, left = row * high, column * wide
                values = self._decode(row * across + column)
                around = Tile(top, left, top + values.shape[0], left + values.shape[1])
                if (common := around.intersect(part)) is None:
                    continue
                cut = cut_part(values, around, common)
                cut_part(pixels, part, common)[:] = cut[:, :, 2::-1] if cut.shape[2] >= 3 else cut
        return pixels

    def _decode(self, number: int) -> npt.NDArray[np.uint8]:
        """Return a strip or tile of the file, (h, w, 1, 3 or 4)."""
        if number in self._strips:
            return self._strips[number]
        page, handle = self._page, self._file.filehandle
        try:
            handle.seek(page.dataoffsets[number])
            data = handle.read(page.databytecounts[number])
            tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
            values = page.decode(data, number, **tables)[0]
        except Exception as error:  # decoders raise nearly anything
            raise ValueError(f"a part cannot be read: {error}") from error
        if values is None:  # the file omits strips and tiles that are all 0
            return np.zeros((*self._side, 3), dtype=np.uint8)
        if not page.is_tiled:  # the next part of the image needs it again
            self._strips[number] = values[0]
        found: npt.NDArray[np.uint8] = values[0]
        return found


def _count_pages(path: str | os.PathLike[str]) -> int:
    """Return the number of pages as `data.images` counts them."""
    # `Image.open` would refuse large images, and tifffile may not end if pages form a circle.
    with contextlib.suppress(Exception), TiffImagePlugin.TiffImageFile(os.fspath(path)) as image:
        return int(image.n_frames)
    return 1
