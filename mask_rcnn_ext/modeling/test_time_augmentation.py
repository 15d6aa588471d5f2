"""Test-time augmentation for boxes, masks and keypoints (Mask R-CNN, appendix B, Tables 8 and 9).

The paper augments with the scales 400 to 1200 in steps of 100 and horizontal flips, which are the
defaults of `TEST.AUG`. It does not say how the predictions are combined. Here, as in detectron2,
boxes are merged by NMS, and masks and keypoint heatmaps are averaged on the merged boxes. Detectron
merges boxes and averages masks in the same way, but its only model with augmentation, a
ResNeXt-152, then moves each box to the average of all boxes with an IoU of 0.9 (box voting); its
example for keypoints averages the boxes and scores of the same proposals instead.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.data.transforms import RandomFlip, ResizeTransform, apply_augmentations
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.structures.keypoints import heatmaps_to_keypoints
from fvcore.transforms import HFlipTransform, NoOpTransform
from fvcore.transforms.transform import TransformList
from torch import nn

from ..errors import UserError
from ..layers.resizing import ResizeShortestEdge
from .building import unwrap
from .checks import is_generalized_rcnn, require_keypoints
from .fcis import FCIS
from .postprocessing import postprocess_packed

__all__ = ["MaskRCNNWithTTA", "add_tta_results", "make_tta_config", "require_tta"]


def require_tta(cfg: CfgNode) -> None:
    """Check that a config with `TEST.AUG.ENABLED` can be evaluated with the augmentation.

    Raises:
        UserError: the meta-architecture is not a `GeneralizedRCNN`, there is no scale, or keypoints
            would be flipped and the data sets do not say which keypoints are left and right.
    """
    if not cfg.TEST.AUG.ENABLED:
        return
    if not is_generalized_rcnn(cfg):
        raise UserError(
            f"TEST.AUG.ENABLED: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no "
            "test-time augmentation; only GeneralizedRCNN and its subclasses have it. Set "
            "TEST.AUG.ENABLED False"
        )
    if not cfg.TEST.AUG.MIN_SIZES:
        raise UserError("TEST.AUG.MIN_SIZES is empty: expected the shorter sides, e.g. (640, 800)")
    if cfg.MODEL.KEYPOINT_ON and cfg.TEST.AUG.FLIP:
        _get_mirrored_keypoints(cfg)


def _get_mirrored_keypoints(cfg: CfgNode) -> list[int]:
    """Return, for each of the K keypoints, the index of its mirror image."""
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    try:
        flip: list[int] = create_keypoint_hflip_indices(names[:1])
    except (AttributeError, IndexError) as error:
        raise UserError(
            f"TEST.AUG.FLIP: data set {', '.join(names[:1]) or '(none given)'} does not say which "
            "keypoints are left and right: its metadata needs keypoint_names and keypoint_flip_map."
            " To augment without flips, set TEST.AUG.FLIP False"
        ) from error
    fix = "Evaluate on a data set with the keypoints of the training, or set TEST.AUG.FLIP False"
    require_keypoints(cfg, names[0], len(flip), fix)
    return flip


def make_tta_config(cfg: CfgNode) -> CfgNode:
    """Return a copy of `cfg` whose test loader does not resize the images.

    Otherwise images would be resized twice: to `INPUT.MIN_SIZE_TEST` and from there to each scale.
    An image at 1200 pixels would then show no more detail than at 800.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0  # detectron2's way to switch resizing off
    cfg.freeze()
    return cfg


def add_tta_results(
    results: Mapping[str, Any], augmented: Mapping[str, Any], *, num_datasets: int
) -> OrderedDict[str, Any]:
    """Return `results` with the results of test-time augmentation added, as tasks `*_TTA`.

    Args:
        results: the results of `Trainer.test`: task -> metrics, or, for several data sets, data set
            -> task -> metrics.
        augmented: the results of the augmented model, in the same form. `test_with_TTA` of a
            subclass may have added `_TTA` to the outer names, as in detectron2's `train_net.py`.
        num_datasets: number of test sets.
    """
    augmented = {name.removesuffix("_TTA"): found for name, found in augmented.items()}
    if num_datasets > 1:
        return OrderedDict(
            (name, add_tta_results(results[name], augmented[name], num_datasets=1))
            for name in results
        )
    suffixed = {f"{task}_TTA": metrics for task, metrics in augmented.items()}
    return OrderedDict([*results.items(), *suffixed.items()])


