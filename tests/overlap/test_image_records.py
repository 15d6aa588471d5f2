"""AP of masks, of boundaries and by overlap level, against pycocotools and hand-made masks."""

import json
import math

import numpy as np
import pytest
from overlap_cases import (
    LOWER,
    OBJECTS,
    UPPER,
    detect,
    instances_of,
    metrics_of,
    read_detections,
    rectangle,
)
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval
from reference.overlap import (
    SIDE,
    boundary,
    boundary_iou,
    coco_of,
    ellipse,
    official_ap,
    rle,
    scenes,
)
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
from mask_rcnn_ext.overlap.crops import decode_crop
from mask_rcnn_ext.overlap.matching import LEVELS, assign_levels
from mask_rcnn_ext.overlap.metrics import METRICS

FIXTURES = REPO.parent / "shared/data/eval_fixtures"


def test_mask_ap_is_that_of_pycocotools():
    dataset, results = scenes(0)
    ap = compute_metrics(measure(coco_of(dataset), read_detections(results)))["AP"]
    expected = official_ap(dataset, results)[:3]
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

    expected = official_ap(dataset, results, ious=ious)[:3]
    summary = compute_metrics(measure(coco_of(dataset), read_detections(results)))
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
        assert a.count_common(b) == (first & second).sum()


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
    summary = compute_metrics(measure(coco_of(dataset), read_detections(results)))
    seen = 0
    for index, level in enumerate(LEVELS):
        detections = [index if d < 0 else d for d in of_detections]
        areas = ([index, index], of_objects, detections)
        expected = official_ap(dataset, results, areas=areas)[:3]
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


def test_only_the_best_hundred_of_a_class_count():
    dataset, results = scenes(0)
    truth, found = coco_of(dataset), read_detections(results)
    full, one = (compute_metrics(measure(truth, found, max_detections=n)) for n in (100, 1))
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


ALONE = [{"mask": rectangle(10, 10, 50, 50)}]


def test_boundary_ap_of_a_square_that_is_a_pixel_too_small_on_each_side():
    """Mask IoU 38² / 40² = 0.9025. Rings, 3 px wide: 444 and 420 pixels, 288 of them in common."""
    summary = metrics_of([ALONE], {1: detect(rectangle(11, 11, 49, 49))})
    assert summary["AP"] == pytest.approx({"AP": 90, "AP50": 100, "AP75": 100})
    # 288 / (444 + 420 - 288) is 0.5: the lowest of the ten thresholds, and no other.
    assert summary["boundary"] == pytest.approx({"AP": 10, "AP50": 100, "AP75": 0})


def test_ap_by_level_sees_where_a_model_fails():
    """It finds what is alone, and one of the two that overlap: half of the recalls, 51 of 101."""
    summary = metrics_of([ALONE, OBJECTS], {1: detect(ALONE[0]["mask"]), 2: detect(UPPER)})
    for task in ("overlap", "overlap_same"):
        assert summary[task]["AP_none"] == pytest.approx(100)
        assert summary[task]["AP_heavy"] == pytest.approx(100 * 51 / 101)
        assert summary[task]["AP_drop"] == pytest.approx(100 * 50 / 101)
        assert math.isnan(summary[task]["AP_partial"])


def test_a_false_detection_counts_at_the_level_of_the_object_that_it_overlaps():
    # Box IoU with the object that is alone: 400 / 1600; with nothing in the other image.
    false = Detection(1, 0.95, rle(rectangle(10, 10, 30, 30)))
    objects = {1: detect(ALONE[0]["mask"]), 2: detect(UPPER, LOWER)}
    summary = metrics_of([ALONE, OBJECTS], {**objects, 1: [false, *objects[1]]})
    assert summary["overlap"]["AP_none"] == pytest.approx(50)
    assert summary["overlap"]["AP_heavy"] == pytest.approx(100)
    # One that overlaps no object counts at both: a true detection after it has precision 1 / 2,
    # and two have 2 / 3, which stands for the recalls before them, too.
    nowhere = Detection(1, 0.95, rle(rectangle(80, 80, 95, 95)))
    summary = metrics_of([ALONE, OBJECTS], {**objects, 1: [nowhere, *objects[1]]})
    assert summary["overlap"]["AP_none"] == pytest.approx(50)
    assert summary["overlap"]["AP_heavy"] == pytest.approx(100 * 2 / 3)


