"""Intervals of differences: Student t by hand, and a bootstrap whose AP is pycocotools'."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from boxes_coco import as_rle, predictions_of, truth_json
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_ext import UserError
from mask_rcnn_ext.overlap.intervals import image_table, paired_bootstrap, t_interval, t_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227)]
)
def test_t_quantile_is_that_of_printed_tables(degrees, quantile):
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


def test_t_quantile_at_another_level():
    assert t_quantile(2, 0.9) == pytest.approx(2.91999, abs=5e-5)


def test_t_interval_by_hand():
    # mean 2, standard deviation 1, standard error 1 / sqrt(3); t(2) = 4.30265
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)


def test_t_interval_of_equal_differences_is_a_point():
    assert t_interval([1.5, 1.5]) == pytest.approx((1.5, 1.5))


def test_impossible_questions_are_refused():
    with pytest.raises(ValueError, match="two or more"):
        t_interval([1.0])
    with pytest.raises(ValueError, match="degrees"):
        t_quantile(0)


@pytest.fixture
def files(tmp_path):
    """Return the paths of a data set and of the predictions of a good and a bad model."""
    rng = np.random.default_rng(3)
    truth = truth_json(rng)
    paths = [tmp_path / name for name in ("truth.json", "good.json", "bad.json")]
    contents = [truth, *(as_rle(truth, predictions_of(truth, rng, j)) for j in (0.7, 3.0))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    return paths


def official_ap(truth, results, task):
    """Return pycocotools' (AP, AP50, AP75)."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        results = copy.deepcopy(results)
        if task == "segm":
            for result in results:
                del result["bbox"]
        evaluation = COCOeval(coco, coco.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[:3]


def duplicated(truth, results, draw):
    """Return the data set and the results with the images of `draw`, each under a new id."""
    images, annotations, found = [], [], []
    for new, index in enumerate(draw, start=1):
        old = truth["images"][index]["id"]
        images.append({**truth["images"][index], "id": new})
        for object_ in (a for a in truth["annotations"] if a["image_id"] == old):
            annotations.append({**object_, "image_id": new, "id": len(annotations) + 1})
        found += [{**r, "image_id": new} for r in results if r["image_id"] == old]
    return {**truth, "images": images, "annotations": annotations}, found


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_ap_is_that_of_pycocotools(files, task):
    truth, results = (json.loads(path.read_text()) for path in files[:2])
    table = image_table(files[0], files[1], task)
    official = official_ap(truth, results, task)
    assert 10 < official[0] < 90  # a case that could differ
    np.testing.assert_allclose(table.ap(), official, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_a_draw_is_that_of_a_data_set_with_copies(files, seed):
    truth, results = (json.loads(path.read_text()) for path in files[:2])
    draw = np.sort(np.random.default_rng(seed).integers(12, size=12))
    assert len(set(draw)) < 12
    official = official_ap(*duplicated(truth, results, draw), "segm")
    table = image_table(files[0], files[1], "segm")
    np.testing.assert_allclose(table.ap(draw), official, rtol=1e-12)
    assert abs(table.ap(draw)[0] - table.ap()[0]) > 0.01


def test_ap_of_images_without_objects_is_not_a_number(files):
    assert np.isnan(image_table(files[0], files[1], "segm").ap([1])).all()


def test_a_model_compared_with_itself_gives_zero(files):
    table = image_table(files[0], files[1], "segm")
    np.testing.assert_array_equal(paired_bootstrap(table, table, draws=50), np.zeros((3, 2)))


def test_a_better_model_is_seen_to_be_better(files):
    good, bad = (image_table(files[0], path, "segm") for path in files[1:])
    bounds = paired_bootstrap(good, bad, draws=200)
    difference = good.ap() - bad.ap()
    assert (bounds[:, 0] < difference).all()
    assert (difference < bounds[:, 1]).all()
    assert bounds[0, 0] > 0
    mirrored = paired_bootstrap(bad, good, draws=200)
    np.testing.assert_allclose(mirrored, -bounds[:, ::-1])


def test_the_bootstrap_repeats_itself_and_follows_its_seed(files):
    good, bad = (image_table(files[0], path, "segm") for path in files[1:])
    once = paired_bootstrap(good, bad, draws=30, seed=1)
    np.testing.assert_array_equal(once, paired_bootstrap(good, bad, draws=30, seed=1))
    assert (once != paired_bootstrap(good, bad, draws=30, seed=2)).any()


def test_a_model_that_found_nothing_has_ap_zero(files, tmp_path):
    nothing = tmp_path / "nothing.json"
    nothing.write_text("[]")
    np.testing.assert_array_equal(image_table(files[0], nothing, "segm").ap(), np.zeros(3))


def test_other_images_are_refused(files, tmp_path):
    with pytest.raises(UserError, match="cannot compare"):
        image_table(files[0], tmp_path / "missing.json", "segm")
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps([{"image_id": 999, "category_id": 1, "bbox": [0, 0, 1, 1]}]))
    with pytest.raises(UserError, match="not of the images"):
        image_table(files[0], strange, "bbox")
    good = image_table(files[0], files[1], "bbox")
    smaller = type(good)(num_images=3, classes=good.classes, recalls=good.recalls)
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(good, smaller)
