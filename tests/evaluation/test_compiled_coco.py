"""Compiled COCO evaluation gives pycocotools' arrays, and pycocotools stands in for it."""

import collections
import contextlib
import copy
import gc
import io
import logging

import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval
from support import register_json

from mask_rcnn_ext.evaluation import coco as coco_module
from mask_rcnn_ext.evaluation import compiled_coco
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.evaluation.compiled_coco import evaluate_compiled, find_compiled_version
from mask_rcnn_ext.evaluation.plain_predictions import PackedDetections
from mask_rcnn_ext.overlap.numbered_coco import NumberedCOCO

needs_hotcoco = pytest.mark.skipif(
    find_compiled_version() is None, reason='hotcoco is not installed: pip install -e ".[fast]"'
)
NAME, HEIGHT, WIDTH, POINTS = "compiled_coco", 90, 120, 3
TASKS = ("bbox", "keypoints", "segm")
ARRAYS = ("precision", "recall", "scores")
LARGE = 2**60  # ids above 2^53, which pycocotools rounds


def random_set(seed, images=8, classes=4, detections=40):
    """Return data and results, with ties, crowds, empty images and a class without objects."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images):  # none in the first
        for _ in range(rng.integers(6)):
            entry = _place(rng, image, rng.integers(classes - 1), polygon=rng.random() < 0.5)
            crowd = rng.random() < 0.15
            count = 0 if rng.random() < 0.2 else POINTS
            extra = {"id": LARGE + len(annotations), "iscrowd": int(crowd), "num_keypoints": count}
            annotations.append(entry | extra | {"ignore": int(rng.random() < 0.1)})
    for _ in range(detections * images):
        target = annotations[rng.integers(len(annotations))] if rng.random() < 0.6 else None
        if target is None:
            entry = _place(rng, int(rng.integers(images)), rng.integers(classes))
        else:
            number, label = target["image_id"] - LARGE, target["category_id"] // 10
            entry = _place(rng, number, label, near=target["bbox"])
            entry["keypoints"] = (target["keypoints"] + rng.normal(0, 1, 3 * POINTS)).tolist()
        results.append(entry | {"score": float(rng.integers(8)) / 8})
    content = {
        "info": {},
        "images": [{"id": LARGE + n, "height": HEIGHT, "width": WIDTH} for n in range(images)],
        "categories": [{"id": 10 * n, "name": f"class {n}"} for n in range(classes)],
        "annotations": annotations,
    }
    return content, results


def _place(rng, image, label, polygon=False, near=None):
    size = np.exp(rng.uniform(0.5, 4.4, 2)) if near is None else np.array(near[2:])
    low = rng.random(2) * ([WIDTH, HEIGHT] - size) if near is None else np.array(near[:2])
    if near is not None:
        low, size = low + rng.normal(0, 2, 2), size * rng.uniform(0.8, 1.2, 2)
    (x, y), (w, h) = low.clip(0, [WIDTH - 2, HEIGHT - 2]).tolist(), size.tolist()
    outline = [x, y, x + w, y, x + w, y + h, x, y + h * 0.7]
    rle = mask_util.frPyObjects([outline], HEIGHT, WIDTH)[0]
    mask = {"size": rle["size"], "counts": rle["counts"].decode()}
    points = [[x + w * u, y + h * v, 1 + (u > v)] for u, v in rng.random((POINTS, 2))]
    return {
        "image_id": LARGE + image, "category_id": 10 * int(label), "bbox": [x, y, w, h],
        "segmentation": [outline] if polygon else mask, "area": float(mask_util.area(rle)),
        "keypoints": np.ravel(points).tolist(),
    }  # fmt: skip


def start(content, task, limits, images=None):
    """Return a data set and an evaluation with detectron2's limits."""
    truth = NumberedCOCO(copy.deepcopy(content))
    kind = COCOeval if limits[2] == 100 else COCOevalMaxDets
    evaluation = kind(truth, None, task)
    if images:
        evaluation.params.imgIds = images
    if task == "keypoints":
        evaluation.params.kpt_oks_sigmas = np.linspace(0.05, 0.1, POINTS)
    else:
        evaluation.params.maxDets = limits
    return truth, evaluation


def by_image(results):
    """Return the results of each image, the last image first."""
    found = {}
    for result in results:
        found.setdefault(result["image_id"], []).append(result)
    return sorted(found.items(), reverse=True)


