"""Reads image files, upright and in the channel order of the models."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data.detection_utils import read_image

from ..errors import UserError

__all__ = ["BGRArray", "ImageLike", "read_bgr", "read_record_bgr"]

BGRArray = npt.NDArray[np.uint8]
ImageLike = BGRArray | str | os.PathLike[str]


def read_bgr(path: str | os.PathLike[str]) -> BGRArray:
    """Read an image as (H, W, 3) uint8 BGR, upright by its EXIF; gray becomes 3 channels.

    Raises:
        UserError: the file is missing or is not a readable image.
    """
    try:
        image: BGRArray = read_image(os.fspath(path), format="BGR")
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{os.fspath(path)}: cannot be read as an image ({reason})") from error
    return image


def read_record_bgr(record: Mapping[str, Any]) -> BGRArray:
    """Read the image of a detectron2 data-set record, see `read_bgr`.

    Args:
        record: has `file_name`, and may have `height` and `width` in pixels.

    Raises:
        UserError: the file is missing, is not a readable image, or has another size.
    """
    image = read_bgr(record["file_name"])
    height, width = image.shape[:2]
    expected = (record.get("height") or height, record.get("width") or width)
    if (height, width) != expected:
        raise UserError(
            f"{record['file_name']}: expected {expected[1]} x {expected[0]} pixels (width x "
            f"height) as its data set says, got {width} x {height}"
        )
    return image
