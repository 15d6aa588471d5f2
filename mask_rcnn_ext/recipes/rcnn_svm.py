"""R-CNN's second stage: SVMs and box regression fitted to the features of a trained network.

Paper: "Rich feature hierarchies...", arXiv:1311.2524, section 2.3 and appendices B and C. The
network was trained with a softmax (`MODEL.RCNN.SCORER softmax`); its weights stay the same to the
last bit. What is fitted, and with which constants, is in `svm_fitting`. The SVMs read fc7, the
output of the box head; the regression reads pool5, the backbone's map of a crop, flattened.

The images are the images of `DATASETS.TRAIN` at test size, not mirrored (the paper does not mention
mirrored images here; the released code has them as an option). They are read twice. The first pass
crops the objects, which are the SVMs' positives, and a few proposals, which give the scale of the
features. The second pass crops all proposals. Objects marked as crowds are not positives, and
proposals on them can be negatives, as in training.

In memory are the features of one image, the positives and hard negatives of each class, and the
rows of the box regression: 4 bytes for each of 9216 numbers (AlexNet), for each proposal that
overlaps an object by more than 0.6.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.evaluation import verify_results
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.ops import box_iou
from tqdm import tqdm

from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.description import describe_run
from ..checkpoint.fetching import fetch_file
from ..data.bad_images import NamedErrors
from ..data.mapper import ImageMapper, keep_sides
from ..engine.results import write_results
from ..engine.run import prepare_run
from ..engine.trainer import Trainer
from ..errors import UserError, count_noun, require_range
from ..modeling.checks import is_rcnn
from ..modeling.precision import inference_autocast, prepare_model
from ..modeling.rcnn import RCNN, RCNNSVMOutputLayers
from ..proposals.file import load_training_dicts
from .stages import require_training
from .svm_fitting import (
    MEAN_NORM,
    Array,
    ClassSVM,
    fit_ridge,
    label_proposals,
    require_scikit_learn,
)

__all__ = ["Images", "fit_layers", "train_rcnn_svm"]

logger = logging.getLogger(__name__)

# A loader that gives the same images in the same order each time. Each batch has one record, with
# `image`, `proposals` and `instances`, as from detectron2's mapper in training.
Images = DataLoader[list[dict[str, Any]]]

_NORM_SAMPLE = 16  # proposals of each image that the mean norms are measured on


def train_rcnn_svm(args: argparse.Namespace) -> None:
    """Fit the second stage of R-CNN to a trained network and evaluate both together.

    Writes the usual files of a run: `config.yaml`, `log.txt`, `model_final.pth`, `results.json` and
    `inference/`. The `train_seconds` are the time of fitting, without training the network.

    Args:
        args: the options, see `make_svm_parser`.

    Raises:
        UserError: see `prepare_run`, `Trainer.require_ready` and `fit_layers`; an option cannot be
            used here; scikit-learn is missing; the config is not of an R-CNN with SVMs; or
            `MODEL.WEIGHTS` does not hold its network.
    """
    _require_fitting_options(args)
    require_scikit_learn()
    with prepare_run(args, by_gradients=False) as cfg:
        _require_svm_config(cfg)
        Trainer.require_ready(cfg)
        for name in cfg.DATASETS.TEST:  # reports a proposal file that does not fit
            Trainer.build_test_loader(cfg, name)
        images = _load_images(cfg, args.max_images)
        model: Any = prepare_model(cfg, Trainer.build_model(cfg))
        _load_network(model, cfg.MODEL.WEIGHTS)
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        start = time.perf_counter()
        with inference_autocast(cfg):
            fit_layers(
                model,
                images,
                seed=seed,
                positive_weight=cfg.MODEL.RCNN.SVM_POSITIVE_WEIGHT,
                class_names=cfg.MASK_RCNN_EXT.CLASS_NAMES,
            )
    names = cfg.MASK_RCNN_EXT.CLASS_NAMES
    description = describe_run(cfg, seed)
    Checkpointer(model, cfg.OUTPUT_DIR, class_names=names, description=description).save(
        "model_final"
    )
    fitted = time.perf_counter()
    results = Trainer.test_all(cfg, model)
    evaluated = time.perf_counter()
    write_results(
        cfg, results, train_seconds=fitted - start, eval_seconds=evaluated - fitted, seed=seed
    )
    verify_results(cfg, results)


def _require_fitting_options(args: argparse.Namespace) -> None:
    require_training(args)
    if args.resume:
        raise UserError("--resume: fitting has no checkpoints. Leave --resume out")
    if args.max_images is not None:
        require_range("--max-images", args.max_images, 1)
    if comm.get_world_size() > 1:
        raise UserError(
            f"R-CNN's SVMs are fitted by one process, got {comm.get_world_size()}. Leave out "
            "--num-gpus and --num-machines, and start it without torchrun"
        )


def _require_svm_config(cfg: CfgNode) -> None:
    example = "for example configs/shapes/lineage/rcnn_tiny_svm.yaml"
    if not is_rcnn(cfg):
        raise UserError(
            f"expected the config of an R-CNN, {example}, got MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE}"
        )
    if cfg.MODEL.RCNN.SCORER == "softmax":
        raise UserError(
            f"MODEL.RCNN.SCORER: expected svm, got softmax. Give a config with SVMs, {example}, or "
            "set MODEL.RCNN.SCORER svm. The network itself is trained by train_net.py"
        )
    if cfg.MODEL.RCNN.SVM_POSITIVE_WEIGHT <= 0:
        raise UserError(
            "MODEL.RCNN.SVM_POSITIVE_WEIGHT: expected more than 0, got "
            f"{cfg.MODEL.RCNN.SVM_POSITIVE_WEIGHT}; R-CNN has 2.0"
        )


def _load_network(model: nn.Module, path: str) -> None:
    """Load all weights except the layers that are fitted here.

    Raises:
        UserError: there is no file, or a part of the network is missing in the file.
    """
    train_first = (
        "Train the network first, with train_net.py and MODEL.RCNN.SCORER softmax, and give its "
        "model_final.pth"
    )
    if not path:
        raise UserError(
            "MODEL.WEIGHTS is empty: expected the trained network that SVMs and box regression are "
            f"fitted to. {train_first}"
        )
    fetch_file(path, train_first)
    heads: Any = model.roi_heads
    layers = heads.box_predictor
    heads.box_predictor = nn.Identity()  # these layers are not in the file, or must not be read
    try:
        Checkpointer(model).load(path, checkpointables=[])
    except UserError as error:
        raise UserError(
            f"MODEL.WEIGHTS: expected a network trained with this config and MODEL.RCNN.SCORER "
            f"softmax. {error}"
        ) from error
    finally:
        heads.box_predictor = layers
    logger.info("Only the weights of the network are loaded, not the layers that score its crops.")


def _load_images(cfg: CfgNode, limit: int | None) -> Images:
    """Return a loader of the training images, one at a time, with objects and proposals.

    Raises:
        UserError: see `load_training_dicts`.
    """
    # As in testing, with the objects and DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN proposals.
    mapper = ImageMapper(cfg, True, augmentations=keep_sides(build_augmentation(cfg, False)))
    workers = cfg.DATALOADER.NUM_WORKERS
    images: Images = build_detection_test_loader(
        dataset=load_training_dicts(cfg)[:limit],
        mapper=NamedErrors(mapper, workers),
        num_workers=workers,
    )
    return images


def fit_layers(
    model: RCNN,
    images: Images,
    *,
    seed: int,
    positive_weight: float = 2.0,
    class_names: Sequence[str] | None = None,
) -> None:
    """Fit the SVMs and the box regression of a model, in place; other weights do not change.

    Args:
        model: a model with `RCNNSVMOutputLayers`; its mode (training or not) does not change.
        images: the training images.
        seed: decides which proposals the norms are measured on, and seeds the solver.
        positive_weight: see `svm_fitting.fit_svm`.
        class_names: the names in the log.

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
            fitted = fit_ridge(_join(rows[label], scales[1]), np.concatenate(targets[label]))
            _set_row(layers.ridge, deltas, *fitted, scales[1])


