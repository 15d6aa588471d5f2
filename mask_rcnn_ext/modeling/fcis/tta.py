"""Test-time augmentation for FCIS: the scales and the flips of FCIS+++.

Mask R-CNN (arXiv:1703.06870) compares itself with "FCIS+++", FCIS with several scales and flips.
FCIS's released code has no such augmentation. From summaries of the paper (arXiv:1611.07709) by
others, three rules are known: the RPN runs at the test size only, each RoI takes its result from
the scale where it is closest to 224 x 224 pixels, and flipped results are averaged for each RoI.
The second rule and all scales but 1400 are SPPnet's (arXiv:1406.4729, section 4.1), which counts
pixels: it takes the scale at which the number of pixels of the window is closest to 224 x 224. Fast
R-CNN (arXiv:1504.08083, section 3) compares areas, too. This project chose the rest. Letters: R
RoIs, S scales,
C classes with the background, P the side of the masks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ...errors import UserError
from ...layers.resizing import ResizeShortestEdge
from ..building import unwrap
from ..test_time_augmentation import MaskRCNNWithTTA
from .fcis import FCIS
from .losses import compute_class_logits, predict_masks

__all__ = ["FCISWithTTA", "build_tta_model", "choose_scales"]

BEST_SIDE = 224.0  # pixels; the side of the images that backbones are pre-trained on


def build_tta_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap a model in its test-time augmentation: `FCISWithTTA` or `MaskRCNNWithTTA`.

    Args:
        cfg: the config.
        model: a `GeneralizedRCNN`, or a DistributedDataParallel of one.
    """
    kind = FCISWithTTA if isinstance(unwrap(model), FCIS) else MaskRCNNWithTTA
    augmented: nn.Module = kind(cfg, model)
    return augmented


def choose_scales(boxes: Tensor, factors: Tensor) -> Tensor:
    """Return the scale where a box's number of pixels is closest to 224 x 224: (R,), int64.

    The first of several equally good scales wins.

    Args:
        boxes: (R, 4), XYXY_ABS.
        factors: (S, 2): pixels of each scale, in x and in y, per pixel of the boxes.
    """
    areas = Boxes(boxes).area()[:, None] * factors.prod(dim=1)
    return (areas - BEST_SIDE**2).abs().argmin(dim=1)


