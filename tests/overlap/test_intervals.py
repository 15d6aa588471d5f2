"""AP of weighted images and intervals of differences, against pycocotools on copied images."""

import json

import numpy as np
import pytest
from boxes_coco import as_rle, predictions_of, truth_json
from reference.overlap import official_ap

from mask_rcnn_ext import UserError
from mask_rcnn_ext.overlap.analysis.tables import read_ap_table
from mask_rcnn_ext.overlap.intervals import (
    bootstrap_ap_difference,
    bootstrap_ratio,
    compute_basic_interval,
    compute_percentile_interval,
    compute_t_interval,
    describe_interval,
)


@pytest.mark.parametrize(
    ("count", "level", "quantile"),
    [
        (2, 0.95, 12.7062),
        (3, 0.95, 4.30265),
        (5, 0.95, 2.77645),
        (31, 0.95, 2.04227),
        (3, 0.9, 2.91999),
    ],
)
def test_t_intervals_are_those_of_printed_tables(count, level, quantile):
    values = np.arange(count) ** 2.0
    low, high = compute_t_interval(values, level)
    error = values.std(ddof=1) / count**0.5
    assert ((high + low) / 2, (high - low) / 2 / error) == pytest.approx(
        (values.mean(), quantile), abs=5e-5
    )


def test_t_interval_of_equal_differences_is_a_point():
    assert compute_t_interval([1.5, 1.5]) == pytest.approx((1.5, 1.5))


def test_one_difference_has_no_t_interval():
    with pytest.raises(ValueError, match="two or more"):
        compute_t_interval([1.0])


def test_percentiles_leave_out_what_is_not_a_number():
    values = np.array([np.nan, *range(101)])
    assert compute_percentile_interval(values, 0.9) == pytest.approx((5, 95))
    assert np.isnan(compute_percentile_interval(np.array([1, 2, np.nan, np.nan, np.nan]))).all()
    assert np.isnan(compute_percentile_interval(np.array([]))).all()


@pytest.mark.filterwarnings("error")
def test_a_ratio_whose_divisor_can_be_0_has_no_upper_end():
    ratio = bootstrap_ratio(np.array([[400.0, 0, 8]]), np.array([[0.0, 5, 1]]), draws=100, seed=0)
    assert np.isinf(ratio).any()
    entry = describe_interval(ratio)
    assert (entry["value"], entry["high"]) == (68, None)
    assert 0 <= entry["low"] < 68
    nothing = bootstrap_ratio(np.zeros((1, 2)), np.zeros((1, 2)), draws=9, seed=0)
    assert np.isnan(nothing).all()
    assert describe_interval(nothing) == {"value": None, "low": None, "high": None}
    infinite = bootstrap_ratio(np.ones((1, 2)), np.zeros((1, 2)), draws=9, seed=0)
    assert describe_interval(infinite) == {"value": None, "low": None, "high": None}


def test_the_interval_of_an_ap_is_mirrored_at_it():
    values = np.array([60.0, *range(50, 91)])  # the draws lie 10 too high
    assert compute_basic_interval(values, 0.9) == pytest.approx((120 - 88, 120 - 52))
    assert compute_basic_interval(np.array([99.0, 90, 90, 90])) == (100, 100)
    assert compute_basic_interval(np.array([1.0, 90, 90, 90])) == (0, 0)
    assert np.isnan(compute_basic_interval(np.array([50.0, np.nan, np.nan]))).all()


def break_ties(results):
    """Change scores so that none are equal in one image; images still have scores in common."""
    seen = {}
    for result in results:
        seen[result["image_id"]] = index = seen.get(result["image_id"], 0) + 1
        result["score"] += 0.001 * index
    return results


@pytest.fixture(params=["ties", "no ties"])
def files(tmp_path, request):
    """Return the paths of a data set and of the predictions of a good and a bad model."""
    rng = np.random.default_rng(3)
    truth = truth_json(rng)
    paths = [tmp_path / name for name in ("truth.json", "good.json", "bad.json")]
    good, bad = (as_rle(truth, predictions_of(truth, rng, jitter)) for jitter in (0.7, 3.0))
    if request.param == "no ties":
        good, bad = break_ties(good), break_ties(bad)
    for path, content in zip(paths, (truth, good, bad), strict=True):
        path.write_text(json.dumps(content))
    return paths


without_ties = pytest.mark.parametrize("files", ["no ties"], indirect=True)


def copied_ap(truth, results, draw, task="segm"):
    """Return pycocotools' AP of a data set with the images of `draw`, each under a new id."""
    images, annotations, found = [], [], []
    for new, index in enumerate(draw, start=1):
        old = truth["images"][index]["id"]
        images.append({**truth["images"][index], "id": new})
        for object_ in (a for a in truth["annotations"] if a["image_id"] == old):
            annotations.append({**object_, "image_id": new, "id": len(annotations) + 1})
        found += [{**r, "image_id": new} for r in results if r["image_id"] == old]
    copies = {**truth, "images": images, "annotations": annotations}
    return official_ap(copies, found, task)[:3]


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_ap_is_that_of_pycocotools(files, task):
    truth, results = (json.loads(path.read_text()) for path in files[:2])
    ap = read_ap_table(files[0], files[1], task).compute_ap()
    official = official_ap(truth, results, task)[:3]
    assert 10 < official[0] < 90  # a case that could differ
    np.testing.assert_allclose(ap, official[None], rtol=1e-12)


