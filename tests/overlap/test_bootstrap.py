"""Differences of two models with their intervals, and the work shared by processes."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from reference.overlap import scenes

from mask_rcnn_ext.overlap import image_records
from mask_rcnn_ext.overlap.average_precision import AP_METRICS, read_ap_table
from mask_rcnn_ext.overlap.comparison import (
    compare,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from mask_rcnn_ext.overlap.intervals import bootstrap_ap_difference


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


def test_intervals_of_ap_are_those_of_the_matches_of_pycocotools(files):
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
