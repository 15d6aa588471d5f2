"""Ids are names: whatever they are, every evaluator measures the same; objects may lack keys."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from overlap_cases import rectangle
from reference.overlap import text_rle
from support import register_json

from mask_rcnn_ext import UserError
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.evaluation.fcis_comparison import FCISComparisonEvaluator
from mask_rcnn_ext.overlap.analysis.tables import read_ap_table
from mask_rcnn_ext.overlap.comparison import compute_metrics, load_results, load_truth, measure

IMAGES, CLASSES, SIZE = 6, 3, (48, 64)
NAME = "any_ids"
_ORDER = [3, 0, 5, 1, 4, 2]

# The n-th image, category or annotation of a data set -> its id.
SCHEMES = {
    "from 1": lambda n: n + 1,
    "from 0": lambda n: n,
    "negative": lambda n: n - 40,
    "2^62": lambda n: 2**62 + n,
    "around 2^63": lambda n: 2**63 - 3 + n,
    "mixed signs and sizes": lambda n: (-1) ** n * (2**63 + n),
    "128 bits": lambda n: 2**127 + n,
    "unordered": lambda n: 2**53 + 7 * (n // 6) + _ORDER[n % 6],
    "texts": lambda n: f"{n:09d}",
    "decimals": lambda n: n + 1.0,
}


@pytest.fixture
def dataset(tmp_path, forget_data_sets):
    """Return a function that registers the data set with ids by a scheme; it returns the path."""

    def register(identify):
        rng = np.random.default_rng(0)
        content = {
            "images": [
                {"id": identify(i), "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.png"}
                for i in range(IMAGES)
            ],
            "categories": [{"id": identify(c), "name": f"class {c}"} for c in range(CLASSES)],
            "annotations": [],
        }
        for n in range(4 * IMAGES):
            x, y = (int(v) for v in rng.integers(0, 24, 2))
            w, h = (int(v) for v in rng.integers(12, 24, 2))
            content["annotations"].append(
                {
                    "id": identify(n),
                    "image_id": identify(n // 4),
                    "category_id": identify(int(rng.integers(CLASSES))),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": text_rle(rectangle(x, y, x + w, y + h, SIZE)),
                    "keypoints": [x + 3, y + 3, 2, x + w - 3, y + h - 3, 2],
                    "num_keypoints": 2,
                }
            )
        path = tmp_path / "truth.json"
        register_json(NAME, path, content)
        return path

    DatasetCatalog.register(NAME, lambda: [])
    return register


def found_in(content, number):
    """Return a model's output on the n-th image: its objects, moved a little, and one too many."""
    rng = np.random.default_rng(number + 1)
    image = content["images"][number]["id"]
    objects = [a for a in content["annotations"] if a["image_id"] == image]
    classes = {c["id"]: n for n, c in enumerate(content["categories"])}
    boxes = [a["bbox"] for a in objects] + [[1, 1, 20, 20]]
    boxes = [[x + int(rng.integers(4)), y + int(rng.integers(4)), w, h] for x, y, w, h in boxes]
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes])
    found = Instances(SIZE, pred_boxes=Boxes(corners.float()))
    found.pred_masks = torch.from_numpy(
        np.stack([rectangle(*(int(v) for v in c), SIZE) for c in corners])
    )
    found.scores = torch.from_numpy(rng.random(len(boxes)))
    found.pred_classes = torch.tensor([*(classes[a["category_id"]] for a in objects), 0])
    ends = [[[x + 3, y + 3, 1], [x + w - 3, y + h - 3, 1]] for x, y, w, h in boxes]
    found.pred_keypoints = torch.tensor(ends).float()
    return found


