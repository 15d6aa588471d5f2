"""Reads, checks and writes proposal files in detectron2's format.

detectron2's own loaders unpickle these files, which can run code. Here they are read as safely as
weights, see `checkpoint.safe_pickle`. All loaders of this package get their images from here.
"""

import contextlib
import itertools
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.build import (
    check_metadata_consistency,
    filter_images_with_few_keypoints,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm

from ..checkpoint.fetching import fetch_file
from ..checkpoint.safe_load import load_pickle
from ..data.keypoints import complete_keypoints
from ..errors import UserError, name_some
from ..files import atomic_open, read_json_or_none
from ..layers.rle import check_mask

__all__ = [
    "ProposalFileWriter",
    "keep_best",
    "load_dicts",
    "load_training_dicts",
    "read_proposal_file",
    "require_proposal_files",
    "write_proposal_file",
]

logger = logging.getLogger(__name__)

_MAKE_ONE = "Make such files with mask-rcnn-ext proposals"
# The names in Detectron's files -> the names in detectron2's files.
_OLD_NAMES = {"indexes": "ids", "scores": "objectness_logits"}
_FARTHEST = 1e9  # pixels; sums of coordinates must stay finite in float32
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


def require_proposal_files(cfg: CfgNode, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
    """Check that a config that reads stored proposals names a file for each data set.

    Args:
        cfg: the config. Nothing is checked unless it reads stored proposals
            (`MODEL.LOAD_PROPOSALS`, `MODEL.PROPOSAL_GENERATOR.NAME` "PrecomputedProposals").
        splits: which data sets are read.

    Raises:
        UserError: the two keys contradict each other, the numbers of files and data sets differ, or
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
                f"DATASETS.{split} ({', '.join(names)}), got {len(files)}. {_MAKE_ONE}"
            )
        for name, file in zip(names, files, strict=True):
            _warn_of_other_data(name, file)
            fetch_file(file, _MAKE_ONE, f"{key}: proposal file")


def _warn_of_other_data(name: str, file: str) -> None:
    """Log a warning if a proposal file was made for a data set of another name.

    The file can still be right, for example if the other data set contains this data set.
    """
    note = read_json_or_none(os.path.splitext(file)[0] + ".json")
    made_for = note.get("data_set") if isinstance(note, dict) else None
    if made_for not in (None, name):
        logger.warning(
            "The proposals in %s were made for %s and are read for %s. Do they belong to "
            "its images?",
            *(file, made_for, name),
        )


def read_proposal_file(path: str) -> tuple[dict[str, tuple[Any, Any]], BoxMode]:
    """Return the proposals of each image, checked, and the format of their boxes.

    Args:
        path: a local file, or a URL that detectron2's PathManager knows. It holds a pickled dict:
            `ids`, `boxes`, `objectness_logits` and, if it is not XYXY_ABS, `bbox_mode`.

    Returns:
        Image id as text -> boxes, (N, 4) and finite, and logits, (N,) and finite; and XYXY_ABS or
        XYWH_ABS.

    Raises:
        UserError: the file is not there, could run code, or has other contents.
    """
    local = fetch_file(path, _MAKE_ONE, "proposal file")
    content = load_pickle(local, "proposal file", _MAKE_ONE)
    try:
        return _check_proposals(content)
    except (ValueError, TypeError) as error:
        raise UserError(f"proposal file {path}: {error}. {_MAKE_ONE}") from error


def _check_proposals(content: Any) -> tuple[dict[str, tuple[Any, Any]], BoxMode]:
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a dict, got {type(content).__name__}")
    given = {_OLD_NAMES.get(name, name): value for name, value in content.items()}
    for name in ("ids", "boxes", "objectness_logits"):
        if not isinstance(given.get(name), list | np.ndarray):
            raise ValueError(
                f"it has no {name!r}; expected a dict of lists: ids, boxes and objectness_logits"
            )
    ids, all_boxes, all_logits = given["ids"], given["boxes"], given["objectness_logits"]
    if not len(ids) == len(all_boxes) == len(all_logits):
        raise ValueError(
            f"it has {len(ids)} ids, {len(all_boxes)} arrays of boxes and {len(all_logits)} of "
            "objectness_logits; expected the same number, one for each image"
        )
    mode = given.get("bbox_mode", BoxMode.XYXY_ABS)
    if not isinstance(mode, int | np.integer) or mode not in _MODES:
        plain = isinstance(mode, int | str | np.integer)
        got = repr(mode) if plain else f"a {type(mode).__name__}"
        raise ValueError(f"its bbox_mode is {got}, expected 0 (XYXY_ABS) or 1 (XYWH_ABS)")
    images = zip(ids, all_boxes, all_logits, strict=True)
    found = {}
    for i, boxes, logits in images:
        if not isinstance(i, str | int | np.integer):
            raise ValueError(f"it has an id of type {type(i).__name__}, expected a number or text")
        found[str(i)] = _check_image(i, boxes, logits)
    return found, BoxMode(mode)


def _check_image(image_id: object, boxes: Any, logits: Any) -> tuple[Any, Any]:
    for values in (boxes, logits):
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise ValueError(f"image {image_id!r} has no arrays of numbers")
        if not (abs(values.astype(np.float64)) <= _FARTHEST).all():  # not NaN either
            raise ValueError(f"image {image_id!r} has numbers that are not finite, or beyond 1e9")
    if not boxes.size:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (logits.size, 4) or logits.ndim != 1:
        raise ValueError(
            f"image {image_id!r} has boxes of shape {boxes.shape} and objectness_logits of shape "
            f"{logits.shape}, expected (N, 4) and (N,)"
        )
    return boxes, logits


def _add_proposals(dicts: list[dict[str, Any]], path: str) -> None:
    """Add the proposals of a file to the dicts of the images, best first, as detectron2 does."""
    found, mode = read_proposal_file(path)
    missing = [str(image["image_id"]) for image in dicts if str(image["image_id"]) not in found]
    if missing:
        raise UserError(
            f"proposal file {path}: does not fit the data (it has no proposals for image "
            f"{name_some(list(map(repr, missing)))}). Give the file that was made for this data "
            f"set. {_MAKE_ONE}"
        )
    for image in dicts:
        boxes, logits = found[str(image["image_id"])]
        order = logits.argsort()[::-1]
        image["proposal_boxes"] = boxes[order]
        image["proposal_objectness_logits"] = logits[order]
        image["proposal_bbox_mode"] = mode


def _load_checked(names: Sequence[str], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the images of data sets; raise UserError if pycocotools could crash on a mask."""
    where = f"data set {' or '.join(names)}"
    try:
        dicts: list[dict[str, Any]] = get_detection_dataset_dicts(names, **options)
    except OverflowError as error:  # from pycocotools, which turns lists of counts into bytes
        raise UserError(f"{where}: an RLE has counts that no image has ({error})") from error
    for image in dicts if isinstance(dicts, list) else ():
        for annotation in image.get("annotations", ()):
            mask = annotation.get("segmentation")
            if not isinstance(mask, list | dict) or not mask or "height" not in image:
                continue
            try:
                check_mask(mask, image["height"], image["width"])
            except ValueError as error:
                raise UserError(
                    f"{where}: image {image.get('image_id')!r} ({image.get('file_name')}) has a "
                    f"broken mask: {error}. Correct it in the annotations, or give them with "
                    "--train-json, which drops such objects"
                ) from error
    return dicts


def load_dicts(
    cfg: CfgNode, split: str, names: Sequence[str], **options: Any
) -> list[dict[str, Any]]:
    """Return the images of data sets as detectron2's dicts; add proposals if the config reads any.

    Args:
        cfg: the config.
        split: "TRAIN" or "TEST".
        names: data sets of `DATASETS.<split>`.
        options: see detectron2's `get_detection_dataset_dicts`.

    Raises:
        UserError: see `read_proposal_file`; a file has no proposals for an image; or pycocotools
            could not read a mask, see `check_mask`.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return _load_checked(names, options)
    dicts = []
    with contextlib.suppress(AttributeError):  # data without class names
        check_metadata_consistency("thing_classes", names)
    for name in names:
        images = _load_checked([name], options)
        place = list(cfg.DATASETS[split]).index(name)
        _add_proposals(images, cfg.DATASETS[f"PROPOSAL_FILES_{split}"][place])
        dicts += images
    return dicts


def load_training_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """Return the training images as detectron2's dicts, with proposals if the config reads them.

    If the model has keypoints, objects without keypoints get unlabelled keypoints.

    Raises:
        UserError: see `require_proposal_files`, `load_dicts` and `complete_keypoints`; or no image
            is left, or no keypoint is labelled.
    """
    require_proposal_files(cfg, ["TRAIN"])
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    try:
        dicts = load_dicts(
            cfg,
            "TRAIN",
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        )
    except AssertionError as error:
        if "No valid data found" not in str(error):
            raise
        dicts = []
    wanted = "an annotation"
    if cfg.MODEL.KEYPOINT_ON:
        # First complete the keypoints: detectron2's filter cannot read objects without keypoints.
        dicts = complete_keypoints(dicts, head.NUM_KEYPOINTS)
        if not any(max(a["keypoints"][2::3]) > 0 for d in dicts for a in d["annotations"]):
            dicts = []
        elif head.MIN_KEYPOINTS_PER_IMAGE > 0:
            dicts = filter_images_with_few_keypoints(dicts, head.MIN_KEYPOINTS_PER_IMAGE)
        wanted = f"{max(head.MIN_KEYPOINTS_PER_IMAGE, 1)} labelled keypoint(s)"
    if not dicts:
        raise UserError(
            f"DATASETS.TRAIN: expected images with {wanted} in {', '.join(cfg.DATASETS.TRAIN)}, "
            "got none. Look at the data: mask-rcnn-ext preview"
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
        # detectron2's ids of PASCAL VOC are NumPy texts, which `read_proposal_file` does not read.
        "ids": [each.item() if isinstance(each, np.generic) else each for each in ids],
        "boxes": list(boxes),
        "objectness_logits": list(logits),
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    with atomic_open(path) as file:
        pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)


class ProposalFileWriter(DatasetEvaluator):
    """Writes the best proposals of all images to a file, see `write_proposal_file`.

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
