"""Rules of a recipe for the sizes of images and anchors, and for crowded images.

They follow from the smallest object that the network can find. The finest feature map of an FPN has
one cell for 4 x 4 pixels. An anchor finds an object that it overlaps by half (IoU). With an anchor
of two cells, 8 x 8 pixels, these are objects of 8 / sqrt(2) = 5.7 pixels or more.
"""

import math
import re

import numpy as np

from .facts import DataFacts
from .plan import Plan

__all__ = ["choose_anchors", "choose_for_crowds", "choose_image_size"]

_SMALLEST_OBJECT = 6  # pixels; a size is sqrt(width * height)
_STEP = 32  # pixels: FPN pads images to a multiple of it
_LARGEST_SIZE = {"cpu": 640, "cuda": 1344}  # of the shorter side, unless the config's is larger
_MOST_ENLARGED = 2  # times; enlarging more adds pixels, but no detail
_COVERED = 0.9  # share of the objects for which the config's anchors must be good
_GOOD_IOU = 0.5
_MARGIN = 1.25  # room for more objects than the most crowded training image has
_MOST_DETECTIONS = 1000


def choose_image_size(plan: Plan, facts: DataFacts, device: str) -> None:
    """Choose the sizes of training and test images.

    Args:
        plan: the plan, which is extended.
        facts: the training data.
        device: `"cpu"` or `"cuda"`.
    """
    reference = plan.reference.INPUT
    old, longest = reference.MIN_SIZE_TEST, reference.MAX_SIZE_TEST
    for sizes in (reference, plan.cfg.INPUT):
        if not sizes.MIN_SIZE_TEST or not min(sizes.MIN_SIZE_TRAIN):  # 0: images are not resized
            return
    ratio = longest / old
    size, reason = _find_size(plan, facts, device, ratio)
    if "INPUT.MIN_SIZE_TEST" in plan.given:
        size, reason = plan["INPUT.MIN_SIZE_TEST"], "as your INPUT.MIN_SIZE_TEST"
    elif "INPUT.MIN_SIZE_TRAIN" in plan.given:
        size = round(float(np.median(plan["INPUT.MIN_SIZE_TRAIN"])))
        reason = "as your INPUT.MIN_SIZE_TRAIN"
    train = [_round(short * size / old, 16) for short in reference.MIN_SIZE_TRAIN]
    if reference.MIN_SIZE_TRAIN_SAMPLING == "choice":
        train = sorted(set(train))
    chosen = list(reference.MIN_SIZE_TRAIN) if size == old else train
    relation = old / float(np.median(reference.MIN_SIZE_TRAIN))
    tested = "as in training"
    if size not in chosen:
        tested = f"as many times the size in training as in the config: {relation:.2f}"
    longer = f"as many times the shorter side as in the config: {ratio:.2f}"
    values = {
        "MIN_SIZE_TRAIN": (chosen, reason),
        "MAX_SIZE_TRAIN": (round(reference.MAX_SIZE_TRAIN * size / old), longer),
        "MIN_SIZE_TEST": (size, tested),
        "MAX_SIZE_TEST": (round(longest * size / old), longer),
    }
    for name, choice in values.items():
        plan.choose(f"INPUT.{name}", *choice)