def measure_all(path, folder):
    """Return the results of every evaluator for the same detections."""
    content = json.loads(path.read_text())
    tasks, sigmas = ("bbox", "keypoints", "segm"), (0.1, 0.1)
    coco, part = (
        MaskRCNNCOCOEvaluator(NAME, tasks=tasks, output_dir=out, kpt_oks_sigmas=sigmas)
        for out in (str(folder), None)
    )
    recall = MaskRCNNCOCOEvaluator(NAME, tasks=("bbox",), output_dir=None)
    overlap = FCISComparisonEvaluator(NAME, None)
    for evaluator in (coco, part, recall, overlap):
        evaluator.reset()
    for number, image in enumerate(content["images"]):
        found, inputs = found_in(content, number), [{"image_id": image["id"]}]
        proposals = Instances(SIZE, proposal_boxes=found.pred_boxes, objectness_logits=found.scores)
        for evaluator in (coco, overlap, part):
            evaluator.process(inputs, [{"instances": found}])
        recall.process(inputs, [{"proposals": proposals}])
    numbers = {**coco.evaluate(), **recall.evaluate(), **overlap.evaluate()}
    numbers["two images"] = part.evaluate(img_ids=[content["images"][n]["id"] for n in (1, 4)])
    results = folder / "coco_instances_results.json"
    entries = json.loads(results.read_text())
    assert {e["image_id"] for e in entries} == {i["id"] for i in content["images"]}
    for task in ("bbox", "segm"):
        numbers[f"table of {task}"] = read_ap_table(path, results, task).compute_ap().tolist()
    truth = load_truth(path)
    numbers["result file"] = compute_metrics(measure(truth, load_results(results, truth)))
    return numbers


@pytest.fixture(scope="module")
def expected():
    return {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_evaluator_gives_the_same_whatever_the_ids_are(dataset, expected, scheme, tmp_path):
    numbers = measure_all(dataset(SCHEMES[scheme]), tmp_path)
    if not expected:
        expected.update(measure_all(dataset(SCHEMES["from 1"]), tmp_path))
        assert 10 < expected["segm"]["AP"] < 90
        assert expected["box_proposals"]["AR@100"] > 10
    assert repr(numbers) == repr(expected)  # to the last digit, NaN included


def test_objects_may_lack_the_keys_that_training_does_not_read(dataset, tmp_path):
    path = dataset(SCHEMES["from 1"])
    expected = measure_all(path, tmp_path)
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"]):
        del annotation["area"]
        annotation["iscrowd"] = None
        if number % 2:
            del annotation["iscrowd"]
    path.write_text(json.dumps(content))
    assert repr(measure_all(path, tmp_path)) == repr(expected)


def test_masks_cannot_be_evaluated_where_objects_have_none(dataset):
    path = dataset(SCHEMES["from 1"])
    content = json.loads(path.read_text())
    del content["annotations"][4]["segmentation"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"any_ids: .* 1 of 24 annotations has no mask .*: 5\."):
        MaskRCNNCOCOEvaluator(NAME, tasks=("bbox", "segm"), output_dir=None)
    MaskRCNNCOCOEvaluator(NAME, tasks=("bbox",), output_dir=None)


def test_an_empty_mask_is_an_object_that_is_missed(dataset):
    path = dataset(SCHEMES["from 1"])

    def measure_ap50():
        content = json.loads(path.read_text())
        evaluator = MaskRCNNCOCOEvaluator(NAME, tasks=("segm",), output_dir=None)
        evaluator.reset()
        for number, image in enumerate(content["images"]):
            inputs = [{"image_id": image["id"]}]
            evaluator.process(inputs, [{"instances": found[number]}])
        return evaluator.evaluate()["segm"]["AP50"]

    content = json.loads(path.read_text())
    found = [found_in(content, number) for number in range(len(content["images"]))]
    whole = measure_ap50()
    content["annotations"][4]["segmentation"] = []
    path.write_text(json.dumps(content))
    assert 0 < measure_ap50() < whole


def test_with_small_ids_the_numbers_are_detectron2s(dataset):
    """Also where detections of several images have equal scores, whose order is up to the ids."""
    path = dataset(lambda n: n + 1 if n < IMAGES // 2 else 100 - n)
    content = json.loads(path.read_text())
    results = []
    for kind in (COCOEvaluator, MaskRCNNCOCOEvaluator):
        evaluator = kind(NAME, tasks=("bbox", "segm"), output_dir=None)
        evaluator.reset()
        for number, image in enumerate(content["images"]):
            found = found_in(content, number)
            found.scores = (4 * found.scores).round() / 4
            evaluator.process([{"image_id": image["id"]}], [{"instances": found}])
        results.append(evaluator.evaluate())
    assert 10 < results[0]["segm"]["AP"] < 90
    assert repr(results[1]) == repr(results[0])
