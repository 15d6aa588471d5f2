"""Measures `MODEL.PIXEL_MEAN` and `PIXEL_STD`: mean and deviation of the channels of images."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..errors import UserError, require_choice
from .bad_images import record_skipped, skips_bad_images
from .bands import order_bands, read_record_bands

__all__ = [
    "IMAGES_MEASURED",
    "fill_pixel_statistics",
    "measure_pixels",
    "require_channels",
    "require_colours",
]

IMAGES_MEASURED = 200  # images that are read, evenly spread over the data

logger = logging.getLogger(__name__)


def measure_pixels(
    records: Sequence[dict[str, Any]],
    channels: int,
    image_format: str = "RGB",
    *,
    skip_bad: bool = False,
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels.

    Args:
        records: at least one record in detectron2's format. At most `IMAGES_MEASURED` are read.
        channels: see `read_bands`.
        image_format: see `order_bands`.
        skip_bad: leave out images that cannot be read, unless none can be read.

    Returns:
        C means and C deviations, rounded to 6 digits. The deviation of a constant channel is 1,
        since images are divided by it.

    Raises:
        UserError: an image cannot be read.
    """
    step = -(-len(records) // IMAGES_MEASURED)
    count, sums, squares = 0, np.zeros(channels), np.zeros(channels)
    chosen = records[::step]
    for record in chosen:
        try:
            image = order_bands(read_record_bands(record, channels), image_format)
        except UserError as error:
            if not skip_bad or (not count and record is chosen[-1]):
                raise
            record_skipped({str(record["file_name"]): str(error)})
            continue
        pixels = image.reshape(-1, channels).astype(np.float64)
        count += len(pixels)
        sums += pixels.sum(axis=0)
        squares += np.square(pixels).sum(axis=0)
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    deviation[deviation <= 1e-6 * np.abs(mean)] = 1.0
    return _round(mean), _round(deviation)


def _round(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def fill_pixel_statistics(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> None:
    """Write the statistics of the training images into a config that asks for them, in place.

    A config asks for them if `MASK_RCNN_EXT.DATA.IMAGE_CHANNELS` is not 0 and `PIXEL_STATISTICS` is
    "auto", which becomes "fixed". Other configs are not changed.

    Args:
        cfg: the config of the training.
        records: the training images.

    Raises:
        UserError: see `measure_pixels`.
    """
    data = cfg.MASK_RCNN_EXT.DATA
    if not data.IMAGE_CHANNELS or data.PIXEL_STATISTICS != "auto":
        return
    skip = skips_bad_images(cfg)
    found = measure_pixels(records, data.IMAGE_CHANNELS, cfg.INPUT.FORMAT, skip_bad=skip)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = found
    data.PIXEL_STATISTICS = "fixed"
    logger.info("From the training images: MODEL.PIXEL_MEAN %s, MODEL.PIXEL_STD %s", *found)


def require_channels(cfg: CfgNode, *, measured: bool = True) -> None:
    """Check the keys of images with other channels.

    Args:
        cfg: the config.
        measured: the statistics must be there. False before a training, which measures them.

    Raises:
        UserError: a key has an unknown value; the statistics are missing or have another number of
            channels; or a key works only with colour images.
    """
    data = cfg.MASK_RCNN_EXT.DATA
    if data.IMAGE_CHANNELS < 0:
        raise UserError(
            "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS: expected the number of channels, or 0 for 8-bit "
            f"colour images, got {data.IMAGE_CHANNELS}"
        )
    key = "MASK_RCNN_EXT.DATA.PIXEL_STATISTICS"
    require_choice(key, data.PIXEL_STATISTICS, ("auto", "fixed"))
    if not data.IMAGE_CHANNELS:
        return
    if cfg.VIS_PERIOD and data.IMAGE_CHANNELS != 3:
        raise UserError(
            "VIS_PERIOD: detectron2 draws training images of 3 channels only, got "
            f"MASK_RCNN_EXT.DATA.IMAGE_CHANNELS {data.IMAGE_CHANNELS}. Set VIS_PERIOD 0"
        )
    if data.PIXEL_STATISTICS == "auto":
        if measured:
            raise UserError(
                "MASK_RCNN_EXT.DATA.PIXEL_STATISTICS is 'auto', and only a training measures its "
                "images. Use config.yaml of the run that trained the weights, which has their "
                "MODEL.PIXEL_MEAN and PIXEL_STD"
            )
        return
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != data.IMAGE_CHANNELS:
            raise UserError(
                f"MODEL.{key} has {len(cfg.MODEL[key])} values, expected one for each of the "
                f"{data.IMAGE_CHANNELS} channels (MASK_RCNN_EXT.DATA.IMAGE_CHANNELS)"
            )


def require_colours(cfg: CfgNode) -> None:
    """Check that the model takes as many channels as this package's readers give it.

    A project with a reader of its own, see `Trainer.build_mapper`, may have any number. A grey
    image (`INPUT.FORMAT` "L") becomes as many channels as `MODEL.PIXEL_MEAN` has values.

    Raises:
        UserError: `MODEL.PIXEL_MEAN` has another number of values than the image, or than
            `MODEL.PIXEL_STD`; or the readers do not give `INPUT.FORMAT`.
    """
    channels = cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS
    if channels in (0, 3):  # the order of other channels is that of the file
        require_choice("INPUT.FORMAT", cfg.INPUT.FORMAT, ("BGR", "RGB", "L"))
    if channels:
        return
    found = len(cfg.MODEL.PIXEL_MEAN)
    if cfg.INPUT.FORMAT != "L" and found != 3:
        raise UserError(
            "MODEL.PIXEL_MEAN: expected one value for each channel, 3 with INPUT.FORMAT "
            f"{cfg.INPUT.FORMAT}, got {found}. For images with other channels, set "
            f"MASK_RCNN_EXT.DATA.IMAGE_CHANNELS {found} MASK_RCNN_EXT.DATA.PIXEL_STATISTICS fixed"
        )
    if len(cfg.MODEL.PIXEL_STD) != found:
        raise UserError(
            f"MODEL.PIXEL_STD has {len(cfg.MODEL.PIXEL_STD)} values, expected as many as "
            f"MODEL.PIXEL_MEAN, {found}"
        )
