"""Where an image lies on a map: the tags of a GeoTIFF, or the world file next to an image."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from ..data.images import EXIF_ORIENTATION
from ..errors import InputFailure

__all__ = ["GeoReference", "read_georeference"]

_SCALE, _TIE_POINTS, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_POINT = 2  # a raster type: coordinates refer to the centres of pixels
_USER_DEFINED = 32767


class GeoReference(NamedTuple):
    """A map from pixels to coordinates.

    Attributes:
        matrix: (2, 3); it maps (x, y, 1) to map coordinates. Pixel (0, 0) lies between the corners
            (0, 0) and (1, 1).
        epsg: the EPSG code of the coordinate reference system; None if the file has no code.
    """

    matrix: npt.NDArray[np.float64]
    epsg: int | None

    def locate(self, corners: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
        """Return the map coordinates of corners of pixels, (N, 2) x, y."""
        return np.asarray(corners @ self.matrix[:, :2].T + self.matrix[:, 2])


def read_georeference(path: str | os.PathLike[str]) -> GeoReference | None:
    """Return where an image lies; None if neither its tags nor a world file say so.

    The tags of a GeoTIFF go before a world file. A world file has the name of the image with an
    ending such as .tfw, .jgw, .pgw, .tifw or .wld. The result is None for an image that is stored
    rotated (EXIF orientation), since the file locates the pixels before the rotation.

    Raises:
        InputFailure: there is a world file, and it does not hold six numbers; or a number of it or
            of the tags is NaN or infinite, which GeoJSON cannot hold.
    """
    path = Path(path)
    tags = _read_tiff_tags(path) if path.suffix.lower() in (".tif", ".tiff") else {}
    orientation = tags.get(EXIF_ORIENTATION, 1) if tags else _read_orientation(path)
    if orientation not in (0, 1):
        return None
    found = _read_geotiff(tags) or _read_world_file(path)
    if found is not None and not np.isfinite(found.matrix).all():
        raise InputFailure(f"{path}: its world file or its tags place it at NaN or infinity")
    return found


def _read_tiff_tags(path: Path) -> dict[int, object]:
    """Return the tags of the first page, even of an image that is too large for Pillow."""
    try:
        with open(path, "rb") as file:
            header = file.read(8)
            if header[2:3] == b"\x2b" or header[3:4] == b"\x2b":  # BigTIFF
                header += file.read(8)
            directory = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            return dict(directory)
    except Exception:  # not a TIFF, or a damaged one: reading its pixels reports the error
        return {}


def _read_orientation(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # not an image file, such as an array
        return 1


def _read_geotiff(tags: dict[int, object]) -> GeoReference | None:
    scale, ties, matrix = (_to_floats(tags.get(tag)) for tag in (_SCALE, _TIE_POINTS, _MATRIX))
    if len(matrix) == 16:
        affine = np.array([[*matrix[0:2], matrix[3]], [*matrix[4:6], matrix[7]]])
    elif len(scale) >= 2 and len(ties) == 6:
        x, y, _, east, north, _ = ties
        affine = np.array(
            [[scale[0], 0, east - x * scale[0]], [0, -scale[1], north + y * scale[1]]]
        )
    else:  # more tie points would need a warp
        return None
    keys = _read_keys(_to_floats(tags.get(_KEYS)))
    if keys.get(_RASTER_TYPE) == _POINT:
        affine[:, 2] -= affine[:, :2].sum(axis=1) / 2
    epsg = keys.get(_PROJECTED) or keys.get(_GEOGRAPHIC)
    return GeoReference(affine, epsg if epsg and epsg < _USER_DEFINED else None)


def _to_floats(value: object) -> list[float]:
    try:
        return [float(number) for number in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return []


def _read_keys(directory: list[float]) -> dict[int, int]:
    """Return the keys of a GeoKeyDirectory that have their values in the directory itself."""
    rows = np.array(directory[4 : len(directory) // 4 * 4], dtype=int).reshape(-1, 4)
    return {int(key): int(value) for key, place, _, value in rows if place == 0}


def _read_world_file(path: Path) -> GeoReference | None:
    ending = path.suffix[1:].lower()
    ends = [f"{ending[:1]}{ending[-1:]}w", f"{ending}w", "wld"]
    places = [path.with_suffix(f".{end}") for each in ends for end in (each, each.upper())]
    found = [place for place in places if place.is_file()]
    if not found:
        return None
    try:
        a, d, b, e, c, f = map(float, found[0].read_text("utf-8-sig").split())
    except (OSError, ValueError) as error:
        raise InputFailure(f"{found[0]}: expected six numbers, as a world file has") from error
    # A world file locates the centre of the first pixel.
    return GeoReference(np.array([[a, b, c - (a + b) / 2], [d, e, f - (d + e) / 2]]), None)