def _find_size(plan: Plan, facts: DataFacts, device: str, ratio: float) -> tuple[int, str]:
    """Return the shorter side of the images, and the reason."""
    old = plan.reference.INPUT.MIN_SIZE_TEST
    typical = float(np.median(facts.image_sizes.min(axis=1)))
    enlarged = max(_round(_MOST_ENLARGED * typical, _STEP), _STEP)
    if enlarged < old:
        return enlarged, (
            f"the images have a shorter side of {typical:.0f}; enlarging them more than "
            f"{_MOST_ENLARGED} times adds no detail"
        )
    limit = min(enlarged, max(old, _LARGEST_SIZE[device]))
    candidates = [old, *range((old // _STEP + 1) * _STEP, limit + 1, _STEP)]
    for size in candidates:
        smallest = _find_small(facts, size, ratio)
        if smallest >= _SMALLEST_OBJECT:
            break
    if size == old:
        return size, (
            f"the config's: 9 of 10 objects have {smallest:.1f} pixels or more; an anchor of two "
            f"cells needs {_SMALLEST_OBJECT}"
        )
    if smallest >= _SMALLEST_OBJECT:
        return size, (
            f"9 of 10 objects then have {smallest:.1f} pixels or more; an anchor of two cells "
            f"needs {_SMALLEST_OBJECT} (in {old}: {_find_small(facts, old, ratio):.1f})"
        )
    bound = (
        f"{_MOST_ENLARGED} times the images' own side of {typical:.0f}"
        if limit == enlarged
        else f"the limit for {'a CPU' if device == 'cpu' else 'a GPU'}"
    )
    return size, (
        f"{bound}; a tenth of the objects is still smaller than {smallest:.1f} pixels. If you "
        "need them, cut the images into tiles"
    )


def _find_small(facts: DataFacts, size: float, ratio: float) -> float:
    """Return the 10th percentile of the sizes, sqrt(area), of the objects after resizing."""
    boxes = facts.scale_boxes(size, size * ratio)
    return float(np.percentile(np.sqrt(boxes.prod(axis=1)), 10))


def _round(value: float, step: int) -> int:
    return max(step * round(value / step), step)


def choose_anchors(plan: Plan, facts: DataFacts) -> None:
    """Choose the shapes of the anchors, as many as in the config, so that all its weights fit."""
    if plan["MODEL.LOAD_PROPOSALS"] or plan["MODEL.PROPOSAL_GENERATOR.NAME"] != "RPN":
        return
    sizes_key = "MODEL.ANCHOR_GENERATOR.SIZES"
    ratios_key = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
    short, boxes = float(np.median(plan["INPUT.MIN_SIZE_TRAIN"])), facts.box_sizes
    if short:
        boxes = facts.scale_boxes(short, plan["INPUT.MAX_SIZE_TRAIN"])
    plan.choose(ratios_key, *_find_ratios(boxes, plan[ratios_key]))
    old = plan[sizes_key]
    ratios = np.unique(np.concatenate([np.asarray(row) for row in plan[ratios_key]]))
    before = _measure_coverage(boxes, old, ratios)
    if before >= _COVERED:
        reason = f"the config's: an anchor overlaps {before:.0%} of the objects by half or more"
        plan.choose(sizes_key, old, reason)
        return
    new = _make_ladder(boxes, old, plan["MODEL.RPN.IN_FEATURES"])
    after = _measure_coverage(boxes, new, ratios)
    low, high = np.percentile(np.sqrt(boxes.prod(axis=1)), (5, 95))
    if after <= before:
        new, reason = old, f"the config's: no even steps do better than its {before:.0%}"
    else:
        reason = (
            f"9 of 10 objects have {low:.0f} to {high:.0f} pixels after resizing: even steps, and "
            f"no anchor under 2 cells of its level. An anchor overlaps {after:.0%} of the objects "
            f"by half or more (before: {before:.0%})"
        )
    plan.choose(sizes_key, new, reason)


def _measure_coverage(boxes: np.ndarray, sizes: list[list[float]], ratios: np.ndarray) -> float:
    """Return the share of boxes (B, 2) that a centred anchor overlaps with an IoU of 0.5."""
    side = np.unique(np.concatenate([np.asarray(row, dtype=float) for row in sizes]))
    heights = (side[:, None] * np.sqrt(ratios)).ravel()
    widths = (side[:, None] / np.sqrt(ratios)).ravel()
    shared = np.minimum(boxes[:, :1], heights) * np.minimum(boxes[:, 1:], widths)
    union = boxes.prod(axis=1)[:, None] + heights * widths - shared
    return float(((shared / union).max(axis=1) >= _GOOD_IOU).mean())


def _make_ladder(
    boxes: np.ndarray, old: list[list[float]], features: list[str]
) -> list[list[float]]:
    """Return even steps from the 5th to the 95th percentile of sizes, in the form of `old`."""
    side = np.sqrt(boxes.prod(axis=1))
    low, high = np.percentile(side, (5, 95))
    steps = iter(np.geomspace(low, high, sum(map(len, old))))
    strides = [_find_stride(name) for name in features]
    if len(old) != len(strides):  # one list for all levels
        strides = [min(strides)] * len(old)
    return [
        [max(round(float(next(steps))), 2 * stride) for _ in row]
        for row, stride in zip(old, strides, strict=True)
    ]


def _find_stride(feature: str) -> int:
    """Return the stride of a feature map by its name, such as `"p2"` or `"res4"`."""
    found = re.fullmatch(r"(?:p|res)(\d)", feature)
    return 2 ** int(found[1]) if found else 4


def _find_ratios(boxes: np.ndarray, old: list[list[float]]) -> tuple[list[list[float]], str]:
    """Return the aspect ratios, height / width, and the reason."""
    ratios = boxes[:, 0] / boxes[:, 1]
    known = np.concatenate([np.asarray(row) for row in old])
    # Two boxes of one area whose ratios differ by 2.25 have an IoU of 1 / (2 * 1.5 - 1) = 0.5.
    factor = ((1 / _GOOD_IOU + 1) / 2) ** 2
    outside = (ratios < known.min() / factor) | (ratios > known.max() * factor)
    share = float(outside.mean())
    if share <= 1 - _COVERED or len(old) != 1:
        return (
            old,
            f"the config's: only {share:.0%} of the objects are too tall or too wide for them",
        )
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    new = np.geomspace(low, high, len(known)) if len(known) > 1 else np.array([middle])
    reason = f"{share:.0%} of the objects are too tall or too wide for the config's"
    return [[float(f"{value:.2g}") for value in new]], reason


def choose_for_crowds(plan: Plan, facts: DataFacts) -> None:
    """Choose how many objects the model can find, and how many proposals it looks at."""
    counts = facts.objects_per_image
    most, typical = int(counts.max()), float(np.median(counts))
    key = "TEST.DETECTIONS_PER_IMAGE"
    old = plan[key]
    wanted = min(50 * math.ceil(_MARGIN * most / 50), _MOST_DETECTIONS)
    if wanted <= old:
        plan.choose(key, old, f"the config's: the most crowded image has {most} objects")
    else:
        reason = f"the most crowded image has {most} objects; a quarter more, in steps of 50"
        plan.choose(key, wanted, reason)
    if plan["MODEL.LOAD_PROPOSALS"] or plan["MODEL.PROPOSAL_GENERATOR.NAME"] != "RPN":
        return
    needed = 2 * min(plan[key], wanted)
    for name, what in (("POST_NMS_TOPK_TEST", "an image"), ("PRE_NMS_TOPK_TEST", "a level")):
        key = f"MODEL.RPN.{name}"
        old = plan[key]
        enough = f"the config's: enough for two proposals per detection in {what}"
        more = f"two proposals per detection in {what}"
        plan.choose(key, max(old, needed), enough if old >= needed else more)
    key = "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
    old, share = plan[key], plan["MODEL.ROI_HEADS.POSITIVE_FRACTION"]
    needed = min(2 ** math.ceil(math.log2(max(typical / share, 1))), 512)
    reason = f"half of the images have up to {typical:.0f} objects; {share:.0%} of the RoIs are"
    if old >= needed:
        reason = f"the config's: {reason} objects, enough for each to be learned"
    else:
        reason = f"{reason} objects, so that each can be learned"
    plan.choose(key, max(old, needed), reason)
