"""Two models compared: intervals over images, over trainings, and the work shared by processes."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from comparison_cases import cut, detections, scene, write_pair
from reference.overlap import scenes

from mask_rcnn_ext.overlap import comparison, image_records
from mask_rcnn_ext.overlap.analysis.tables import read_ap_table
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.overlap.comparison import (
    METRICS,
    compare,
    compare_seeds,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from mask_rcnn_ext.overlap.intervals import bootstrap_ap_difference, draw_weights

LEAK, HEAVY = "errors/leak", "overlap/AP_heavy"


@pytest.fixture
def files(tmp_path):
    dataset, found = scenes(0)
    worse = scenes(0)[1][::2]
    paths = [tmp_path / name for name in ("truth.json", "a.json", "b.json")]
    for path, content in zip(paths, (dataset, found, worse), strict=True):
        path.write_text(json.dumps(content))
    return paths


def loaded(files, which=1):
    truth = load_truth(files[0])
    return truth, load_results(files[which], truth)


def test_intervals_of_ap_are_those_of_the_tables_of_the_analysis(files):
    truth, first = loaded(files, 1)
    second = load_results(files[2], truth)
    compared = compare(measure(truth, first), measure(truth, second), draws=200, seed=3)
    tables = [read_ap_table(files[0], path, "segm") for path in files[1:]]
    bounds = bootstrap_ap_difference(*tables, draws=200, seed=3)
    (a,), (b,) = (table.compute_ap() for table in tables)
    for row, name in enumerate(AP_METRICS):
        entry = compared[f"AP/{name}"]
        assert [entry["low"], entry["high"]] == pytest.approx(bounds[row], abs=1e-9)
        assert entry["difference"] == pytest.approx(a[row] - b[row])
        assert entry["low"] < entry["difference"] < entry["high"]
        assert entry["a"] == pytest.approx(a[row])


def test_a_model_compared_with_itself_gives_zero(files):
    records = measure(*loaded(files))
    for name, entry in compare(records, records, draws=30).items():
        assert entry["difference"] == 0 or np.isnan(entry["difference"]), name
        assert (entry["low"], entry["high"]) == (0, 0) or np.isnan(entry["low"]), name


def test_the_interval_follows_its_seed_and_mirrors(files):
    truth, first = loaded(files, 1)
    a, b = measure(truth, first), measure(truth, load_results(files[2], truth))
    once = compare(a, b, draws=50, seed=1)
    assert repr(once) == repr(compare(a, b, draws=50, seed=1, threads=2))
    assert repr(once) != repr(compare(a, b, draws=50, seed=2))
    mirrored = compare(b, a, draws=50, seed=1)
    for name, entry in once.items():
        assert mirrored[name]["low"] == pytest.approx(-entry["high"], nan_ok=True), name


def test_comparing_other_images_is_refused(files):
    records = measure(*loaded(files))
    with pytest.raises(ValueError, match="same images"):
        compare(records, records[1:])
    with pytest.raises(ValueError, match="at least one"):
        compare([], [])


class PicklingPool:
    """Stands in for a pool of processes, which take seconds to start: all goes through pickle."""

    def __init__(self, processes):
        assert processes == 2

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def imap(self, function, jobs, chunksize):
        function = pickle.loads(pickle.dumps(function))
        for job in jobs:
            yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(job)))))


def test_processes_give_the_same_records_and_report_progress(files, monkeypatch):
    truth, found = loaded(files)
    steps = []

    def count(done, every):
        steps.append((done, every))

    alone = measure(truth, found, progress=count)
    assert steps == [(i + 1, 8) for i in range(8)]
    asked = []

    def get_context(method):
        asked.append(method)
        return SimpleNamespace(Pool=PicklingPool)

    monkeypatch.setattr(image_records.multiprocessing, "get_context", get_context)
    measure(truth, found, processes=2)
    assert asked == []  # eight images do not repay a process
    monkeypatch.setattr(image_records, "_SHARE", 4)
    steps.clear()
    together = measure(truth, found, processes=2, progress=count)
    assert asked == ["spawn"]
    assert steps == [(i + 1, 8) for i in range(8)]
    for one, other in zip(alone, together, strict=True):
        assert (one.image_id, one.sums, one.counts) == (other.image_id, other.sums, other.counts)
    assert repr(compute_metrics(alone)) == repr(compute_metrics(together))


# Several trainings


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Return the records of three trainings: exact, a straight cut in one image, in all."""
    folder = tmp_path_factory.mktemp("seeds")
    write_pair(folder)
    truth = load_truth(folder / "truth.json")
    some = [*detections([1, 3, 4, 5, 6], lambda masks: masks), *detections([2], cut)]
    (folder / "some.json").write_text(json.dumps(some))
    assert len(scene(2)) == 2
    return [
        measure(truth, load_results(folder / name, truth))
        for name in ("exact.json", "some.json", "cut.json")
    ]


def numbers(records):
    found = compute_metrics(records)
    return {name: found[name.split("/")[0]][name.split("/")[1]] for name in METRICS}


def test_one_training_each_is_the_comparison_over_images(trainings):
    exact, some, _ = trainings
    pooled = compare_seeds([exact], [some], draws=60, seed=3)
    alone = compare(exact, some, draws=60, seed=3)
    assert repr(pooled.metrics) == repr(alone)  # NaN is not equal to itself
    assert repr(pooled.seeds) == repr([alone])