def _read_objects(
    model: RCNN, images: Images, rng: np.random.Generator
) -> tuple[list[Array], tuple[float, float]]:
    """Return the objects of each class as rows of fc7, and the scales of fc7 and pool5."""
    positives: list[list[Array]] = [[] for _ in range(model.roi_heads.num_classes)]
    norms, sampled, found = np.zeros(2), 0, 0
    for record in _show_progress(images, "Objects"):
        objects = record["instances"].gt_boxes.tensor
        proposals = record["proposals"].proposal_boxes.tensor
        chosen = rng.permutation(len(proposals))[:_NORM_SAMPLE]
        boxes = torch.cat([objects, proposals[chosen]])
        if not len(boxes):
            continue
        features = _compute_features(model, record, boxes, torch.arange(len(boxes)) >= len(objects))
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
    """Fit the SVMs; return the rows of pool5 and the targets of the box regression, by class."""
    rows: list[list[Array]] = [[] for _ in svms]
    targets: list[list[Array]] = [[] for _ in svms]
    transform = model.roi_heads.box_predictor.box2box_transform
    for record in _show_progress(images, "Proposals"):
        proposals = record["proposals"].proposal_boxes.tensor
        if not len(proposals):
            continue
        objects, classes = record["instances"].gt_boxes.tensor, record["instances"].gt_classes
        overlaps = box_iou(proposals, objects).numpy()
        negative, matched = label_proposals(overlaps, classes.numpy(), len(svms))
        regressed = (matched >= 0).any(axis=0)
        hidden, flat = _compute_features(model, record, proposals, torch.from_numpy(regressed))
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