def by_pycocotools(content, results, task, *options):
    truth, evaluation = start(content, task, *options)
    results = copy.deepcopy(results)
    if task == "segm":
        for result in results:
            del result["bbox"]
    evaluation.cocoDt = truth.loadRes(results)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@needs_hotcoco
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("seed", "limits", "images"),
    [
        (0, [1, 10, 100], None),
        (1, [1, 10, 100], [7, 3, 3, 5]),
        (2, [1, 10, 300], None),
        (3, [1, 2, 5], [1, 2, 4, 6]),
        (4, [1, 10, 7], None),
    ],
)
def test_the_arrays_are_those_of_pycocotools(task, seed, limits, images, capsys):
    content, results = random_set(seed)
    before = copy.deepcopy(results)
    expected = by_pycocotools(content, results, task, limits, images)
    truth, evaluation = start(content, task, limits, images)
    capsys.readouterr()
    evaluate_compiled(by_image(results), truth, task, evaluation)
    assert results == before
    for name in ARRAYS:
        assert np.array_equal(evaluation.eval[name], expected.eval[name]), name
    precision = evaluation.eval["precision"]
    assert (precision[:, :, 3] == -1).all()  # no object of the last class
    assert len(np.unique(precision)) > 10  # more than a few values are compared
    assert capsys.readouterr() == ("", "")
    for each in (evaluation, expected):
        each.summarize()
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


@needs_hotcoco
def test_detections_beyond_the_limit_do_not_count():
    """pycocotools takes 20 detections of a class and image for keypoints; many scores are equal."""
    content, results = random_set(5, images=3, classes=2, detections=60)
    found = collections.Counter((each["image_id"], each["category_id"]) for each in results)
    assert max(found.values()) > 50
    expected = by_pycocotools(content, results, "keypoints", [1, 10, 100])
    truth, evaluation = start(content, "keypoints", [1, 10, 100])
    evaluate_compiled(by_image(results), truth, "keypoints", evaluation)
    for name in ARRAYS:
        assert np.array_equal(evaluation.eval[name], expected.eval[name]), name


def test_the_best_detections_of_each_category_are_chosen():
    scores = [0.5, 0.9, 0.5, 0.1, 0.5, 0.7]
    found = [{"category_id": "a", "score": score, "n": n} for n, score in enumerate(scores)]
    found += [{"category_id": 7, "score": 0.2, "n": 6}, {"category_id": 7, "score": 1, "n": 7}]
    assert compiled_coco._choose_best(found, 8) is found
    # Of the equal scores 0.5 the first ones.
    assert [each["n"] for each in compiled_coco._choose_best(found, 3)] == [7, 1, 5, 0, 6]
    assert [each["n"] for each in compiled_coco._choose_best(found, 1)] == [7, 1]
    found[3]["score"] = np.nan
    with pytest.raises(ValueError, match="a score is not finite"):
        compiled_coco._choose_best(found, 3)


@needs_hotcoco
@pytest.mark.parametrize(("key", "task"), [("bbox", "bbox"), ("keypoints", "keypoints")])
def test_numbers_that_are_missing_are_told(key, task):
    content, results = random_set(0)
    results[3][key] = results[3][key][:-1]
    truth, evaluation = start(content, task, [1, 10, 100])
    with pytest.raises(ValueError, match=rf"expected \d+ numbers in each {key}"):
        evaluate_compiled(by_image(results), truth, task, evaluation)


@needs_hotcoco
@pytest.mark.parametrize("task", TASKS)
def test_without_detections_the_arrays_are_those_of_pycocotools(task):
    content, _ = random_set(0)
    truth, evaluation = start(content, task, [1, 10, 100])
    evaluate_compiled([], truth, task, evaluation)
    expected = by_pycocotools(content, [], task, [1, 10, 100])
    for name in ARRAYS:
        assert np.array_equal(evaluation.eval[name], expected.eval[name]), name