def test_numbers_are_means_over_trainings_and_each_pair_is_there(trainings):
    exact, some, all_cut = trainings
    pooled = compare_seeds([exact, exact, some], [some, all_cut, all_cut], draws=40, seed=1)
    sides = {"a": [exact, exact, some], "b": [some, all_cut, all_cut]}
    of_each = {side: [numbers(records) for records in sides[side]] for side in sides}
    for name, entry in pooled.metrics.items():
        for side in sides:
            mean = np.mean([found[name] for found in of_each[side]])
            assert entry[side] == pytest.approx(mean, nan_ok=True), (name, side)
        assert entry["difference"] == pytest.approx(entry["a"] - entry["b"], nan_ok=True)
    # Of three images with a pair of objects that meet, one mask leaks: in 0, 1, all.
    leak = numbers(all_cut)[LEAK]
    assert leak > 1
    assert pooled.metrics[LEAK]["a"] == pytest.approx(leak / 9)
    assert pooled.metrics[LEAK]["b"] == pytest.approx(leak * (1 / 3 + 1 + 1) / 3)
    pairs = zip(*sides.values(), strict=True)
    expected = [compare(a, b, draws=40, seed=1) for a, b in pairs]
    assert repr(pooled.seeds) == repr(expected)


def test_draws_are_those_of_a_loop(trainings):
    """Each draw by hand: the images of it, then the trainings of it."""
    first, second = [trainings[0], trainings[1]], [trainings[1], trainings[2]]
    draws, images = 25, len(trainings[0])
    pooled = compare_seeds(first, second, draws=draws, seed=5)
    weights = draw_weights(images, draws, 5)[1:]
    picks = [np.random.default_rng((5, side)).integers(2, size=(draws, 2)) for side in (1, 2)]
    assert (picks[0] != picks[1]).any()
    for draw in range(draws):
        taken = np.repeat(np.arange(images), weights[draw])
        for side, records, values in ((0, first, pooled.a), (1, second, pooled.b)):
            of_each = [numbers([records[s][i] for i in taken]) for s in picks[side][draw]]
            for name in (LEAK, HEAVY, "AP/AP", "errors/spurious_edge"):
                expected = np.mean([found[name] for found in of_each])
                assert values[name][1 + draw] == pytest.approx(expected, nan_ok=True), name
    entry = pooled.metrics[HEAVY]
    difference = (pooled.a[HEAVY] - pooled.b[HEAVY])[1:]
    known = difference[~np.isnan(difference)]
    assert (entry["low"], entry["high"]) == pytest.approx(tuple(np.percentile(known, [2.5, 97.5])))


def test_a_model_compared_with_itself_gives_no_difference(trainings):
    pooled = compare_seeds(trainings, trainings, draws=200)
    for name, entry in pooled.metrics.items():
        assert entry["difference"] == 0 or np.isnan(entry["difference"]), name
        assert entry["low"] <= 0 <= entry["high"] or np.isnan(entry["low"]), name
    # Its trainings differ, and each side draws its own.
    assert pooled.metrics[LEAK]["low"] < 0 < pooled.metrics[LEAK]["high"]
    equal = compare_seeds([trainings[1]] * 3, [trainings[1]] * 3, draws=50)
    entry = equal.metrics[LEAK]
    assert (entry["difference"], entry["low"], entry["high"]) == (0, 0, 0)


def test_the_order_of_trainings_matters_to_the_draws_only(trainings):
    exact, some, all_cut = trainings
    once = compare_seeds([exact, some], [some, all_cut], draws=60)
    turned = compare_seeds([some, exact], [some, all_cut], draws=60)
    for name, entry in once.metrics.items():
        for key in ("a", "b", "difference"):
            assert turned.metrics[name][key] == pytest.approx(entry[key], nan_ok=True), name
    assert (once.a[LEAK][1:] != turned.a[LEAK][1:]).any()
    np.testing.assert_array_equal(once.b[LEAK], turned.b[LEAK])


def test_trainings_that_differ_widen_the_interval(trainings):
    exact, some, all_cut = trainings

    def width(records_b):
        entry = compare_seeds([exact] * 3, records_b, draws=300).metrics["errors/leak"]
        return entry["high"] - entry["low"]

    assert width([exact, some, all_cut]) > 1.5 * width([all_cut] * 3)


def test_a_training_that_is_not_taken_adds_nothing():
    values = [np.array([1.0, 1.0, 4.0]), np.array([np.nan, 3.0, np.nan])]
    weights = np.array([[2, 0], [1, 1], [1, 1]], dtype=np.int32)
    mean = comparison._mean(values, weights)
    assert mean[:2].tolist() == [1.0, 2.0]
    assert np.isnan(mean[2])


def test_the_seed_makes_the_draws(trainings):
    exact, some, all_cut = trainings
    runs = [
        compare_seeds([exact, some], [some, all_cut], draws=30, seed=seed, threads=threads).metrics
        for seed, threads in ((1, 1), (1, 2), (2, 1))
    ]
    assert repr(runs[0]) == repr(runs[1])
    assert repr(runs[0]) != repr(runs[2])


def test_other_images_or_other_numbers_of_trainings_are_refused(trainings):
    exact, some, _ = trainings
    with pytest.raises(ValueError, match="got 2 and 1"):
        compare_seeds([exact, exact], [some])
    with pytest.raises(ValueError, match="at least one; got 0"):
        compare_seeds([], [])
    with pytest.raises(ValueError, match="same images"):
        compare_seeds([exact, exact], [some, some[1:]])
    with pytest.raises(ValueError, match="at least one, of all"):
        compare_seeds([[]], [[]])
