"""Turns a record of a data set into an input of the model: detectron2's mapper with our images."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

from ..config import complete_config
from ..layers.resizing import ResizeShortestEdge
from .augmentation import add_augmentations, cuts_objects, require_augmentation
from .bad_images import WrongKey
from .bands import order_bands, read_record_bands
from .images import read_record
from .pixel_limit import set_pixel_limit
from .pixel_statistics import require_colours

__all__ = ["ImageMapper", "keep_sides"]


class ImageMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, with these differences.

    - It raises a `UserError` with the name of the file if an image cannot be read, has another size
      than its record says, or has more than 8 bits per channel, see `data.images`. With
      `MASK_RCNN_EXT.DATA.IMAGE_CHANNELS`, images are read by `data.bands`.
    - No side of an image is resized to 0 pixels.
    - `MASK_RCNN_EXT.AUGMENTATION` adds augmentations to detectron2's own.

    With these keys at their defaults, all other images give the same tensors as in detectron2,
    except TIFF files with an EXIF orientation, which it turns twice.

    Args:
        is_train: see `DatasetMapper`.
        swap_when_upside_down: exchange left and right keypoints of an image that is flipped upside
            down, since this is a mirror image too. detectron2 exchanges them for horizontal flips
            only.
        redraw_objects: draw bit masks and boxes again after the augmentations, because these turn
            or cut objects. A box is tight around the mask, even for a model without masks.
        channels: number of channels of images that `data.bands` reads as float32; 0: 8-bit colour.
        max_pixels: see `set_pixel_limit`; it is set in the process that calls the mapper.
        **arguments: see `DatasetMapper`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        swap_when_upside_down: bool = False,
        redraw_objects: bool = False,
        channels: int = 0,
        max_pixels: int = 0,
        **arguments: Any,
    ) -> None:
        super().__init__(is_train, **arguments)
        self.swap_when_upside_down = swap_when_upside_down
        self.redraw_objects = redraw_objects
        self.channels = channels
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the keys of `DatasetMapper` and `MASK_RCNN_EXT.AUGMENTATION`.

        Raises:
            UserError: see `require_augmentation` and `require_colours`.
        """
        cfg = complete_config(cfg)
        arguments: dict[str, Any] = super().from_config(cfg, is_train)
        arguments["augmentations"] = keep_sides(arguments["augmentations"])
        arguments["channels"] = cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS
        arguments["max_pixels"] = cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS
        if is_train:
            require_augmentation(cfg)
            arguments["augmentations"] = add_augmentations(cfg, arguments["augmentations"])
            arguments["swap_when_upside_down"] = cfg.MASK_RCNN_EXT.AUGMENTATION.VERTICAL_FLIP
            arguments["redraw_objects"] = cuts_objects(cfg)
        require_colours(cfg)
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See `DatasetMapper`.

        Raises:
            UserError: the image cannot be used, or its masks do not fit `INPUT.MASK_FORMAT`.
        """
        set_pixel_limit(self.max_pixels)  # this may be a worker, where it is not set
        record = copy.deepcopy(dataset_dict)
        if self.channels:
            image = order_bands(read_record_bands(record, self.channels), self.image_format)
        else:
            image = read_record(record, self.image_format)
        return self._map(record, np.ascontiguousarray(image))

    def _map(self, record: dict[str, Any], image: npt.NDArray[Any]) -> dict[str, Any]:
        """Do the work of `DatasetMapper`, whose reader we do not use; change the record.

        detectron2's reader turns some images twice, and reads damaged ones as black.

        Args:
            record: as for `DatasetMapper`.
            image: (H, W, C).
        """
        labels = record.pop("sem_seg_file_name", None)
        augmented = T.AugInput(
            image, sem_seg=None if labels is None else utils.read_image(labels, "L").squeeze(2)
        )
        transforms = self.augmentations(augmented)
        shape = augmented.image.shape[:2]
        channels_first = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        record["image"] = torch.as_tensor(channels_first)
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        record.setdefault("height", image.shape[0])
        record.setdefault("width", image.shape[1])
        if self.proposal_topk is not None:
            utils.transform_proposals(record, shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, shape)
        return record

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        """Replace `annotations` by `instances`, see `DatasetMapper`."""
        annotations = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        if self.use_keypoint and self.swap_when_upside_down and _is_upside_down(transforms):
            for annotation in annotations:
                points = np.asarray(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
                annotation["keypoints"] = points[self.keypoint_hflip_indices]
        if not self.redraw_objects:
            if self.use_instance_mask and self.instance_mask_format == "polygon":
                _require_polygons(annotations, dataset_dict.get("file_name"))
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            return
        del dataset_dict["annotations"]
        dataset_dict["instances"] = self._redraw(annotations, transforms, image_shape)

    def _redraw(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, image_shape: Any
    ) -> Instances:
        """Return the transformed objects, with bit masks and with boxes tight around them."""
        with_masks = all("segmentation" in annotation for annotation in annotations)
        for annotation in annotations:
            if not self.use_keypoint:
                annotation.pop("keypoints", None)
            mask = annotation.get("segmentation")
            if isinstance(mask, list):  # detectron2 would round integers down when it scales them
                annotation["segmentation"] = [np.asarray(part, dtype=np.float64) for part in mask]
            if not with_masks:
                annotation.pop("segmentation", None)
            utils.transform_instance_annotations(
                annotation,
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
        instances = utils.annotations_to_instances(annotations, image_shape, mask_format="bitmask")
        if instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances = utils.filter_empty_instances(instances)
        if instances.has("gt_masks") and not self.use_instance_mask:
            instances.remove("gt_masks")
        return instances


def _require_polygons(annotations: list[dict[str, Any]], name: Any) -> None:
    """Raise if a mask is RLE or a bitmap, which detectron2 cannot read as polygons."""
    if any(isinstance(a.get("segmentation"), dict | np.ndarray) for a in annotations):
        raise WrongKey(
            f"{name}: INPUT.MASK_FORMAT is polygon, but the mask of an object is RLE or a bitmap. "
            "Set INPUT.MASK_FORMAT bitmask"
        )


def _is_upside_down(transforms: T.TransformList) -> bool:
    flips = [each for each in transforms.transforms if isinstance(each, T.VFlipTransform)]
    return len(flips) % 2 == 1


def keep_sides(augmentations: list[T.Augmentation]) -> list[T.Augmentation]:
    """Return the augmentations with our `ResizeShortestEdge` in place of detectron2's."""
    return [
        ResizeShortestEdge(each.short_edge_length, each.max_size, each.sample_style, each.interp)
        if type(each) is T.ResizeShortestEdge
        else each
        for each in augmentations
    ]