class MaskRCNNWithTTA(GeneralizedRCNNWithTTA):
    """detectron2's `GeneralizedRCNNWithTTA`, also for keypoints and stored proposals.

    Each image is resized to the scales of `TEST.AUG.MIN_SIZES`, and each scale is also flipped. The
    boxes of all augmented images are merged by NMS in pixels of the original image. Masks and
    keypoint heatmaps are predicted for the merged boxes on each augmented image, turned back, and
    averaged: masks as probabilities, keypoints as logits. Differences from detectron2:

    - keypoints: flipped heatmaps are mirrored, and left and right are exchanged; the average is
      decoded once, in pixels of the original image;
    - stored proposals are moved to each augmented image;
    - masks are pasted at the model's `mask_threshold`, if it has one.

    With the test size as the only scale and without flips, the result equals the plain model's up
    to rounding.

    Args:
        cfg: the config; `TEST`, `MODEL` and, for keypoints, the names in `DATASETS` are read.
        model: a `GeneralizedRCNN`, or a DistributedDataParallel of one.
        tta_mapper: see detectron2's class.
        batch_size: number of augmented images in one forward pass.

    Raises:
        UserError: see `require_tta`; or the model is an `FCIS`, which `FCISWithTTA` augments.
    """

    packed = False  # True: the result has `PackedMasks`

    def __init__(
        self, cfg: CfgNode, model: nn.Module, tta_mapper: Any = None, batch_size: int = 3
    ) -> None:
        inner = unwrap(model)
        if isinstance(inner, FCIS):  # it cannot predict masks for given boxes
            raise UserError(
                f"MaskRCNNWithTTA: expected a model that predicts masks for given boxes, got "
                f"{type(inner).__name__}; use mask_rcnn_ext.modeling.fcis.tta.FCISWithTTA"
            )
        # detectron2 refuses these two settings, which the methods below support.
        plain = cfg.clone()
        plain.defrost()
        plain.MODEL.KEYPOINT_ON = plain.MODEL.LOAD_PROPOSALS = False
        super().__init__(plain, model, tta_mapper or _TTAMapper(cfg), batch_size)
        self.cfg = cfg.clone()
        flips = cfg.MODEL.KEYPOINT_ON and cfg.TEST.AUG.FLIP
        self._mirrored_keypoints = _get_mirrored_keypoints(cfg) if flips else []
        self.train(self.model.training)  # a new nn.Module is in training mode, whatever it wraps

    def _get_augmented_inputs(
        self, input: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[TransformList]]:
        augmented, tfms = super()._get_augmented_inputs(input)
        if "proposals" in input:
            for image, tfm in zip(augmented, tfms, strict=True):
                image["proposals"] = _transform_proposals(input, tfm, image["image"].shape[1:])
        return augmented, tfms

    def _inference_one_image(self, input: dict[str, Any]) -> dict[str, Instances]:
        """See the base class; `input` is a dict with `image`, (C, H, W), `height` and `width`."""
        shape = (input["height"], input["width"])
        augmented, tfms = self._get_augmented_inputs(input)
        with self._turn_off_roi_heads(["mask_on", "keypoint_on"]):
            found = self._get_augmented_boxes(augmented, tfms)
        merged: Instances = self._merge_detections(*found, shape)
        if not (self.cfg.MODEL.MASK_ON or self.cfg.MODEL.KEYPOINT_ON):
            return {"instances": merged}
        rescaled = self._rescale_detected_boxes(augmented, merged, tfms)
        outputs = self._batch_inference(augmented, rescaled)
        del augmented, rescaled
        if self.cfg.MODEL.MASK_ON:
            merged.pred_masks = self._reduce_pred_masks(outputs, tfms)
        if self.cfg.MODEL.KEYPOINT_ON:
            heatmaps = self._reduce_heatmaps(outputs, tfms)
            decoded = heatmaps_to_keypoints(heatmaps, merged.pred_boxes.tensor)
            merged.pred_keypoints = decoded[:, :, [0, 1, 3]]  # x, y, score
        threshold = getattr(self.model, "mask_threshold", 0.5)
        postprocess = postprocess_packed if self.packed else detector_postprocess
        return {"instances": postprocess(merged, *shape, mask_threshold=threshold)}

    def _reduce_heatmaps(
        self, outputs: Sequence[Instances], tfms: Sequence[TransformList]
    ) -> torch.Tensor:
        """Return the mean of the keypoint logits, (R, K, S, S) float32, after undoing flips."""
        upright = []
        for output, tfm in zip(outputs, tfms, strict=True):
            heatmaps = output.pred_keypoint_heatmaps.float()
            if any(isinstance(t, HFlipTransform) for t in tfm.transforms):
                heatmaps = heatmaps.flip(dims=[3])[:, self._mirrored_keypoints]
            upright.append(heatmaps)
        return torch.stack(upright).mean(dim=0)


class _TTAMapper(DatasetMapperTTA):
    """detectron2's `DatasetMapperTTA`, which resizes no side of an image to 0 pixels."""

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """See the base class."""
        pixels = dataset_dict["image"].permute(1, 2, 0).numpy()
        given, original = pixels.shape[:2], (dataset_dict["height"], dataset_dict["width"])
        before = ResizeTransform(*original, *given) if given != original else NoOpTransform()
        flips: list[list[Any]] = [[], [RandomFlip(prob=1.0)]] if self.flip else [[]]
        augmented = []
        for size in self.min_sizes:
            for flip in flips:
                steps = [ResizeShortestEdge(size, self.max_size), *flip]
                changed, transforms = apply_augmentations(steps, pixels)
                image = torch.from_numpy(np.array(changed.transpose(2, 0, 1), order="C"))
                rest = copy.deepcopy({k: v for k, v in dataset_dict.items() if k != "image"})
                augmented.append({**rest, "image": image, "transforms": before + transforms})
        return augmented


def _transform_proposals(
    input: Mapping[str, Any], tfm: TransformList, image_size: Sequence[int]
) -> Instances:
    """Move the proposals of `input` to an augmented image.

    Args:
        input: dict with `proposals` in pixels of its `image`, which may be resized.
        tfm: the transforms from the original image to the augmented image.
        image_size: (H, W) of the augmented image.
    """
    given = input["proposals"]
    height, width = given.image_size
    scale = np.array([input["width"] / width, input["height"] / height] * 2, dtype=np.float32)
    boxes = Boxes(torch.from_numpy(tfm.apply_box(given.proposal_boxes.tensor.numpy() * scale)))
    size = (int(image_size[0]), int(image_size[1]))
    boxes.clip(size)
    return Instances(size, proposal_boxes=boxes, objectness_logits=given.objectness_logits)
