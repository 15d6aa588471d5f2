"""Predicts on a large image tile by tile."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import Instances

from ..data.images import ImageLike
from .predictor import Predictor
from .tiles import Tile, Tiling, lay_tiles, merge_tiles
from .windows import TiffWindows

__all__ = ["cut_image", "predict_tiled", "predict_tiles"]


def predict_tiled(
    predictor: Predictor, image: ImageLike, tiling: Tiling | None = None, *, soft: bool = False
) -> Instances:
    """Return the instances of an image that is cut into tiles, by the rules of `prediction.tiles`.

    Args:
        predictor: the predictor; it resizes each tile as it resizes an image.
        image: see `Predictor.__call__`. A TIFF that `TiffWindows` can read is never completely in
            memory, only the tiles at work.
        tiling: how the image is cut.
        soft: also merge the probabilities of masks.

    Returns:
        The same fields as from `Predictor.stream_packed`. An image no larger than a tile gives the
        same result as without tiles.

    Raises:
        UserError: see `Predictor.__call__` and `Tiling.resolve`.
    """
    tiling, windows = tiling or Tiling(), None
    if isinstance(image, str | os.PathLike) and not predictor.cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS:
        windows = TiffWindows.open(image)
    if windows is not None:
        with contextlib.closing(windows):
            return predict_tiles(predictor, windows.read, windows.size, tiling, soft=soft)
    whole = predictor.read(image)
    return predict_tiles(predictor, cut_image(whole), whole.shape[:2], tiling, soft=soft)


def cut_image(image: npt.NDArray[Any]) -> Callable[[Tile], npt.NDArray[Any]]:
    """Return a function that returns a part of an image (H, W, C)."""
    return lambda tile: np.ascontiguousarray(image[tile.top : tile.bottom, tile.left : tile.right])


def predict_tiles(
    predictor: Predictor,
    read: Callable[[Tile], npt.NDArray[Any]],
    size: tuple[int, ...],
    tiling: Tiling,
    *,
    soft: bool = False,
) -> Instances:
    """Return the instances of an image (H, W) whose parts `read` returns; see `predict_tiled`."""
    tiles = lay_tiles(size, *tiling.resolve(predictor.cfg))
    found = predictor.stream_packed(read(tile) for tile in tiles)
    if len(tiles) == 1:
        return next(found)
    return merge_tiles((size[0], size[1]), tiles, list(found), soft=soft)
