"""AP of masks, of boundaries and by overlap level, against pycocotools and slow references."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from reference.overlap import SIDE, boundary, boundary_iou, coco_of, ellipse, rle, scenes
from support import REPO

from mask_rcnn_ext.overlap.boundary import boundary_iou as fast_boundary_iou
from mask_rcnn_ext.overlap.boundary import compute_boundary_distance, find_boundary
from mask_rcnn_ext.overlap.comparison import (
    Detection,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from mask_rcnn_ext.overlap.crops import count_common_pixels, decode_crop
from mask_rcnn_ext.overlap.matching import LEVELS, assign_levels

FIXTURES = REPO.parent / "shared/data/eval_fixtures"


@pytest.fixture
def files(tmp_path):
    dataset, found = scenes(0)
    worse = scenes(0)[1][::2]
    paths = [tmp_path / name for name in ("truth.json", "a.json", "b.json")]
    for path, content in zip(paths, (dataset, found, worse), strict=True):
        path.write_text(json.dumps(content))
    return paths


def official(dataset, results, *, ious=None, areas=None):
    """Return pycocotools' (AP, AP50, AP75), in 0 to 100; NaN for -1.

    `ious` replaces the mask IoUs; `areas` is (range, areas of objects, areas of detections).
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(dataset)
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(coco, found, "segm")
        if areas:
            span, of_objects, of_detections = areas
            for annotation, area in zip(coco.dataset["annotations"], of_objects, strict=True):
                annotation["area"] = area
            for annotation, area in zip(found.dataset["annotations"], of_detections, strict=True):
                annotation["area"] = area
            evaluation.params.areaRng = [span] * 4
        if ious:
            evaluation.computeIoU = lambda image, category: ious(evaluation, image, category)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * v if v >= 0 else np.nan for v in evaluation.stats[:3]]


def loaded(files, which=1):
    truth = load_truth(files[0])
    return truth, load_results(files[which], truth)


def test_mask_ap_is_that_of_pycocotools(files):
    dataset, results = (json.loads(path.read_text()) for path in files[:2])
    ap = compute_metrics(measure(*loaded(files)))["AP"]
    expected = official(dataset, results)
    assert 10 < expected[0] < 90
    assert list(ap.values()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(1, 4))
def test_boundary_ap_is_that_of_a_slow_reference(seed):
    """The IoUs come from masks that are peeled pixel by pixel, the AP from pycocotools."""
    dataset, results = scenes(seed)
    distance = compute_boundary_distance(SIDE, SIDE)
    assert distance == 1

    def ious(evaluation, image, category):
        truths = evaluation._gts[image, category]
        found = evaluation._dts[image, category]
        found = [found[i] for i in np.argsort([-d["score"] for d in found], kind="mergesort")]
        if not truths or not found:
            return []
        mask_ious = COCOeval.computeIoU(evaluation, image, category)
        for row, detection in enumerate(found):
            for column, truth in enumerate(truths):
                if not truth["iscrowd"]:
                    a, b = (evaluation.cocoGt.annToMask(x).astype(bool) for x in (truth, detection))
                    mask_ious[row, column] = min(
                        mask_ious[row, column], boundary_iou(a, b, distance)
                    )
        return mask_ious

    expected = official(dataset, results, ious=ious)
    truth = coco_of(dataset)
    found = {}
    for r in results:
        mask = {**r["segmentation"], "counts": r["segmentation"]["counts"].encode()}
        found.setdefault(r["image_id"], []).append(Detection(r["category_id"], r["score"], mask))
    summary = compute_metrics(measure(truth, found))
    assert list(summary["boundary"].values()) == pytest.approx(expected, rel=1e-12)
    assert summary["boundary"]["AP"] < summary["AP"]["AP"] - 1


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_boundaries_are_those_of_masks_peeled_pixel_by_pixel(distance):
    rng = np.random.default_rng(distance)
    for _ in range(4):
        first, second = ellipse(rng), ellipse(rng)
        second[:, :3] |= first[:, :3] | True  # reaches the frame of the image
        crops = [find_boundary(decode_crop(rle(m)), distance) for m in (first, second)]
        whole = slice(0, SIDE)
        for crop, mask in zip(crops, (first, second), strict=True):
            np.testing.assert_array_equal(crop.cut(whole, whole), boundary(mask, distance))
        assert fast_boundary_iou(*crops) == pytest.approx(boundary_iou(first, second, distance))
        a, b = (decode_crop(rle(m)) for m in (first, second))
        assert count_common_pixels(a, b) == (first & second).sum()


