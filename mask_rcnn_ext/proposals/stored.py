"""Stored proposals: checked, read through detectron2's loaders, and written by a trained RPN.

The format is detectron2's, and so is the reader, `load_proposals_into_dataset`. It unpickles, which
can run code: give it files of your own, or of a source that you trust, such as detectron2's zoo.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.build import get_detection_dataset_dicts
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..checkpoint.checkpointer import Checkpointer
from ..config import flat_config
from ..errors import UserError
from ..files import file_sha256, read_json_or_none, write_json
from ..modeling.precision import inference_autocast, prepare_model
from .file import ProposalFileWriter

__all__ = [
    "make_proposal_network",
    "proposals_explained",
    "require_proposal_files",
    "rpn_keys",
    "training_dicts",
    "update_proposals",
    "write_proposals",
]

logger = logging.getLogger(__name__)

# Beginnings of the keys under MODEL that an RPN does not read, or that change nothing for it.
_NOT_OF_THE_RPN = (
    *("DEVICE", "WEIGHTS", "META_ARCHITECTURE", "LOAD_PROPOSALS", "MASK_ON", "KEYPOINT_ON"),
    *("ROI_", "FCIS", "RCNN.", "SEM_SEG_HEAD", "PANOPTIC_FPN", "RETINANET"),
)


def require_proposal_files(cfg: CfgNode, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
    """Check that a config that reads stored proposals names a file for each data set.

    Args:
        cfg: the config. Nothing is checked unless `MODEL.LOAD_PROPOSALS`, or
            `MODEL.PROPOSAL_GENERATOR.NAME` "PrecomputedProposals", which needs it.
        splits: which data sets are read.

    Raises:
        UserError: the two keys contradict each other, the number of files is not that of the data
            sets, or a file is missing.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
            raise UserError(
                "MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals, but MODEL.LOAD_PROPOSALS "
                "is False; set it to True and name the files in DATASETS.PROPOSAL_FILES_TRAIN and "
                "DATASETS.PROPOSAL_FILES_TEST"
            )
        return
    for split in splits:
        names, key = cfg.DATASETS[split], f"DATASETS.PROPOSAL_FILES_{split}"
        files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        if len(files) != len(names):
            raise UserError(
                f"{key}: expected one file for each of the {len(names)} data set(s) of "
                f"DATASETS.{split} ({', '.join(names)}), got {len(files)}. "
                "tools/compute_proposals.py writes them"
            )
        for name, file in zip(names, files, strict=True):
            _warn_of_other_data(name, file)
        missing = [file for file in files if not PathManager.isfile(file)]
        if missing:
            raise UserError(
                f"{key}: file not found: {missing[0]}. tools/compute_proposals.py writes such files"
            )


def _warn_of_other_data(name: str, file: str) -> None:
    """Say so when the recipe beside a proposal file is of another data set than it is read for.

    It may still be right: a part of a data set has a name of its own.
    """
    note = read_json_or_none(os.path.splitext(file)[0] + ".json")
    made_for = note.get("data_set") if isinstance(note, dict) else None
    if made_for not in (None, name):
        logger.warning(
            "The proposals in %s were made for %s and are read for %s. Are they of its images?",
            *(file, made_for, name),
        )


