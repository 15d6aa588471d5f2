"""COCO-format data whose images are `.npy` files of shape (H, W, C)."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json

from mask_rcnn_ext import UserError

__all__ = ["ChannelsMapper", "read_channels", "register_channels"]


def register_channels(name: str, json_file: str, image_root: str) -> None:
    """Register a COCO json whose `file_name`s are `.npy` files below `image_root`.

    The class names are read when the data set is first used; registering needs no file.
    """
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco")


def read_channels(path: str, channels: int) -> npt.NDArray[np.float32]:
    """Read an image of `channels` channels as (H, W, `channels`) float32.

    Args:
        path: a `.npy` file, (H, W, C), or (H, W) for one channel, of numbers.
        channels: the number of channels expected.

    Raises:
        UserError: the file has another shape or dtype.
        OSError: the file cannot be read; the training loader reports its name.
    """
    try:
        image = np.load(path, allow_pickle=False)
    except ValueError as error:  # not an array, or an array of Python objects
        raise OSError(f"{path}: not an array of numbers: {error}") from error
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] != channels or image.dtype.kind not in "uif":
        raise UserError(
            f"{path}: expected numbers of shape (H, W, {channels}), got {image.dtype} "
            f"{image.shape}. MODEL.PIXEL_MEAN and PIXEL_STD have one number per channel"
        )
    # float32: detectron2 resizes uint8 with Pillow, which supports only 1, 3 and 4 channels.
    return image.astype(np.float32)


class ChannelsMapper(DatasetMapper):
    """detectron2's `DatasetMapper` for images that `read_channels` reads."""

    @configurable
    def __init__(self, is_train: bool, *, channels: int, **kwargs: Any) -> None:
        """Build the mapper.

        Args:
            is_train: whether to augment and to keep the annotations.
            channels: number of channels of the images.
            kwargs: see `DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.channels = channels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the keys of `DatasetMapper`, and the number of channels from `MODEL.PIXEL_MEAN`."""
        return {**super().from_config(cfg, is_train), "channels": len(cfg.MODEL.PIXEL_MEAN)}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the record with `image`, (C, H, W) float32, and, in training, `instances`."""
        record = copy.deepcopy(dataset_dict)
        pixels = read_channels(record["file_name"], self.channels)
        utils.check_image_size(record, pixels)
        augmented = T.AugInput(pixels)
        transforms = self.augmentations(augmented)
        pixels = augmented.image
        record["image"] = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            size = pixels.shape[:2]
            kept = [
                utils.transform_instance_annotations(annotation, transforms, size)
                for annotation in annotations
                if not annotation.get("iscrowd", 0)
            ]
            instances = utils.annotations_to_instances(
                kept, size, mask_format=self.instance_mask_format
            )
            record["instances"] = utils.filter_empty_instances(instances)
        return record