@without_ties
def test_ap_of_a_draw_is_that_of_a_data_set_with_copies(files):
    truth, results = (json.loads(path.read_text()) for path in files[:2])
    draws = np.sort(np.random.default_rng(0).integers(12, size=(3, 12)), axis=1)
    assert all(len(set(draw)) < 12 for draw in draws)
    official = [copied_ap(truth, results, draw) for draw in draws]
    weights = np.stack([np.bincount(draw, minlength=12) for draw in draws])
    table = read_ap_table(files[0], files[1], "segm")
    np.testing.assert_allclose(table.compute_ap(weights), official, rtol=1e-12)
    assert (abs(table.compute_ap(weights)[:, 0] - table.compute_ap()[0, 0]) > 0.01).all()


@without_ties
@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_the_bootstrap_is_that_of_pycocotools_on_copied_images(files, task):
    truth, *models = (json.loads(path.read_text()) for path in files)
    rng = np.random.default_rng(5)
    draws = [np.sort(rng.integers(12, size=12)) for _ in range(20)]
    differences = [np.subtract(*(copied_ap(truth, m, d, task) for m in models)) for d in draws]
    expected = np.percentile(differences, [5, 95], axis=0).T
    tables = [read_ap_table(files[0], path, task) for path in files[1:]]
    bounds = bootstrap_ap_difference(*tables, draws=20, seed=5, level=0.9)
    np.testing.assert_allclose(bounds, expected, rtol=1e-9)


@pytest.mark.parametrize("broken", [0, 1], ids=["annotations", "predictions"])
def test_a_mask_that_pycocotools_could_not_read_is_refused(files, tmp_path, broken):
    paths = list(files[:2])
    content = json.loads(paths[broken].read_text())
    entries = content["annotations"] if broken == 0 else content
    entries[3]["segmentation"] = [[5, 5, 20, 5, 20, -2147483648, 5, 20]]
    paths[broken] = tmp_path / "broken.json"
    paths[broken].write_text(json.dumps(content))
    with pytest.raises(UserError, match="broken mask: polygon that leads more than"):
        read_ap_table(*paths, "segm")


def test_ap_of_images_without_objects_is_not_a_number(files):
    table = read_ap_table(files[0], files[1], "segm")
    assert np.isnan(table.compute_ap(np.eye(12, dtype=np.int32)[[1]])).all()


def test_a_model_compared_with_itself_gives_zero(files):
    table = read_ap_table(files[0], files[1], "segm")
    np.testing.assert_array_equal(bootstrap_ap_difference(table, table, draws=50), np.zeros((3, 2)))


def test_a_better_model_is_seen_to_be_better(files):
    good, bad = (read_ap_table(files[0], path, "segm") for path in files[1:])
    bounds = np.array(bootstrap_ap_difference(good, bad, draws=200))
    (difference,) = good.compute_ap() - bad.compute_ap()
    assert (bounds[:, 0] < difference).all()
    assert (difference < bounds[:, 1]).all()
    assert bounds[0, 0] > 0
    mirrored = bootstrap_ap_difference(bad, good, draws=200)
    np.testing.assert_allclose(mirrored, -bounds[:, ::-1])


def test_the_bootstrap_repeats_itself_and_follows_its_seed(files):
    good, bad = (read_ap_table(files[0], path, "segm") for path in files[1:])
    once, again, other = (
        bootstrap_ap_difference(good, bad, draws=30, seed=seed) for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_a_model_that_found_nothing_has_ap_zero(files, tmp_path):
    nothing = tmp_path / "nothing.json"
    nothing.write_text("[]")
    ap = read_ap_table(files[0], nothing, "segm").compute_ap()
    np.testing.assert_array_equal(ap, np.zeros((1, 3)))


def test_other_images_are_refused(files, tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_ap_table(files[0], tmp_path / "missing.json", "segm")
    strange = tmp_path / "strange.json"
    entry = {"image_id": 999, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}
    strange.write_text(json.dumps([entry]))
    with pytest.raises(UserError, match="image 999, which is not in the data set"):
        read_ap_table(files[0], strange, "bbox")
    table = read_ap_table(files[0], files[1], "bbox")
    smaller = json.loads(files[0].read_text())
    del smaller["images"][3:]
    (tmp_path / "smaller.json").write_text(json.dumps(smaller))
    (tmp_path / "nothing.json").write_text("[]")
    other = read_ap_table(tmp_path / "smaller.json", tmp_path / "nothing.json", "bbox")
    with pytest.raises(ValueError, match="same images"):
        bootstrap_ap_difference(table, other)