@contextlib.contextmanager
def proposals_explained(cfg: CfgNode, files: Sequence[str]) -> Iterator[None]:
    """Turn what detectron2 raises over a proposal file that does not fit into a `UserError`.

    Args:
        cfg: without `MODEL.LOAD_PROPOSALS` nothing is changed.
        files: those that are read inside the context.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, EOFError, pickle.PickleError) as error:
        if not cfg.MODEL.LOAD_PROPOSALS:
            raise
        cause = str(error)
        if isinstance(error, KeyError):
            key = error.args[0]
            cause = (
                f"it has no {key!r}; expected a dict with ids, boxes and objectness_logits"
                if key in ("ids", "boxes", "objectness_logits")
                else f"it has no proposals for image {key!r}, so it is of other data"
            )
        raise UserError(
            f"proposal file {' or '.join(files)}: does not fit the data ({cause}). Give the file "
            "that was made for this data set; tools/compute_proposals.py makes one"
        ) from error


def training_dicts(cfg: CfgNode) -> list[dict]:
    """Return the training images in detectron2's format, with their proposals if the config asks.

    Raises:
        UserError: see `require_proposal_files` and `proposals_explained`; or no image is left.
    """
    require_proposal_files(cfg, ["TRAIN"])
    files = cfg.DATASETS.PROPOSAL_FILES_TRAIN
    min_keypoints = 0
    if cfg.MODEL.KEYPOINT_ON:
        min_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    try:
        with proposals_explained(cfg, files):
            dicts: list[dict] = get_detection_dataset_dicts(
                cfg.DATASETS.TRAIN,
                filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
                min_keypoints=min_keypoints,
                proposal_files=files if cfg.MODEL.LOAD_PROPOSALS else None,
            )
    except AssertionError as error:
        if "No valid data found" not in str(error):
            raise
        wanted = f"{min_keypoints} labelled keypoint(s)" if min_keypoints else "an annotation"
        raise UserError(
            f"DATASETS.TRAIN: expected images with {wanted} in {', '.join(cfg.DATASETS.TRAIN)}, "
            "got none. Look at the data: python tools/preview_dataset.py"
        ) from error
    return dicts


def write_proposals(cfg: CfgNode, dataset_name: str, topk: int, path: str | os.PathLike) -> None:
    """Run an RPN on a whole data set, at test size and without flips, and store its proposals.

    Args:
        cfg: of a `ProposalNetwork`; `MODEL.WEIGHTS` are the RPN's, and
            `MODEL.RPN.POST_NMS_TOPK_TEST` is at least `topk`.
        dataset_name: a registered name.
        topk: the most proposals per image.
        path: of the file, see `ProposalFileWriter`.

    Raises:
        UserError: the weights do not fit, or the file cannot be written.
    """
    model = prepare_model(cfg, build_model(cfg))
    Checkpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    loader = build_detection_test_loader(cfg, dataset_name)
    with inference_autocast(cfg):
        inference_on_dataset(model, loader, ProposalFileWriter(path, topk))


def make_proposal_network(cfg: CfgNode) -> None:
    """Make of a model's config that of its RPN and the backbone below it, in place."""
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.MASK_ON = False  # so that no masks are drawn
    # A stage that only the heads read, such as FCIS's res5, would cost time, and in training
    # several processes would wait for its gradients.
    if set(cfg.MODEL.RPN.IN_FEATURES) <= set(cfg.MODEL.RESNETS.OUT_FEATURES):
        cfg.MODEL.RESNETS.OUT_FEATURES = list(cfg.MODEL.RPN.IN_FEATURES)


def rpn_keys(cfg: CfgNode) -> dict[str, str]:
    """Return the keys, with their values as json, that decide what an RPN learns and proposes."""
    model = {
        key: json.dumps(value)
        for key, value in flat_config(cfg.MODEL, "MODEL.")
        if not key.removeprefix("MODEL.").startswith(_NOT_OF_THE_RPN)
    }
    keys = ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
    return {**model, **{f"INPUT.{key}": json.dumps(cfg.INPUT[key]) for key in keys}}


def update_proposals(rpn_cfg: CfgNode, cfg: CfgNode) -> dict[str, Any]:
    """Write the proposal files that are missing or not of this RPN.

    Beside each file stands a json, its recipe: what it was made from.

    Args:
        rpn_cfg: of the first stage, whose `OUTPUT_DIR` has `model_final.pth`.
        cfg: of the second stage, which names data sets, files, and how many proposals it reads.

    Returns:
        Data set -> recipe.
    """
    weights = os.path.join(rpn_cfg.OUTPUT_DIR, "model_final.pth")
    checksum = comm.all_gather(file_sha256(weights) if comm.is_main_process() else "")[0]
    recipes: dict[str, Any] = {}
    for split in ("TRAIN", "TEST"):
        job = rpn_cfg.clone()
        job.defrost()
        job.MODEL.WEIGHTS = weights
        if split == "TRAIN":
            job.MODEL.RPN.PRE_NMS_TOPK_TEST = job.MODEL.RPN.PRE_NMS_TOPK_TRAIN
        topk = cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{split}"]
        files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        for name, path in zip(cfg.DATASETS[split], files, strict=True):
            if name in recipes:  # a training set that is tested on, too: one file serves both
                continue
            keys = json.dumps(rpn_keys(job), sort_keys=True).encode()
            recipe = {
                "data_set": name,
                "topk": topk,
                "rpn_weights_sha256": checksum,
                "rpn_config_sha256": hashlib.sha256(keys).hexdigest(),
            }
            recipes[name] = recipe
            _update_file(job, name, topk, path, recipe)
    return recipes


def _update_file(cfg: CfgNode, name: str, topk: int, path: str, recipe: dict[str, Any]) -> None:
    note = os.path.splitext(path)[0] + ".json"
    former = read_json_or_none(note) if os.path.isfile(path) else None
    if comm.all_gather(former == recipe)[0]:
        logger.info("Proposals for %s are there, of this RPN: %s.", name, path)
        return
    why = "which are of another RPN or incomplete" if os.path.isfile(path) else "not there yet"
    logger.info("Writing the proposals for %s, %s: %s.", name, why, path)
    if comm.is_main_process() and os.path.isfile(note):
        os.unlink(note)  # from here on the file is not vouched for
    comm.synchronize()
    write_proposals(cfg, name, topk, path)
    if comm.is_main_process():
        write_json(note, recipe)
    comm.synchronize()