def test_objects_of_other_classes_overlap_but_not_in_the_same_class():
    objects = [OBJECTS[0], {**OBJECTS[1], "category_id": 2}]
    counts = metrics_of([objects], {})["counts"]
    assert (counts["objects_heavy"], counts["objects_same_none"]) == (2, 2)


def test_a_crowd_is_left_out_of_everything():
    """It covers both objects and more; what lies in it is no object, no neighbour, no mistake."""
    crowd = {"mask": rectangle(0, 0, 100, 100), "iscrowd": 1}
    masks = [rectangle(5, 5, 30, 30), rectangle(50, 50, 80, 80)]
    apart = [{"mask": mask} for mask in masks]
    inside = rectangle(85, 5, 95, 15)  # first by score, in the crowd alone: ignored
    summary = metrics_of([[*apart, crowd]], {1: detect(inside, *masks)})
    assert summary["AP"]["AP"] == summary["boundary"]["AP"] == pytest.approx(100)
    assert summary["overlap"]["AP_none"] == pytest.approx(100)
    counts = summary["counts"]
    assert (counts["objects"], counts["crowds"], counts["objects_none"]) == (2, 1, 2)
    assert (counts["matched"], counts["pairs"]) == (2, 0)
    assert all(math.isnan(value) for value in summary["errors"].values())
    # Next to objects that meet, it changes no error, though the leaking mask lies on it.
    leaky = [LOWER | rectangle(40, 20, 44, 60), UPPER]
    with_crowd, without = (
        metrics_of([objects], {1: detect(*leaky)})["errors"]
        for objects in ([*OBJECTS, crowd], OBJECTS)
    )
    assert with_crowd == without
    assert with_crowd["leak"] > 0


def test_objects_that_do_not_overlap():
    objects = [{"mask": rectangle(5, 5, 30, 30)}, {"mask": rectangle(50, 50, 80, 80)}]
    summary = metrics_of([objects], {1: detect(*(o["mask"] for o in objects))})
    assert summary["overlap"]["AP_none"] == pytest.approx(100)
    for name in ("AP_partial", "AP_heavy", "AP_drop"):
        assert math.isnan(summary["overlap"][name])
    assert all(math.isnan(value) for value in summary["errors"].values())
    assert not instances_of(objects, []).contested.any()


@pytest.mark.parametrize("detections", [{}, {1: []}], ids=["no entry", "empty list"])
def test_a_model_that_predicts_nothing(detections):
    summary = metrics_of([ALONE, OBJECTS, []], detections)
    for task in ("AP", "boundary"):
        assert set(summary[task].values()) == {0}
    assert summary["overlap"]["AP_none"] == summary["overlap"]["AP_heavy"] == 0
    assert summary["overlap"]["AP_drop"] == 0
    assert math.isnan(summary["overlap"]["AP_partial"])
    assert all(math.isnan(value) for value in summary["errors"].values())
    assert summary["counts"]["detections"] == summary["counts"]["matched"] == 0


def test_an_image_without_objects_only_adds_what_is_found_there():
    perfect = {2: detect(LOWER, UPPER)}
    without, quiet, loud = (
        metrics_of(images, detections)
        for images, detections in (
            ([OBJECTS], {1: perfect[2]}),
            ([[], OBJECTS], perfect),
            ([[], OBJECTS], {**perfect, 1: [Detection(1, 0.95, rle(UPPER))]}),
        )
    )
    for task in ("AP", "boundary", "errors"):
        assert quiet[task] == without[task]
    assert quiet["AP"]["AP"] == pytest.approx(100)
    # One false detection before two true ones.
    assert loud["AP"]["AP"] == loud["overlap"]["AP_heavy"] == pytest.approx(100 * 2 / 3)
    assert loud["errors"] == without["errors"]


def test_every_metric_is_described_and_summarized():
    summary = metrics_of([OBJECTS], {})
    names = {f"{task}/{metric}" for task in summary for metric in summary[task]}
    assert names - {n for n in names if n.startswith("counts/")} == set(METRICS)
    assert all("-" not in name for name in names)  # detectron2 does not print such metrics
    assert all(m.label and m.meaning.endswith(".") for m in METRICS.values())
    assert len({m.label for m in METRICS.values()}) == len(METRICS)
