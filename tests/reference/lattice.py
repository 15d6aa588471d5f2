"""Slow, obvious version of the lattice share: crack by crack, line by line, phase by phase."""

import math

import numpy as np

from .overlap import cracks

PHASES = 1000  # the chance is an average over a grid of as many


def spurious_cracks(masks: list[np.ndarray], boxes: list, index: int, found: np.ndarray) -> list:
    """Return the midpoints of the spurious cracks of `found`, matched with `masks[index]`.

    Boxes are XYWH.
    """
    x, y, w, h = boxes[index]
    distance = max(2.0, 0.02 * math.hypot(w, h))
    truth = set().union(*(cracks(mask) for mask in masks))
    spurious = []
    for px, py in cracks(found):
        contested = any(
            max(x, a) <= px <= min(x + w, a + c) and max(y, b) <= py <= min(y + h, b + d)
            for j, (a, b, c, d) in enumerate(boxes)
            if j != index and max(x, a) < min(x + w, a + c) and max(y, b) < min(y + h, b + d)
        )
        if contested and all(math.hypot(px - tx, py - ty) > distance for tx, ty in truth):
            spurious.append((px, py))
    return spurious


def box_overlap(boxes: list, index: int) -> float:
    """Return the largest IoU of a box, XYWH, with another."""
    x, y, w, h = boxes[index]
    best = 0.0
    for j, (a, b, c, d) in enumerate(boxes):
        across = min(x + w, a + c) - max(x, a)
        down = min(y + h, b + d) - max(y, b)
        if j != index and across > 0 and down > 0:
            best = max(best, across * down / (w * h + c * d - across * down))
    return best


def within(place: float, lines: list[float]) -> bool:
    return any(abs(place - line) <= 0.5 + 1e-9 for line in lines)


def lattice_sums(
    masks: list[np.ndarray], boxes: list, found: dict, k: int, side: int
) -> dict[str, float]:
    """Return the sums of one image by the letter.

    `found` has the prediction of each matched object and its RoI, XYWH like the boxes; `side` is
    that of the grid in cells.
    """
    sums = dict.fromkeys(("cracks", "on", "expected", "dense_on", "dense_off"), 0.0)
    counts = dict.fromkeys(("rois", "narrow", "narrow_cells", "left_out"), 0)
    for index, (prediction, roi) in found.items():
        if box_overlap(boxes, index) < 0.05:
            continue
        spurious = spurious_cracks(masks, boxes, index, prediction)
        counts["rois"] += 1
        for axis in (0, 1):
            low, extent = roi[axis], roi[2 + axis]
            # The sides of pixels have whole x when they are vertical, whole y when horizontal.
            places = [point[axis] for point in spurious if point[axis] % 1 == 0]
            if extent / k < 2:
                counts["narrow"] += 1
                counts["left_out"] += len(places)
                continue
            lattice = [low + g * extent / k for g in range(1, k)]
            # Sides of cells: lattice lines whose two neighbours are not beside the RoI's sides.
            compared = [m * side // k for m in range(1, k) if 2 < m * side // k < side - 2]
            cells = {m: low + m * extent / side for m in range(side + 1)}
            shifts = [((i + 0.5) / PHASES - 0.5) * extent / k for i in range(PHASES)]
            chances: dict[float, float] = {}
            dense = extent > side
            counts["narrow_cells"] += not dense
            for place in places:
                if place not in chances:
                    hits = [within(place, [line + s for line in lattice]) for s in shifts]
                    chances[place] = sum(hits) / PHASES
                sums["cracks"] += 1
                sums["on"] += within(place, lattice)
                sums["expected"] += chances[place]
                if dense:
                    for m in compared:
                        sums["dense_on"] += within(place, [cells[m]])
                        sums["dense_off"] += within(place, [cells[m - 1]]) / 2
                        sums["dense_off"] += within(place, [cells[m + 1]]) / 2
    return {**sums, **counts}
