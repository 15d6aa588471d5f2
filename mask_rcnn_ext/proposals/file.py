"""Proposal files in detectron2's format: checked, read by detectron2's loaders, and written.

detectron2 unpickles these files, which can run code: use files of your own, or of a source that you
trust, such as detectron2's model zoo.
"""

import contextlib
import itertools
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..data.keypoints import complete_keypoints
from ..errors import UserError
from ..files import atomic_open, read_json_or_none

__all__ = [
    "ProposalFileWriter",
    "explain_proposal_errors",
    "keep_best",
    "load_training_dicts",
    "require_proposal_files",
    "write_proposal_file",
]

logger = logging.getLogger(__name__)


def require_proposal_files(cfg: CfgNode, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
    """Check that a config that reads stored proposals names a file for each data set.

    Args:
        cfg: the config. Nothing is checked unless it reads stored proposals
            (`MODEL.LOAD_PROPOSALS`, `MODEL.PROPOSAL_GENERATOR.NAME` "PrecomputedProposals").
        splits: which data sets are read.

    Raises:
        UserError: the two keys contradict each other, there are not as many files as data sets, or
            a file is missing.
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
    """Log a warning if a proposal file was made for a data set of another name.

    The file can still be right, for example if the other data set contains this one.
    """
    note = read_json_or_none(os.path.splitext(file)[0] + ".json")
    made_for = note.get("data_set") if isinstance(note, dict) else None
    if made_for not in (None, name):
        logger.warning(
            "The proposals in %s were made for %s and are read for %s. Are they of its images?",
            *(file, made_for, name),
        )


@contextlib.contextmanager
def explain_proposal_errors(cfg: CfgNode, files: Sequence[str]) -> Iterator[None]:
    """Turn detectron2's exceptions about a proposal file into a `UserError` that names the file.

    Args:
        cfg: the config. Without `MODEL.LOAD_PROPOSALS`, exceptions are left as they are.
        files: the proposal files that are read inside the context.
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


def load_training_dicts(cfg: CfgNode) -> list[dict]:
    """Return the training images as detectron2's dicts, with proposals if the config reads them.

    In a model with keypoints, objects without keypoints get unlabelled ones.

    Raises:
        UserError: see `require_proposal_files`, `explain_proposal_errors` and
            `complete_keypoints`; or no image is left, or no keypoint is labelled.
    """
    require_proposal_files(cfg, ["TRAIN"])
    files = cfg.DATASETS.PROPOSAL_FILES_TRAIN
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    try:
        with explain_proposal_errors(cfg, files):
            dicts: list[dict] = get_detection_dataset_dicts(
                cfg.DATASETS.TRAIN,
                filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
                proposal_files=files if cfg.MODEL.LOAD_PROPOSALS else None,
            )
    except AssertionError as error:
        if "No valid data found" not in str(error):
            raise
        dicts = []
    wanted = "an annotation"
    if cfg.MODEL.KEYPOINT_ON:
        # detectron2's own filter cannot read objects without keypoints, so they come first.
        dicts = complete_keypoints(dicts, head.NUM_KEYPOINTS)
        if not any(max(a["keypoints"][2::3]) > 0 for d in dicts for a in d["annotations"]):
            dicts = []
        elif head.MIN_KEYPOINTS_PER_IMAGE > 0:
            dicts = filter_images_with_few_keypoints(dicts, head.MIN_KEYPOINTS_PER_IMAGE)
        wanted = f"{max(head.MIN_KEYPOINTS_PER_IMAGE, 1)} labelled keypoint(s)"
    if not dicts:
        raise UserError(
            f"DATASETS.TRAIN: expected images with {wanted} in {', '.join(cfg.DATASETS.TRAIN)}, "
            "got none. Look at the data: python tools/preview_dataset.py"
        )
    return dicts


def keep_best(proposals: Instances, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best proposals of an image, best first.

    Args:
        proposals: `proposal_boxes`, XYXY in pixels of the original image, and `objectness_logits`,
            on any device.
        topk: the highest number of proposals to return.

    Returns:
        Boxes, (N, 4), and logits, (N,) and descending, both float32.
    """
    logits = proposals.objectness_logits.float()
    order = logits.argsort(descending=True, stable=True)[:topk]
    boxes = proposals.proposal_boxes.tensor.float()[order]
    return boxes.cpu().numpy(), logits[order].cpu().numpy()


def write_proposal_file(
    path: str | os.PathLike[str],
    ids: Sequence[Any],
    boxes: Sequence[np.ndarray],
    logits: Sequence[np.ndarray],
) -> None:
    """Write a proposal file atomically.

    The file is a pickled dict with `ids`, `boxes`, `objectness_logits` and `bbox_mode`, for
    `DATASETS.PROPOSAL_FILES_TRAIN` and `PROPOSAL_FILES_TEST`.

    Args:
        path: the file to write; its folder is made if missing.
        ids: the ids of the images.
        boxes: one array per image, (N, 4) float32, XYXY in pixels of the original image.
        logits: one array per image, (N,) float32, descending.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "ids": list(ids),
        "boxes": list(boxes),
        "objectness_logits": list(logits),
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    with atomic_open(path) as file:
        pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)


class ProposalFileWriter(DatasetEvaluator):
    """Writes the best proposals of every image to one file, see `write_proposal_file`.

    All proposals stay in memory until the main process writes them: 20 bytes per proposal, 4.7 GB
    for 2000 proposals on each image of COCO's training set.

    Args:
        path: the file to write; its folder is made if missing.
        topk: the highest number of proposals per image.
    """

    def __init__(self, path: str | os.PathLike[str], topk: int) -> None:
        self.path, self.topk = path, topk
        self._found: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def reset(self) -> None:
        """Forget the images processed so far."""
        self._found = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep the best `proposals` of each output of a `ProposalNetwork`."""
        for image, output in zip(inputs, outputs, strict=True):
            boxes, logits = keep_best(output["proposals"], self.topk)
            self._found.append((image["image_id"], boxes, logits))

    def evaluate(self) -> dict[str, Any]:
        """Write the file; there are no metrics to return."""
        gathered = comm.gather(self._found, dst=0)
        if comm.is_main_process():
            # With more processes than images, several processes may get the same image.
            found = {str(image[0]): image for image in itertools.chain(*gathered)}.values()
            ids, boxes, logits = ([image[i] for image in found] for i in range(3))
            write_proposal_file(self.path, ids, boxes, logits)
        comm.synchronize()
        return {}