@pytest.fixture
def run(tmp_path, forget_data_sets):
    """Return a function that evaluates results: what is returned, printed, and saved."""

    def evaluate(content, results, images=None, more_labels=(), **options):
        out = tmp_path / "out"
        labels = register_json(NAME, tmp_path / "truth.json", content)
        evaluator = MaskRCNNCOCOEvaluator(
            NAME, TASKS, output_dir=str(out), kpt_oks_sigmas=[0.1] * POINTS, **options
        )
        evaluator.reset()
        labels = {**labels, **dict(more_labels)}
        evaluator._predictions = [
            {
                "image_id": image["id"],
                "instances": PackedDetections(
                    [
                        copy.deepcopy(r) | {"category_id": labels[r["category_id"]]}
                        for r in results
                        if r["image_id"] == image["id"]
                    ]
                ),
            }
            for image in content["images"]
        ]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            found = evaluator.evaluate(images)
        summary = [line for line in printed.getvalue().splitlines() if "Average" in line]
        return repr(found), summary, (out / "coco_instances_results.json").read_bytes()

    return evaluate


@needs_hotcoco
@pytest.mark.parametrize("images", [None, [LARGE + 2, LARGE + 5]])
@pytest.mark.parametrize("limit", [None, 7])
def test_the_evaluator_says_and_saves_the_same(run, images, limit, caplog):
    content, results = random_set(4)
    with caplog.at_level(logging.INFO):
        found = run(content, results, images, max_dets_per_image=limit)
        assert "computes what pycocotools would" in caplog.text
        tables = [r.message for r in caplog.records if "\n|" in r.message]
        caplog.clear()
        assert found == run(content, results, images, max_dets_per_image=limit, use_fast_impl=False)
        assert "hotcoco" not in caplog.text
    assert tables == [r.message for r in caplog.records if "\n|" in r.message]
    assert len(tables) == 6  # of metrics and of classes, for each task
    assert len(found[1]) == 34


@needs_hotcoco
def test_a_class_that_the_data_set_lacks_is_named(run):
    content, results = random_set(6, images=3)
    content["categories"].pop()  # no object has it
    results = [result for result in results if result["category_id"] < 30]
    unknown = {**results[0], "category_id": 40}
    labels = {40: 3}
    with pytest.raises(AssertionError, match=r"class=3, but the dataset only has 3 classes"):
        run(content, [*results, unknown], more_labels=labels)


@needs_hotcoco
def test_no_detections_give_the_same(run):
    content, _ = random_set(5)
    assert run(content, []) == run(content, [], use_fast_impl=False)


@needs_hotcoco
@pytest.mark.parametrize("key", ["score", "bbox", "keypoints"])
def test_what_is_not_finite_is_left_to_pycocotools(run, key, caplog):
    content, results = random_set(6)
    for result in results[::9]:
        result[key] = float("nan") if key == "score" else [float("nan"), *result[key][1:]]
    found = run(content, results)
    assert f"failed, pycocotools takes over: ValueError('a {key} is not finite')" in caplog.text
    assert found[:2] == run(content, results, use_fast_impl=False)[:2]


@pytest.mark.parametrize("error", [RuntimeError, type("PanicException", (BaseException,), {})])
def test_pycocotools_goes_on_where_the_library_fails(run, error, monkeypatch, caplog):
    def fail(*_):
        raise error("broken")

    content, results = random_set(7)
    monkeypatch.setattr(coco_module, "find_compiled_version", lambda: "1.3.0")
    monkeypatch.setattr(coco_module, "evaluate_compiled", fail)
    found = run(content, results)
    messages = [r.message for r in caplog.records if "hotcoco 1.3.0 failed" in r.message]
    assert [message.split(":")[0] for message in messages] == list(TASKS)
    assert found == run(content, results, use_fast_impl=False)


def test_an_interruption_is_no_failure_of_the_library(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco_module, "find_compiled_version", lambda: "1.3.0")
    monkeypatch.setattr(coco_module, "evaluate_compiled", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(*random_set(8, images=3))


def test_without_the_library_pycocotools_evaluates(run, monkeypatch, caplog):
    content, results = random_set(9)
    monkeypatch.setattr(coco_module, "find_compiled_version", lambda: None)
    with caplog.at_level(logging.INFO):
        found = run(content, results)
    assert "Falling back to official COCO eval" in caplog.text
    assert "hotcoco" not in caplog.text
    assert found == run(content, results, use_fast_impl=False)


@needs_hotcoco
def test_no_garbage_is_collected_during_an_evaluation(run, monkeypatch):
    seen = []

    def record(*arguments):
        seen.append(gc.isenabled())
        evaluate_compiled(*arguments)

    monkeypatch.setattr(coco_module, "evaluate_compiled", record)
    run(*random_set(0))
    assert seen == [False] * len(TASKS)
    assert gc.isenabled()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco_module, "evaluate_compiled", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(*random_set(0))
    assert gc.isenabled()
