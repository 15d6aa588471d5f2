"""Proposals for single images, of models that have no RPN: what `Predictor` gives such a model."""

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

from ..errors import UserError
from ..files import read_json_or_none
from .selective_search import MODES, require_selective_search, selective_search
from .stored import require_proposal_files

__all__ = ["ImagePropose", "image_proposals", "require_propose", "searching"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

# An image, (H, W, 3) uint8 BGR -> boxes, (N, 4) XYXY in its pixels, and their scores, (N,).
ImagePropose = Callable[[npt.NDArray[np.uint8]], tuple[Floats, Floats]]

_TOPK = 2000  # that tools/compute_proposals.py stores of an image unless told otherwise


def require_propose(cfg: CfgNode, given: bool) -> None:
    """Check that proposals come from outside exactly when the model needs them.

    Args:
        cfg: of the model.
        given: whether something proposes.

    Raises:
        UserError: it is missing or too much. Where the model's test proposals are of selective
            search, and their recipe is beside them, the message has its options.
    """
    require_proposal_files(cfg, ())
    if given == cfg.MODEL.LOAD_PROPOSALS:
        return
    if given:
        raise UserError(
            "proposals are given (--selective-search, propose=), but the model finds its own: "
            "MODEL.LOAD_PROPOSALS is False. Leave them out"
        )
    recipe, note = _recipe(cfg)
    advice = (
        "Add --selective-search MODE to tools/predict.py, with the settings of the proposals that "
        "it was trained on, or in Python propose=FUNCTION"
    )
    if recipe.get("method") == "selective-search":
        advice += f". Those that it is tested on had {_options(recipe)} ({note})"
    elif recipe:
        advice += f". Those that it is tested on are of an RPN ({note}), so a search's fit less"
    raise UserError(
        f"MODEL.LOAD_PROPOSALS: the model has no RPN, so it needs proposals for an image. {advice}"
    )


def image_proposals(
    propose: ImagePropose,
    image: npt.NDArray[np.uint8],
    resized: tuple[int, int],
    transform: Transform,
    topk: int,
) -> Instances:
    """Return the proposals of one image as detectron2's mapper makes them of stored ones.

    Args:
        propose: gives boxes and scores.
        image: (H, W, 3), BGR, before it is resized.
        resized: (H', W') of the model's input.
        transform: from `image` to that.
        topk: the most that are kept, those with the highest scores.

    Returns:
        `proposal_boxes`, XYXY_ABS in pixels of the input, inside it, and `objectness_logits`.

    Raises:
        UserError: `propose` gave something else, or numbers that are not finite.
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


def searching(
    cfg: CfgNode, *, mode: str = "fast", width: int = 0, min_size: int = 5
) -> ImagePropose:
    """Return what proposes by selective search, see `data.selective_search`.

    The defaults are those of `tools/compute_proposals.py`. The boxes are those of the same image in
    a data set, but their order, which is partly random, is that of an image with the id 0. It
    decides which are kept where the search finds too many, and which of two wins in NMS that
    RoIPool rounds to one. Settings other than those of the model's stored test proposals, as far as
    their recipe is there, are told in the log.

    Args:
        cfg: of the model.
        mode: of the search.
        width: in pixels, that an image is resized to before; 0: as it is.
        min_size: in pixels of the searched image; boxes with a shorter side are dropped.

    Raises:
        UserError: a value cannot be, or the installed OpenCV has no selective search.
    """
    if mode not in MODES:
        raise UserError(f"--selective-search: expected {', '.join(MODES)}, got {mode!r}")
    for option, value in (("width", width), ("min-size", min_size)):
        if value < 0:
            raise UserError(f"--search-{option}: expected 0 or more, got {value}")
    require_selective_search()
    settings = {"mode": mode, "width": width, "min_size": min_size}
    recipe, note = _recipe(cfg)
    topk = _TOPK
    if recipe.get("method") == "selective-search":
        topk = recipe["topk"]
        if _options(recipe) != _options(settings):
            logger.warning(
                "The proposals that the model is tested on (%s) had other settings: %s",
                *(note, _options(recipe)),
            )

    def propose(image: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        boxes = selective_search(
            np.ascontiguousarray(image), mode=mode, width=width, min_size=min_size, topk=topk
        )
        return boxes, -np.arange(len(boxes), dtype=np.float32)

    return propose


def _recipe(cfg: CfgNode) -> tuple[dict[str, Any], str]:
    """Return what the json beside the first file of test proposals says, and the path of the json.

    The first is empty where there is no such file, or it is of no use.
    """
    for file in cfg.DATASETS.PROPOSAL_FILES_TEST[:1]:
        note = os.path.splitext(file)[0] + ".json"
        recipe = read_json_or_none(note)
        searched = ("method", "mode", "width", "min_size", "topk")
        if isinstance(recipe, dict) and (
            "rpn_weights_sha256" in recipe or all(key in recipe for key in searched)
        ):
            return recipe, note
    return {}, ""


def _options(settings: dict[str, Any]) -> str:
    """Return settings of the search as `tools/predict.py` takes them."""
    return (
        f"--selective-search {settings['mode']} --search-width {settings['width']} "
        f"--search-min-size {settings['min_size']}"
    )
