"""Reading one image file, upright and in the channels that the models take."""

import os

import numpy as np
import numpy.typing as npt
from detectron2.data.detection_utils import read_image

from ..errors import UserError

__all__ = ["BGRArray", "ImageLike", "read_bgr"]


BGRArray = npt.NDArray[np.uint8]


ImageLike = BGRArray | str | os.PathLike[str]


def read_bgr(path: str | os.PathLike[str]) -> BGRArray:
    """Read an image as (H, W, 3) uint8 BGR, upright by its EXIF; gray becomes 3 channels.

    Raises:
        UserError: the file is missing or is no readable image.
    """
    try:
        image: BGRArray = read_image(os.fspath(path), format="BGR")
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{os.fspath(path)}: cannot be read as an image ({reason})") from error
    return image
