"""Images in all formats that are read."""

import contextlib
import io
import random
import zlib
from pathlib import Path

import numpy as np
from fuzz.kinds.kind import Kind
from fuzz.mutators import change_bytes
from PIL import Image

from mask_rcnn_ext.data.bands import read_bands, read_bands_header
from mask_rcnn_ext.data.image_facts import read_image_facts
from mask_rcnn_ext.data.images import read_bgr, read_header
from mask_rcnn_ext.data.pixel_limit import set_pixel_limit
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.prediction.tiles import Tile
from mask_rcnn_ext.prediction.windows import TiffWindows

__all__ = ["ImageFile"]

W, H = 16, 12  # pixels of the images


class ImageFile(Kind):
    """An image to train on or to predict on, of no more than four megapixels."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        set_pixel_limit(1 << 22)
        pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
        image, exif = Image.fromarray(pixels), Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "text"
        more = {"append_images": [image.rotate(180)], "save_all": True}
        self.files: list[tuple[str, bytes]] = []
        grey, black, deep = (image.convert(mode) for mode in ("L", "1", "I;16"))
        lzw, deflate = ({"compression": f"tiff_{name}"} for name in ("lzw", "adobe_deflate"))
        for end, shown, options in (
            *((".png", image, {}), (".png", image.convert("P"), {"exif": exif})),
            *((".png", black, {}), (".png", image.convert("LA"), {}), (".png", deep, {})),
            *((".jpg", image, {"exif": exif}), (".jpg", image.convert("CMYK"), {})),
            *((".tif", image, {}), (".tif", image, lzw), (".tif", grey, deflate)),
            *((".tif", image, more), (".gif", image, more), (".webp", image, {})),
            *((".bmp", image, {}), (".ppm", image, {})),
        ):
            file = io.BytesIO()
            name = {".jpg": "JPEG", ".tif": "TIFF"}.get(end, end[1:].upper())
            shown.save(file, format=name, **options)
            self.files.append((end, file.getvalue()))
        file = io.BytesIO()
        np.save(file, pixels)
        self.files.append((".npy", file.getvalue()))

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        end, data = rng.choice(self.files)
        data = change_bytes(rng, data)
        if end == ".png" and rng.random() < 0.7:
            data = _correct_checksums(data)
        return end, data

    def read(self, path: Path) -> None:
        failed = None
        for read in (read_header, read_bgr, self._read_bands, self._read_windows):
            try:
                read(path)
            except UserError as error:
                failed = error
        read_image_facts(str(path), (H, W))
        if failed is not None:
            raise failed

    def _read_bands(self, path: Path) -> None:
        read_bands_header(path, 3)
        read_bands(path, 3)

    def _read_windows(self, path: Path) -> None:
        windows = TiffWindows.open(path)
        if windows is not None:
            with contextlib.closing(windows), contextlib.suppress(ValueError):
                windows.read(Tile(0, 0, min(64, windows.size[0]), min(64, windows.size[1])))


def _correct_checksums(data: bytes) -> bytes:
    """Give the chunks of a PNG their right checksums, so that more than they are read."""
    corrected, place = bytearray(data), 8
    while place + 12 <= len(corrected):
        length = int.from_bytes(corrected[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(corrected):
            break
        corrected[end : end + 4] = zlib.crc32(corrected[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(corrected)
