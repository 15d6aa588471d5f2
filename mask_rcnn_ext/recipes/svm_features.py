"""The features that R-CNN's SVMs and box regression are fitted to, one image at a time.

Paper: "Rich feature hierarchies...", arXiv:1311.2524, section 2.3 and appendices B and C. fc7 is
what the box head gives, pool5 the backbone's map of a crop, flattened: `RCNNROIHeads.describe`.

The images are those of `DATASETS.TRAIN`, in the size of testing and in their own orientation (the
paper says nothing of mirrored ones here; the released code has them as an option). They are read
twice: first the crops of the objects, which are the SVMs' positives, and of a few proposals, from
which the scale of the features follows; then those of all proposals. Objects marked as crowds are
neither positives nor kept apart from the negatives, as in training.

In memory are the features of one image, the positives and hard negatives of each class, and the
rows of the box regression, 4 bytes for each number: 9216 of them (AlexNet) for each proposal that
overlaps an object by more than 0.6.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.evaluation.evaluator import inference_context
from torch import Tensor, nn
from torchvision.ops import box_iou
from tqdm import tqdm

from ..errors import UserError
from ..modeling.rcnn import RCNN, RCNNSVMOutputLayers
from .svm_fitting import MEAN_NORM, Array, ClassSVM, fit_ridge, label_proposals

__all__ = ["Images", "fit_layers"]

logger = logging.getLogger(__name__)

_NORM_SAMPLE = 16  # proposals of each image that the mean norms are measured on


class Images(Protocol):
    """A loader of single images: the same records in the same order each time.

    A record has `image`, `proposals` and `instances`, as detectron2's mapper makes it for training.
    """

    def __len__(self) -> int:
        """Return the number of images."""

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield each image in a list of its own."""


def fit_layers(
    model: RCNN,
    images: Images,
    *,
    seed: int,
    positive_weight: float = 2.0,
    class_names: Sequence[str] | None = None,
) -> None:
    """Fit the SVMs and the box regression of a model, in place; the rest of it stays as it is.

    Args:
        model: with `RCNNSVMOutputLayers`; its mode is left as it was.
        images: of training.
        seed: of the proposals whose norms are measured, and of the solver.
        positive_weight: see `svm_fitting.fit_svm`.
        class_names: for the log.

    Raises:
        UserError: there is no object or no proposal, or the network's features are all zero or not
            finite.
    """
    layers: RCNNSVMOutputLayers = model.roi_heads.box_predictor
    names = class_names or [f"class {label}" for label in range(layers.num_classes)]
    with inference_context(model), torch.no_grad():
        positives, scales = _read_objects(model, images, np.random.default_rng(seed))
        svms = [
            ClassSVM(rows * scales[0], seed=seed, positive_weight=positive_weight)
            for rows in positives
        ]
        rows, targets = _read_proposals(model, images, svms, scales[0])
        for label, svm in enumerate(svms):
            _set_row(layers.svm, slice(label, label + 1), svm.weights, svm.bias, scales[0])
            deltas = slice(4 * label, 4 * label + 4)
            count = sum(map(len, rows[label]))
            _log_class(names[label], svm, count)
            if not count:
                _set_row(layers.ridge, deltas, 0.0, 0.0, 1.0)
                continue
            fitted = fit_ridge(_joined(rows[label], scales[1]), np.concatenate(targets[label]))
            _set_row(layers.ridge, deltas, *fitted, scales[1])


def _read_objects(
    model: RCNN, images: Images, rng: np.random.Generator
) -> tuple[list[Array], tuple[float, float]]:
    """Return each class's objects as rows of fc7, and the scales of fc7 and pool5."""
    positives: list[list[Array]] = [[] for _ in range(model.roi_heads.num_classes)]
    norms, sampled, found = np.zeros(2), 0, 0
    for record in _progress(images, "Objects"):
        objects = record["instances"].gt_boxes.tensor
        proposals = record["proposals"].proposal_boxes.tensor
        chosen = rng.permutation(len(proposals))[:_NORM_SAMPLE]
        boxes = torch.cat([objects, proposals[chosen]])
        if not len(boxes):
            continue
        features = _describe(model, record, boxes, torch.arange(len(boxes)) >= len(objects))
        for label, row in zip(record["instances"].gt_classes.tolist(), features[0], strict=False):
            positives[label].append(row.copy())  # not a view of all rows
        of_proposals = (features[0][len(objects) :], features[1])
        norms += [np.linalg.norm(each, axis=1).sum() for each in of_proposals]
        sampled, found = sampled + len(chosen), found + len(objects)
    if not (found and sampled):
        raise UserError(
            f"expected training images with objects and proposals, got {found} objects and "
            f"{'some' if sampled else 'no'} proposals in {len(images)} image(s). Look at "
            "DATASETS.TRAIN and DATASETS.PROPOSAL_FILES_TRAIN"
        )
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise UserError(
            "MODEL.WEIGHTS: expected a network whose features differ from zero and are finite, got "
            f"mean norms of {norms[0] / sampled:g} (box head) and {norms[1] / sampled:g} (map)"
        )
    fc7, pool5 = (float(scale) for scale in MEAN_NORM * sampled / norms)
    width = model.roi_heads.box_predictor.svm.in_features
    empty = np.zeros((0, width), dtype=np.float32)
    return [np.stack(rows) if rows else empty for rows in positives], (fc7, pool5)