def _compute_features(
    model: RCNN, record: dict[str, Any], boxes: Tensor, wanted: Tensor
) -> tuple[Array, Array]:
    """Return fc7 (R, D) of the boxes (R, 4) of an image, and pool5 (n, E) of the `wanted` boxes."""
    image = model.preprocess_image([record])[0]
    parts = []
    sizes = model.crops_per_batch
    for chunk, rows in zip(boxes.split(sizes), wanted.split(sizes), strict=True):
        maps = model.map_crops(image, [chunk.to(model.device)])
        hidden, flat = model.roi_heads.describe(maps)
        parts.append((hidden.float().cpu(), flat[rows.to(flat.device)].float().cpu()))
    hidden, flat = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return hidden, flat


def _join(parts: list[Array], scale: float) -> Array:
    """Return the rows of all parts as one scaled array; empties `parts`, to save memory."""
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
        # The bias of an SVM is one number; the assignment broadcasts it.
        parameter[rows] = torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)


def _log_class(name: str, svm: ClassSVM, regressed: int) -> None:
    objects = len(svm.positives)
    if not svm.fits:
        why = "no proposal is a negative of the class" if objects else "the class has no object"
        logger.warning("%s: %s in the training images. It will never be detected.", name, why)
    else:
        logger.info(
            "%s: an SVM of %s and %s (%d of %d proposals were hard; fitted "
            "%s); box regression of %s.",
            name,
            count_noun(objects, "object"),
            count_noun(svm.cached, "hard negative"),
            svm.taken,
            svm.offered,
            count_noun(svm.fits, "time"),
            count_noun(regressed, "proposal"),
        )
    if svm.fits and (svm.compute_margins(svm.positives) <= 0).all():
        logger.warning(
            "%s: the SVM classifies all of its objects as background. Raise "
            "MODEL.RCNN.SVM_POSITIVE_WEIGHT, the cost of such an error.",
            name,
        )
    if svm.fits and not regressed:
        logger.warning(
            "%s: no proposal overlaps an object enough for the box regression, so the proposed "
            "boxes are not refined.",
            name,
        )


def _show_progress(images: Images, what: str) -> Iterator[dict[str, Any]]:
    """Yield the one record of each list; show a bar on a terminal, elsewhere ten lines."""
    if sys.stderr.isatty():
        for (record,) in tqdm(images, desc=what, unit="image"):
            yield record
        return
    step = max(1, len(images) // 10)
    for number, (record,) in enumerate(images, start=1):
        yield record
        if number % step == 0:
            logger.info("%s: %d of %d images", what, number, len(images))