def test_the_boundary_is_2_percent_of_the_diagonal_wide():
    assert compute_boundary_distance(480, 640) == 16
    assert compute_boundary_distance(160, 160) == 5  # 4.5 pixels
    assert compute_boundary_distance(10, 10) == 1


def test_an_empty_mask_has_no_boundary():
    nothing = decode_crop(rle(np.zeros((SIDE, SIDE), dtype=bool)))
    assert find_boundary(nothing, 2).area == 0
    assert fast_boundary_iou(find_boundary(nothing, 2), find_boundary(nothing, 2)) == 0


def box_iou(first, second):
    """IoU of XYWH boxes."""
    (x, y, w, h), (a, b, c, d) = first, second
    width, height = min(x + w, a + c) - max(x, a), min(y + h, b + d) - max(y, b)
    common = max(width, 0) * max(height, 0)
    return common / (w * h + c * d - common)


def expected_levels(dataset, results, same):
    """Return the level of each object (-1 for crowds), and of each detection, -1 for all levels."""
    from pycocotools import mask as mask_util

    truths, of_objects, of_detections = dataset["annotations"], [], []
    for a in truths:
        others = [
            box_iou(a["bbox"], b["bbox"])
            for b in truths
            if b is not a
            and b["image_id"] == a["image_id"]
            and not b["iscrowd"]
            and (not same or b["category_id"] == a["category_id"])
        ]
        overlap = max(others, default=0)
        level = 0 if overlap < 0.05 else 1 if overlap < 0.3 else 2
        of_objects.append(-1 if a["iscrowd"] else level)
    for r in results:
        segmentation = r["segmentation"]
        box = mask_util.toBbox({**segmentation, "counts": segmentation["counts"].encode()})
        ious = [
            (box_iou(box, a["bbox"]), -index)
            for index, a in enumerate(truths)
            if a["image_id"] == r["image_id"]
            and a["category_id"] == r["category_id"]
            and not a["iscrowd"]
        ]
        best = max(ious, default=(0, 0))
        of_detections.append(of_objects[-best[1]] if best[0] >= 0.1 else -1)
    return of_objects, of_detections


@pytest.mark.parametrize("task", ["overlap", "overlap_same"])
@pytest.mark.parametrize("seed", range(3))
def test_ap_by_level_is_that_of_pycocotools_with_levels_as_areas(seed, task):
    """pycocotools ignores objects outside of an area range, and what is unmatched outside of it."""
    dataset, results = scenes(seed, images=14)
    of_objects, of_detections = expected_levels(dataset, results, task == "overlap_same")
    found = {}
    for r in results:
        mask = {**r["segmentation"], "counts": r["segmentation"]["counts"].encode()}
        found.setdefault(r["image_id"], []).append(Detection(r["category_id"], r["score"], mask))
    summary = compute_metrics(measure(coco_of(dataset), found))
    seen = 0
    for index, level in enumerate(LEVELS):
        detections = [index if d < 0 else d for d in of_detections]
        expected = official(dataset, results, areas=([index, index], of_objects, detections))
        ours = [summary[task][f"{name}_{level}"] for name in ("AP", "AP50", "AP75")]
        assert ours == pytest.approx(expected, rel=1e-12, nan_ok=True)
        seen += of_objects.count(index) > 2
        prefix = "objects" if task == "overlap" else "objects_same"
        assert summary["counts"][f"{prefix}_{level}"] == of_objects.count(index)
    assert seen >= 2
    drop = summary[task]["AP_none"] - summary[task]["AP_heavy"]
    assert summary[task]["AP_drop"] == pytest.approx(drop, nan_ok=True)


def test_levels_begin_at_their_bound():
    overlaps = np.array([0, 0.0499, 0.05, 0.2999, 0.3, 1])
    assert assign_levels(overlaps).tolist() == [0, 0, 1, 1, 2, 2]


def test_only_the_best_hundred_of_a_class_count(files):
    truth, found = loaded(files)
    full = compute_metrics(measure(truth, found))
    one = compute_metrics(measure(truth, found, max_detections=1))
    assert one["counts"]["detections"] < full["counts"]["detections"]
    assert one["AP"]["AP"] < full["AP"]["AP"]


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the shared COCO fixtures are not here")
def test_ap_on_coco_is_the_official_one_to_every_digit():
    truth = load_truth(FIXTURES / "instances_val2014_100.json")
    found = load_results(FIXTURES / "instances_val2014_fakesegm100_results.json", truth)
    expected = json.loads((FIXTURES / "expected_pycocotools_stats.json").read_text())["segm"][:3]
    summary = compute_metrics(measure(truth, found))
    assert list(summary["AP"].values()) == pytest.approx([100 * v for v in expected], rel=1e-12)
    assert summary["counts"]["crowds"] == 9
