"""The errors where objects meet, on ragged masks, against loops over pixels."""

import math

import numpy as np
import pytest
from reference.overlap import (
    coco_of,
    dataset_of,
    error_values,
    rle,
    spurious_share,
    tight_box,
)

from mask_rcnn_ext.overlap.comparison import Detection
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.overlap_errors import measure_errors


def blob(rng):
    """Return a ragged ellipse."""
    rows, columns = np.mgrid[:48, :48]
    cy, cx = rng.uniform(14, 34, 2)
    ry, rx = rng.uniform(7, 13, 2)
    angle = np.arctan2(rows - cy, columns - cx)
    ragged = 1 + 0.15 * np.sin(rng.integers(2, 9) * angle + rng.uniform(0, 6))
    return ((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 < ragged**2


@pytest.mark.parametrize("seed", range(6))
def test_errors_are_those_of_loops_over_pixels(seed):
    rng = np.random.default_rng(seed)
    shapes = [blob(rng) for _ in range(4)]
    masks = [s & ~np.logical_or.reduce([*shapes[i + 1 :], s & False]) for i, s in enumerate(shapes)]
    masks = [m for m in masks if m.sum() > 30]
    found = [np.roll(m, rng.integers(-2, 3, 2), axis=(0, 1)) for m in masks]
    for prediction in found[:2]:
        x, y, w, _ = tight_box(prediction)
        prediction[: y + 4, : x + w // 2] = False  # a cut corner
    dataset = dataset_of([[{"mask": m} for m in masks]], size=(48, 48))
    truth = coco_of(dataset)
    picture = measure_errors(
        read_image_instances(truth, 1, {1: [Detection(1, 0.5, rle(mask)) for mask in found]})
    )
    # Which prediction is whose is decided by the matching, which other tests check.
    partners = {m.annotation_id - 1: found[m.detection] for m in picture.matches}
    assert len(partners) >= 2
    boxes = [a["bbox"] for a in dataset["annotations"]]
    expected = error_values(masks, boxes, partners)
    for name in ("leak", "miss"):
        values = [getattr(m, name) for m in picture.matches if not math.isnan(getattr(m, name))]
        assert values == pytest.approx(expected[name], abs=1e-12)
    assert picture.means["double_claim"] == pytest.approx(np.mean(expected["double_claim"]))
    for match in picture.matches:
        if not math.isnan(match.spurious_edge):
            i = match.annotation_id - 1
            share = spurious_share(masks, boxes, i, partners[i])
            assert match.spurious_edge == pytest.approx(share, abs=1e-12)
