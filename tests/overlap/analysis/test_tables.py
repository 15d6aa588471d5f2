"""Reading a data set with detections, and AP by size and overlap against other code."""

import json

import numpy as np
import pytest
from analysis_cases import box_data, pairs_of
from pycocotools import mask as mask_util
from reference.overlap import SIDE, coco_of, official_ap, scenes, tight_box

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers.rle import compress
from mask_rcnn_ext.overlap.analysis.image_pairs import group_by_image, read_image_pairs
from mask_rcnn_ext.overlap.analysis.tables import SIZES, make_tables
from mask_rcnn_ext.overlap.average_precision import average_classes
from mask_rcnn_ext.overlap.comparison import compute_metrics, measure
from mask_rcnn_ext.overlap.detections import load_results
from mask_rcnn_ext.overlap.matching import LEVELS

A = (0, 0, 40, 40)


def tables_of(content, results, kind):
    images = read_image_pairs(content, group_by_image(results), kind)
    return make_tables(images, len(content["categories"]))


def grown(seed):
    """Return `scenes`, whose objects have COCO's three sizes by their annotated areas."""
    content, results = scenes(seed)
    for index, annotation in enumerate(content["annotations"]):
        annotation["area"] = (900, 1024, 5000, 9216, 20000)[index % 5]
    for result in results:
        mask = mask_util.decode(compress(result["segmentation"], SIDE, SIDE))
        result["bbox"] = tight_box(mask)
    return content, results


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_ap_is_that_of_pycocotools(seed, kind):
    content, results = grown(seed)
    tables = tables_of(content, results, kind)
    sizes = [tables[name].compute_ap()[0, 0] for name in SIZES]
    assert np.unique(sizes).size == 3  # a case that could differ
    found = [*tables["all"].compute_ap()[0], *sizes]
    np.testing.assert_allclose(found, official_ap(content, results, kind), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ap_by_overlap_is_that_of_the_comparison(seed, tmp_path):
    content, results = scenes(seed)
    (tmp_path / "found.json").write_text(json.dumps(results))
    truth = coco_of(content)
    expected = compute_metrics(measure(truth, load_results(tmp_path / "found.json", truth)))
    tables = tables_of(content, results, "segm")
    for level in LEVELS:
        ap = tables[level].compute_ap()[0]
        names = [f"{name}_{level}" for name in ("AP", "AP50", "AP75")]
        np.testing.assert_array_equal(ap, [expected["overlap"][name] for name in names])


def test_the_ap_of_classes_is_averaged_to_the_ap():
    content, results = scenes(1)
    table = tables_of(content, results, "segm")["all"]
    weights = np.random.default_rng(0).integers(0, 3, (5, 8)).astype(np.int32)
    by_class = table.compute_class_ap(weights)
    assert all(values.shape == (5, 10) for values in by_class.values())
    np.testing.assert_array_equal(average_classes(by_class, 5), table.compute_ap(weights))
    mean = 100 * np.mean(list(by_class.values()), axis=0)
    np.testing.assert_allclose(mean[:, 0], table.compute_ap(weights)[:, 1])


def test_a_class_without_objects_has_no_ap():
    (images, _), content = pairs_of(([(0, A)], [(0, 0.9, A), (2, 0.8, A)])), box_data()[0]
    by_class = make_tables(images, len(content["categories"]))["all"].compute_class_ap()
    assert by_class[0].tolist() == [[pytest.approx(1)] * 10]
    assert np.isnan(by_class[1]).all()
    assert np.isnan(by_class[2]).all()


def test_the_pairs_of_an_image():
    scene = (
        [(0, A), (1, (200, 0, 40, 40)), (0, (0, 0, 50, 50), "crowd")],
        [(1, 0.5, (0, 0, 40, 20))],
    )
    (image,), (matches,) = pairs_of(scene)
    assert (image.image_id, image.classes.tolist()) == (1, [0, 1, 0])
    assert image.crowd.tolist() == [False, False, True]
    assert list(zip(image.rows, image.columns, image.ious, strict=True)) == [(0, 0, 0.5), (0, 2, 1)]
    assert image.make_ious().tolist() == [[0.5, 0, 1]]
    assert matches.tolist() == [-1]  # another class
    assert (image.areas.tolist(), image.detection_areas.tolist()) == ([1600, 1600, 2500], [800])


def test_only_the_best_detections_of_a_class_count():
    content, results = box_data(([], [(0, 0.1 * k, A) for k in range(6)] + [(1, 0.05, A)]))
    (image,) = read_image_pairs(content, group_by_image(results), "bbox", max_detections=2)
    assert image.scores.tolist() == [0.5, 0.4, 0.05]


def test_unknown_categories_are_left_out():
    content, results = box_data(([(0, A)], [(0, 0.9, A)]))
    results.append({**results[0], "category_id": 99})
    content["annotations"].append({**content["annotations"][0], "id": 2, "category_id": 98})
    (image,) = read_image_pairs(content, group_by_image(results), "bbox")
    assert (len(image.classes), len(image.scores)) == (1, 1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("score", 1.5, "image 1: expected a score from 0 to 1, got 1.5"),
        ("score", float("nan"), "got nan"),
        ("bbox", [0, 0, float("inf"), 1], "image 1: expected a box of four finite numbers"),
        ("bbox", None, "got None"),
        ("image_id", 8, "image 8, which is not in the data set"),
    ],
)
def test_broken_detections_are_refused(key, value, message):
    content, results = box_data(([(0, A)], [(0, 0.9, A)]))
    results[0][key] = value
    with pytest.raises(UserError, match=message):
        read_image_pairs(content, group_by_image(results), "bbox")


def test_a_mask_that_pycocotools_could_not_read_is_refused():
    content, results = scenes(0)
    content["annotations"][0]["segmentation"] = [[5, 5, 20, 5, 20, -2147483648, 5, 20]]
    with pytest.raises(UserError, match="data set's image 1: broken mask: polygon that leads"):
        read_image_pairs(content, group_by_image(results), "segm")
    content, results = scenes(0)
    del results[0]["segmentation"]
    with pytest.raises(UserError, match="expected masks, got an object without one"):
        read_image_pairs(content, group_by_image(results), "segm")
