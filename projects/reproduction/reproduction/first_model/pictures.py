"""The pictures of the page: new photos with the persons found, and frames of the video."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.report.drawing.pictures import save_png
from mask_rcnn_ext.report.drawing.sheets import resize_picture

from .photos import CLIP

__all__ = ["SHOWN", "draw_frames", "draw_photos"]

SHOWN = 4  # photos, and frames of the video

_RGB = npt.NDArray[np.uint8]
_HEIGHT, _GAP = 260, 6  # pixels
_COLORS = 256


def draw_photos(home: Path, names: Sequence[str], path: str | Path) -> None:
    """Write a row of the pictures that `predict` made of these photos."""
    pictures = [cv2.imread(str(home / "found/pictures" / name)) for name in names]
    _save_row([picture[:, :, ::-1] for picture in pictures if picture is not None], path)


def draw_frames(home: Path, path: str | Path) -> None:
    """Write a row of frames, evenly spaced, of the video with masks.

    Raises:
        UserError: the video cannot be read.
    """
    video = home / "found_video/videos" / CLIP
    capture = cv2.VideoCapture(str(video))
    frames: list[_RGB] = []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1])
    capture.release()
    if not frames:
        raise UserError(f"{video}: has no frame that can be read")
    chosen = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
    _save_row([frames[number] for number in chosen], path)


def _save_row(pictures: Sequence[_RGB], path: str | Path) -> None:
    gap = np.full((_HEIGHT, _GAP, 3), 255, np.uint8)
    tiles: list[_RGB] = []
    for picture in pictures:
        height, width = picture.shape[:2]
        tiles += [gap, resize_picture(picture, round(width * _HEIGHT / height), _HEIGHT)]
    save_png(path, np.concatenate(tiles[1:], axis=1), colors=_COLORS)
