"""From a record of a data set to an input of the model: detectron2's mapper with our images."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from ..layers.resizing import ResizeShortestEdge
from .images import read_record_bgr, require_8_bits

__all__ = ["ImageMapper", "keep_sides"]


class ImageMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, with these differences.

    - A file that cannot be read, or has another size than its record says, is a `UserError` with
      its name; so is an image with more than 8 bits per channel, see `data.images`.
    - No side of an image is resized to 0 pixels.

    All other images give the same tensors.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the keys of `DatasetMapper`."""
        arguments: dict[str, Any] = super().from_config(cfg, is_train)
        arguments["augmentations"] = keep_sides(arguments["augmentations"])
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See `DatasetMapper`.

        Raises:
            UserError: the image cannot be used.
        """
        require_8_bits(dataset_dict["file_name"])
        try:
            sample: dict[str, Any] = super().__call__(dataset_dict)
        except Exception:
            read_record_bgr(dataset_dict)  # names the file, if the file is the cause
            raise
        return sample


def keep_sides(augmentations: list[T.Augmentation]) -> list[T.Augmentation]:
    """Return the augmentations with our `ResizeShortestEdge` in place of detectron2's."""
    return [
        ResizeShortestEdge(each.short_edge_length, each.max_size, each.sample_style, each.interp)
        if type(each) is T.ResizeShortestEdge
        else each
        for each in augmentations
    ]