def _read_proposals(
    model: RCNN, images: Images, svms: Sequence[ClassSVM], scale: float
) -> tuple[list[list[Array]], list[list[Array]]]:
    """Fit the SVMs; return the rows of pool5 and the targets of each class's box regression."""
    rows: list[list[Array]] = [[] for _ in svms]
    targets: list[list[Array]] = [[] for _ in svms]
    transform = model.roi_heads.box_predictor.box2box_transform
    for record in _progress(images, "Proposals"):
        proposals = record["proposals"].proposal_boxes.tensor
        if not len(proposals):
            continue
        objects, classes = record["instances"].gt_boxes.tensor, record["instances"].gt_classes
        overlaps = box_iou(proposals, objects).numpy()
        negative, matched = label_proposals(overlaps, classes.numpy(), len(svms))
        regressed = (matched >= 0).any(axis=0)
        hidden, flat = _describe(model, record, proposals, torch.from_numpy(regressed))
        hidden *= scale
        for label, svm in enumerate(svms):
            svm.offer(hidden, negative[label])
            own = matched[label] >= 0
            if own.any():
                rows[label].append(flat[own[regressed]])
                pairs = proposals[own], objects[matched[label][own]]
                targets[label].append(transform.get_deltas(*pairs).numpy())
    for svm in svms:
        svm.finish()
    return rows, targets


def _describe(
    model: RCNN, record: dict[str, Any], boxes: Tensor, wanted: Tensor
) -> tuple[Array, Array]:
    """Return fc7 (R, D) of the boxes (R, 4) of an image, and pool5 (n, E) of the `wanted` ones."""
    image = model.preprocess_image([record])[0]
    parts = []
    sizes = model.crops_per_batch
    for chunk, rows in zip(boxes.split(sizes), wanted.split(sizes), strict=True):
        maps = model.map_crops(image, [chunk.to(model.device)])
        hidden, flat = model.roi_heads.describe(maps)
        parts.append((hidden.float().cpu(), flat[rows.to(flat.device)].float().cpu()))
    hidden, flat = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return hidden, flat


def _joined(parts: list[Array], scale: float) -> Array:
    """Return the rows of all parts as one scaled array; `parts` is emptied, to save memory."""
    end = sum(map(len, parts))
    joined = np.empty((end, parts[0].shape[1]), dtype=parts[0].dtype)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    joined *= scale
    return joined


def _set_row(layer: nn.Linear, rows: slice, weights: Any, bias: Any, scale: float) -> None:
    """Write fitted rows into a layer that reads unscaled features."""
    for parameter, value in ((layer.weight, np.multiply(weights, scale)), (layer.bias, bias)):
        # One class of the SVMs is one number; assignment broadcasts it.
        parameter[rows] = torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)


def _log_class(name: str, svm: ClassSVM, regressed: int) -> None:
    objects = len(svm.positives)
    if not svm.fits:
        why = "no proposal is a negative of it" if objects else "it has no object"
        logger.warning("%s: %s in the training images. It will never be detected.", name, why)
    else:
        logger.info(
            "%s: an SVM of %d objects and %d hard negatives (%d of %d proposals were hard; fitted "
            "%d times); box regression of %d proposals.",
            *(name, objects, svm.cached, svm.taken, svm.offered, svm.fits, regressed),
        )
    if svm.fits and (svm.margins(svm.positives) <= 0).all():
        logger.warning(
            "%s: the SVM takes every one of its objects for background. Raise "
            "MODEL.RCNN.SVM_POSITIVE_WEIGHT, the price of such an error.",
            name,
        )
    if svm.fits and not regressed:
        logger.warning(
            "%s: no proposal overlaps an object enough for the box regression. Its boxes stay as "
            "they are proposed.",
            name,
        )


def _progress(images: Images, what: str) -> Iterator[dict[str, Any]]:
    """Yield the one record of each list; show a bar on a terminal, and else a line every tenth."""
    if sys.stderr.isatty():
        for (record,) in tqdm(images, desc=what, unit="image"):
            yield record
        return
    step = max(1, len(images) // 10)
    for number, (record,) in enumerate(images, start=1):
        yield record
        if number % step == 0:
            logger.info("%s: %d of %d images", what, number, len(images))
