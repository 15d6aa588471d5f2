"""Proposals for single images, with which `Predictor` runs a model without an RPN."""

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.config import CfgNode
from detectron2.data.detection_utils import transform_proposals
from detectron2.structures import BoxMode, Instances
from fvcore.transforms.transform import Transform

from ..arrays import Floats32
from ..errors import UserError, require_choice, require_range
from ..files import read_json_or_none
from .file import require_proposal_files
from .selective_search import MODES, require_selective_search, selective_search

__all__ = ["ImagePropose", "Search", "make_search", "propose_boxes", "require_propose"]

logger = logging.getLogger(__name__)


# An image, (H, W, 3) uint8 BGR -> boxes, (N, 4) XYXY in its pixels, and their scores, (N,).
ImagePropose = Callable[[npt.NDArray[np.uint8]], tuple[Floats32, Floats32]]

_TOPK = 2000  # the default of tools/compute_proposals.py


@dataclasses.dataclass(frozen=True)
class Search:
    """An `ImagePropose` by selective search; the attributes are those of `selective_search`."""

    mode: str
    width: int
    min_size: int
    topk: int

    def __call__(self, image: npt.NDArray[np.uint8]) -> tuple[Floats32, Floats32]:
        """Return the boxes of an image, (H, W, 3) uint8 BGR, and their scores."""
        boxes = selective_search(np.ascontiguousarray(image), **dataclasses.asdict(self))
        return boxes, -np.arange(len(boxes), dtype=np.float32)


def require_propose(cfg: CfgNode, given: bool) -> None:
    """Check that a function that proposes boxes is given if, and only if, the model needs one.

    Args:
        cfg: the config of the model.
        given: such a function is given.

    Raises:
        UserError: the function is missing, or the model does not need it. If the model's test
            proposals come from selective search, the message has its options if they are known.
    """
    require_proposal_files(cfg, ())
    if given == cfg.MODEL.LOAD_PROPOSALS:
        return
    if given:
        raise UserError(
            "proposals are given (--selective-search, propose=), but the model makes its own: "
            "MODEL.LOAD_PROPOSALS is False. Leave the option out"
        )
    stored, note = _read_settings(cfg)
    advice = (
        "Add --selective-search MODE to mask-rcnn-ext predict, with the settings of the training "
        "proposals, or in Python propose=FUNCTION"
    )
    if stored.get("method") == "selective-search":
        advice += f". Its test proposals were made with {_format_options(stored)} ({note})"
    elif stored:
        advice += f". Its test proposals come from an RPN ({note}), so a search fits it less well"
    raise UserError(
        f"MODEL.LOAD_PROPOSALS: the model has no RPN, so it needs proposals for an image. {advice}"
    )


def propose_boxes(
    propose: ImagePropose,
    image: npt.NDArray[np.uint8],
    resized: tuple[int, int],
    transform: Transform,
    topk: int,
) -> Instances:
    """Return the proposals of one image in the form of detectron2's mapper.

    Args:
        propose: the function that proposes boxes and scores.
        image: (H, W, 3), BGR, before resizing.
        resized: (H', W'), the size of the model's input.
        transform: the transform from `image` to the model's input.
        topk: the highest number of proposals; the proposals with the highest scores are kept.

    Returns:
        `proposal_boxes`, XYXY_ABS in pixels of the input, inside the input, and
        `objectness_logits`.

    Raises:
        UserError: `propose` returned arrays of another shape, or numbers that are not finite.
    """
    boxes, logits = (np.asarray(each, dtype=np.float32) for each in propose(image))
    if boxes.size == logits.size == 0:
        boxes, logits = boxes.reshape(0, 4), logits.reshape(0)
    if logits.ndim != 1 or boxes.shape != (len(logits), 4):
        raise UserError(
            f"propose: expected boxes (N, 4) and logits (N,), got {boxes.shape} and {logits.shape}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
        raise UserError("propose: expected finite boxes and logits, got NaN or infinity")
    best_first = np.argsort(-logits, kind="stable")
    record: dict[str, Any] = {
        "proposal_boxes": boxes[best_first],
        "proposal_objectness_logits": logits[best_first],
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }
    transform_proposals(record, resized, transform, proposal_topk=topk)
    proposals: Instances = record["proposals"]
    return proposals


def make_search(cfg: CfgNode, *, mode: str = "fast", width: int = 0, min_size: int = 5) -> Search:
    """Return a function that proposes boxes by selective search, see `selective_search`.

    The defaults are the defaults of `tools/compute_proposals.py`. For an image of a data set the
    boxes are the same as the stored boxes, but their order can differ: it is partly random, and
    here it is always the order of an image with the id 0. The order decides which boxes are kept if
    there are too many, and which of two boxes wins in NMS if RoIPool rounds both to the same box.

    A warning is logged if the model's test proposals were made with other settings.

    Args:
        cfg: the config of the model.
        mode: the mode of the search.
        width: the width in pixels that an image is resized to before the search. 0: not resized.
        min_size: boxes with a shorter side, in pixels of the resized image, are dropped.

    Raises:
        UserError: a value is out of range, or the installed OpenCV has no selective search.
    """
    require_choice("--selective-search", mode, MODES)
    require_range("--search-width", width, 0)
    require_range("--search-min-size", min_size, 0)
    require_selective_search()
    settings = {"mode": mode, "width": width, "min_size": min_size}
    stored, note = _read_settings(cfg)
    topk = _TOPK
    if stored.get("method") == "selective-search":
        topk = stored["topk"]
        if _format_options(stored) != _format_options(settings):
            logger.warning(
                "The model's test proposals (%s) had other settings: %s",
                *(note, _format_options(stored)),
            )
    return Search(mode, width, min_size, topk)


def _read_settings(cfg: CfgNode) -> tuple[dict[str, Any], str]:
    """Return how the first file of test proposals was made, and the json file that says so.

    Both are empty if there is no such json, or if its method is unknown.
    """
    for file in cfg.DATASETS.PROPOSAL_FILES_TEST[:1]:
        note = os.path.splitext(file)[0] + ".json"
        stored = read_json_or_none(note)
        searched = ("method", "mode", "width", "min_size", "topk")
        if isinstance(stored, dict) and (
            "rpn_weights_sha256" in stored or all(key in stored for key in searched)
        ):
            return stored, note
    return {}, ""


def _format_options(settings: dict[str, Any]) -> str:
    """Return the settings of a search as options of `tools/predict.py`."""
    return (
        f"--selective-search {settings['mode']} --search-width {settings['width']} "
        f"--search-min-size {settings['min_size']}"
    )
