"""R-CNN's second stage: SVMs and box regression fitted to a trained network's features.

Paper: "Rich feature hierarchies...", arXiv:1311.2524, section 2.3 and appendices B and C. The
network was trained with a softmax (`MODEL.RCNN.SCORER softmax`) and stays as it is to the last bit:
nothing of this stage reaches it. What is fitted, and by which numbers, is in `svm_fitting`; which
crops are read, in `svm_features`.
"""

import argparse
import logging
import time
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import nn

from ..checkpoint.checkpointer import Checkpointer, local_file
from ..engine.results import write_results
from ..engine.run import prepare_run
from ..engine.trainer import Trainer
from ..errors import UserError
from ..modeling.checks import is_rcnn
from ..modeling.precision import inference_autocast, prepare_model
from ..proposals.stored import training_dicts
from .svm_features import Images, fit_layers
from .svm_fitting import require_scikit_learn

__all__ = ["train_rcnn_svm"]

logger = logging.getLogger(__name__)


def train_rcnn_svm(args: argparse.Namespace) -> None:
    """Fit the second stage of R-CNN to a trained network and evaluate the whole.

    Writes what every run leaves: `config.yaml`, `log.txt`, `model_final.pth`, `results.json` and
    `inference/`. Its `train_seconds` are those of fitting, without the network's.

    Args:
        args: what `make_svm_parser` parsed.

    Raises:
        UserError: see `prepare_run`, `Trainer.require_ready` and `fit_layers`; an option has no
            meaning here; scikit-learn is missing; the config is not of R-CNN with SVMs; or
            `MODEL.WEIGHTS` does not hold its network.
    """
    _require_fitting_options(args)
    require_scikit_learn()
    with prepare_run(args, by_gradients=False) as cfg:
        _require_svm_config(cfg)
        Trainer.require_ready(cfg)
        for name in cfg.DATASETS.TEST:  # a proposal file that does not fit is told now
            Trainer.build_test_loader(cfg, name)
        images = _training_images(cfg, args.max_images)
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
    Checkpointer(model, cfg.OUTPUT_DIR).save("model_final")
    fitted = time.perf_counter()
    results = Trainer.test_all(cfg, model)
    evaluated = time.perf_counter()
    write_results(
        cfg, results, train_seconds=fitted - start, eval_seconds=evaluated - fitted, seed=seed
    )
    verify_results(cfg, results)


def _require_fitting_options(args: argparse.Namespace) -> None:
    if args.eval_only:
        raise UserError(
            "--eval-only: use train_net.py --eval-only --config-file OUTPUT_DIR/config.yaml "
            "MODEL.WEIGHTS OUTPUT_DIR/model_final.pth"
        )
    if args.resume:
        raise UserError("--resume: fitting has no checkpoints to go on from. Leave --resume out")
    if args.max_images is not None and args.max_images < 1:
        raise UserError(f"--max-images: expected 1 or more, got {args.max_images}")
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
            f"{cfg.MODEL.RCNN.SVM_POSITIVE_WEIGHT}; R-CNN's is 2.0"
        )


def _load_network(model: nn.Module, path: str) -> None:
    """Load all that is not fitted here.

    Raises:
        UserError: there is no file, or it lacks a part of the network.
    """
    train_first = (
        "Train the network first: train_net.py with MODEL.RCNN.SCORER softmax; its model_final.pth "
        "is the file"
    )
    if not path:
        raise UserError(
            "MODEL.WEIGHTS is empty: expected the trained network that SVMs and box regression are "
            f"fitted to. {train_first}"
        )
    local_file(path, train_first)
    heads: Any = model.roi_heads
    layers = heads.box_predictor
    heads.box_predictor = nn.Identity()  # what is fitted is not in the file, or not to be read
    try:
        Checkpointer(model).load(path, checkpointables=[])
    except UserError as error:
        raise UserError(
            f"MODEL.WEIGHTS: expected a network trained with this config and MODEL.RCNN.SCORER "
            f"softmax. {error}"
        ) from error
    finally:
        heads.box_predictor = layers
    logger.info("Of these weights the network is read, not the layers that score its crops.")


def _training_images(cfg: CfgNode, limit: int | None) -> Images:
    """Return a loader of the training images, one at a time, with objects and proposals.

    Raises:
        UserError: see `training_dicts`.
    """
    # As in testing, but with the objects and DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN proposals.
    mapper = DatasetMapper(cfg, True, augmentations=build_augmentation(cfg, False))
    images: Images = build_detection_test_loader(
        dataset=training_dicts(cfg)[:limit], mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    return images
