"""What cannot be computed is NaN in Python and null in every file; its key is there always."""

import json
import math

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from support import register_json

from mask_rcnn_ext import get_cfg
from mask_rcnn_ext.engine.metrics import MetricsWriter
from mask_rcnn_ext.engine.results import write_results
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator

NAME, SIZE, BOX = "nothing_to_measure", (48, 64), [8, 8, 20, 20]
KEYS = {
    "bbox": ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog"],
    "keypoints": ["AP", "AP50", "AP75", "APm", "APl", "AP-cat", "AP-dog"],
    "segm": ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog"],
}


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not json")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def evaluate(tmp_path, forget_data_sets):
    """Return a function that evaluates detections, or none, on an image with given objects."""
    DatasetCatalog.register(NAME, lambda: [])

    def run(objects, detected, *, proposals=False, images=1, **options):
        content = {
            "images": [{"id": 7, "height": SIZE[0], "width": SIZE[1], "file_name": "a.png"}],
            "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        }
        if objects is not None:
            content["annotations"] = [_annotate(n, c) for n, c in enumerate(objects)]
        register_json(NAME, tmp_path / "truth.json", content)
        evaluator = MaskRCNNCOCOEvaluator(
            NAME, tuple(KEYS), output_dir=None, kpt_oks_sigmas=(0.1,), **options
        )
        evaluator.reset()
        for _ in range(images):
            output = _propose() if proposals else _detect(detected)
            evaluator.process([{"image_id": 7}], [output])
        return evaluator.evaluate()

    return run


def _annotate(number, category):
    x, y, w, h = BOX
    return {
        "id": number, "image_id": 7, "category_id": category, "bbox": BOX, "area": w * h,
        "iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "keypoints": [x, y, 2], "num_keypoints": 1,
    }  # fmt: skip


def _detect(classes):
    x, y, w, h = BOX
    found = Instances(SIZE, pred_boxes=Boxes(torch.tensor([[x, y, x + w, y + h]] * len(classes))))
    found.pred_masks = torch.zeros(len(classes), *SIZE, dtype=torch.bool)
    found.pred_masks[:, y : y + h, x : x + w] = True
    found.scores, found.pred_classes = torch.ones(len(classes)), torch.tensor(classes).long()
    found.pred_keypoints = torch.tensor([[[x + 0.5, y + 0.5, 1.0]]] * len(classes))
    return {"instances": found}


def _propose():
    boxes = Boxes(torch.tensor([[8.0, 8, 28, 28]]))
    return {
        "proposals": Instances(SIZE, proposal_boxes=boxes, objectness_logits=torch.tensor([1.0]))
    }


@pytest.mark.parametrize("limit", [100, 300])
@pytest.mark.parametrize(
    ("objects", "detected", "images", "expected"),
    [
        ([3], [0], 1, 100),
        ([3], [], 1, 0),
        ([], [0], 1, None),
        ([], [], 1, None),
        (None, [0], 1, None),
        (None, [], 1, None),
        ([3], [], 0, None),
    ],
    ids=[
        "all found", "none found", "no objects", "neither objects nor detections",
        "no annotations", "no annotations and no detections", "no images",
    ],
)  # fmt: skip
def test_the_keys_are_the_same_always(
    evaluate, objects, detected, images, expected, limit, tmp_path, capsys
):
    """The object is a small cat: no dog can be found, and nothing of another size."""
    found = evaluate(objects, detected, images=images, max_dets_per_image=limit)
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(tmp_path), "cpu"
    path = write_results(cfg, found, train_seconds=None, eval_seconds=0.0, seed=1)
    with open(path, encoding="utf-8") as file:
        results = strict_json(file.read())
    results.pop("run")
    for task, keys in KEYS.items():
        assert list(results[task]) == keys
        measured = ["AP", "AP50", "AP75", "APs", "AP-cat"]
        assert results[task] == {
            key: expected if expected is None or key not in measured else pytest.approx(expected)
            for key in keys
            if key in measured
        } | {key: None for key in keys if key not in measured}
    assert "-1.000" not in capsys.readouterr().out


@pytest.mark.parametrize("objects", [[3], [], None], ids=["object", "no objects", "no annotations"])
def test_the_recall_of_proposals_has_the_same_keys_always(evaluate, objects):
    found = evaluate(objects, [], proposals=True)
    names = [f"AR{size}@{limit}" for limit in (100, 1000) for size in ("", "s", "m", "l")]
    assert list(found) == ["box_proposals"]
    assert list(found["box_proposals"]) == names
    value = found["box_proposals"]["AR@100"]
    assert value == pytest.approx(100) if objects else math.isnan(value)


def test_metrics_json_has_null_for_what_cannot_be_computed(tmp_path):
    path = tmp_path / "metrics.json"
    writer = MetricsWriter(str(path))
    with EventStorage() as storage:
        storage.put_scalars(
            smoothing_hint=False, **{"segm/AP": math.nan, "loss": 1.5, 'AP-": NaN,': 2.0}
        )
        writer.write()
        writer.close()
    assert strict_json(path.read_text()) == {
        "segm/AP": None, "loss": 1.5, 'AP-": NaN,': 2.0, "iteration": 0
    }  # fmt: skip