class FCISWithTTA(nn.Module):
    """An FCIS model that sees each image at several scales, and mirrored.

    The RPN proposes RoIs on the unflipped image at the test size (`INPUT.MIN_SIZE_TEST`,
    `MAX_SIZE_TEST`). In each pass of the heads every RoI is moved to one scale of
    `TEST.AUG.MIN_SIZES`, see `choose_scales`, and pooled there. With `TEST.AUG.FLIP` it is also
    pooled from the mirrored image of that scale. The results of the mirrored image are turned back;
    then class probabilities, masks and box deltas of both images are averaged. Both masks belong to
    the class that is best on average. The averaged deltas move the RoI for the next pass, which
    chooses its scale again. The RoIs of all passes then vote as in the plain model. The module
    docstring says which parts of this are published.

    With the test size as the only scale and without flips, the result equals the plain model's.

    The backbone runs once for each scale and flip that some RoI needs, and its features are kept
    until the image is done. Score maps are several times as large, so only the maps of one scale
    and flip are in memory at a time, and each pass computes them again.

    Args:
        cfg: the config; `TEST.AUG` and the test size are read.
        model: an `FCIS`, or a DistributedDataParallel of one.

    Raises:
        UserError: the model is no `FCIS`.
    """

    packed = False  # True: the result has `PackedMasks`

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        super().__init__()
        model = unwrap(model)
        if not isinstance(model, FCIS):
            raise UserError(
                f"FCISWithTTA: expected an FCIS model, got {type(model).__name__}; "
                "MaskRCNNWithTTA augments the other subclasses of GeneralizedRCNN"
            )
        self.model = model
        self.flip: bool = cfg.TEST.AUG.FLIP
        self._resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self._scales = [
            ResizeShortestEdge(s, cfg.TEST.AUG.MAX_SIZE) for s in cfg.TEST.AUG.MIN_SIZES
        ]
        self.train(model.training)  # a new nn.Module is in training mode, whatever it wraps

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return the same as :meth:`FCIS.inference`, one image after the other.

        Args:
            batched_inputs: dicts with `image`, (C, H, W), at its original size, or a `file_name` to
                read it from; `height` and `width` of the output, by default the image's; and, for a
                model without an RPN, `proposals` in pixels of `image`.
        """
        assert not self.model.training, "test-time augmentation of a model in training mode"
        return [{"instances": self._detect(image)} for image in batched_inputs]

    def _detect(self, given: dict[str, Any]) -> Instances:
        if "image" in given:
            image = given["image"].permute(1, 2, 0).cpu().numpy()
        else:
            image = read_image(given["file_name"], self.model.input_format)
        views = _Views(self.model, image)
        scales = [views.resize(scale) for scale in self._scales]
        proposals = self._propose(views, given.get("proposals"))
        size, boxes = proposals.image_size, proposals.proposal_boxes
        passes = []
        for _ in range(self.model.roi_heads.num_passes):
            probs, masks, deltas = self._evaluate(views, scales, boxes.tensor, size)
            fields = {"class_probs": probs, "roi_masks": masks}
            passes.append(Instances(size, proposal_boxes=boxes, **fields))
            transform = self.model.roi_heads.box2box_transform
            boxes = Boxes(transform.apply_deltas(deltas, boxes.tensor))
            boxes.clip(size)
        height, width = given.get("height", image.shape[0]), given.get("width", image.shape[1])
        return self.model.detect(Instances.cat(passes), height, width, packed=self.packed)

    def _propose(self, views: "_Views", stored: Instances | None) -> Instances:
        """Return the RoIs, `proposal_boxes`, in pixels of the image at the test size."""
        size = views.resize(self._resize)
        if self.model.proposal_generator is not None:
            proposals: Instances = views.propose(size)
            return proposals
        assert stored is not None, "'proposals' are required by a model without an RPN"
        boxes = Boxes(stored.proposal_boxes.tensor.to(self.model.device, copy=True))
        boxes.scale(size[1] / stored.image_size[1], size[0] / stored.image_size[0])
        boxes.clip(size)
        return Instances(size, proposal_boxes=boxes)

    def _evaluate(
        self, views: "_Views", scales: list[tuple[int, int]], boxes: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pool each RoI at its scale.

        Args:
            views: the views of the image.
            scales: the (H, W) of each scale.
            boxes: (R, 4), XYXY_ABS, in pixels of an image of `size`.
            size: (H, W).

        Returns:
            Class probabilities (R, C), masks (R, P, P) and box deltas (R, 4).
        """
        heads, side = self.model.roi_heads, self.model.roi_heads.pooler.output_size
        probs = boxes.new_zeros(len(boxes), heads.num_classes + 1)
        masks, deltas = boxes.new_zeros(len(boxes), side, side), torch.zeros_like(boxes)
        factors = boxes.new_tensor(
            [(width / size[1], height / size[0]) for height, width in scales]
        )
        chosen = choose_scales(boxes, factors)
        for index in chosen.unique().tolist():
            rois = torch.nonzero(chosen == index)[:, 0]
            moved = boxes[rois] * factors[index].repeat(2)
            found = self._evaluate_at(views, scales[index], moved)
            for whole, part in zip((probs, masks, deltas), found, strict=True):
                whole[rois] = part
        return probs, masks, deltas

    def _evaluate_at(
        self, views: "_Views", size: tuple[int, int], boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pool RoIs at the scale of `size`, in its pixels; the result is as in `_evaluate`."""
        heads = self.model.roi_heads
        pooled: list[tuple[Tensor, Tensor]] = [
            heads.pool(views.compute_score_maps(size), [Boxes(boxes)])
        ]
        if self.flip:
            mirrored = boxes[:, [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1])
            mirrored += boxes.new_tensor([size[1], 0, size[1], 0])
            maps = views.compute_score_maps(size, mirrored=True)
            pooled.append(heads.pool(maps, [Boxes(mirrored)]))
        probs = _average([compute_class_logits(scores).softmax(dim=1) for scores, _ in pooled])
        masks = [predict_masks(scores, probs) for scores, _ in pooled]
        deltas = [deltas for _, deltas in pooled]
        if self.flip:
            masks[1] = masks[1].flip(dims=[2])
            deltas[1] = deltas[1] * boxes.new_tensor([-1, 1, 1, 1])  # dx, dy, dw, dh
        return probs, _average(masks), _average(deltas)


def _average(views: list[Tensor]) -> Tensor:
    return torch.stack(views).mean(dim=0)


class _Views:
    """One image at several sizes, plain and mirrored; the backbone sees each at most once.

    Args:
        model: the model that runs on the views.
        image: (H, W, 3), at its original size.
    """

    def __init__(self, model: FCIS, image: npt.NDArray[Any]) -> None:
        self._model, self._image = model, image
        self._resized: dict[tuple[int, int], npt.NDArray[Any]] = {}
        self._features: dict[tuple[tuple[int, int], bool], dict[str, Tensor]] = {}

    def resize(self, augmentation: ResizeShortestEdge) -> tuple[int, int]:
        """Make the image of a scale; return its (H, W), which the other methods take."""
        resized = augmentation.get_transform(self._image).apply_image(self._image)
        size = (int(resized.shape[0]), int(resized.shape[1]))
        self._resized.setdefault(size, resized)
        return size

    def propose(self, size: tuple[int, int]) -> Instances:
        """Run the RPN on the image of that size."""
        images, features = self._run_backbone(size, mirrored=False)
        proposals, _ = self._model.proposal_generator(images, features, None)
        found: Instances = proposals[0]
        return found

    def compute_score_maps(self, size: tuple[int, int], *, mirrored: bool = False) -> Tensor:
        """Return the maps of the image of that size, see `FCISROIHeads.compute_maps`."""
        if (size, mirrored) not in self._features:
            self._run_backbone(size, mirrored=mirrored)
        maps: Tensor = self._model.roi_heads.compute_maps(self._features[size, mirrored])
        return maps

    def _run_backbone(
        self, size: tuple[int, int], *, mirrored: bool
    ) -> tuple[ImageList, dict[str, Tensor]]:
        """Return the network's input and all its features; keep the feature that the heads read."""
        pixels = self._resized[size]
        pixels = pixels[:, ::-1] if mirrored else pixels
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        images = self._model.preprocess_image([{"image": image}])
        features = self._model.backbone(images.tensor)
        name = self._model.roi_heads.in_feature
        self._features[size, mirrored] = {name: features[name]}
        return images, features
